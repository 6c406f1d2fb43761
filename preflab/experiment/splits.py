"""A world's splits as tokens: each encoded once, when it is first asked for."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TypeVar, cast

from preflab.data.encoding import Dropped, EncodedGroup, Encoder
from preflab.data.splits import Rows
from preflab.errors import UserError
from preflab.method.configured import Method
from preflab.method.contract import Needs
from preflab.worlds import World
from preflab.worlds.resampling import bootstrapped, fewer

logger = logging.getLogger(__name__)

S = TypeVar("S", bound="EncodedSplits")

OFFLINE = {"demonstration": "demonstrations", "single": "singles", "pair": "pairs", "ranking": "rankings"}
"""Which split holds the responses that a method asks for."""

LEARNT = {"pairs": "pairs", "demonstrations": "demonstrations", "prompts": "prompt_groups"}
"""What splits that are learnt from are called once they are encoded."""

JUDGED = {"eval_prompts": "prompts", "heldout": "pairs"}
"""The splits that are evaluated on, and those whose rows are set aside for looking at before."""


def reads_reference(method: Method) -> bool:
    """Whether a method's reference scores can be computed beforehand: its data are what the loss sees."""
    needs = method.needs
    ready = needs.responses in ("demonstration", "pair", "ranking") and not needs.rollout
    return "reference" in needs.scores and ready and method.algorithm.kind == "loss"


def keeps_reference(method: Method, rows: int) -> bool:
    """Whether a method's reference scores are computed beforehand, for all the rows of its data.

    A run that reads less than half of them scores what it reads as it goes: a hundred steps on a large file
    should not wait for all of the file. Under a budget nobody knows how far it gets.

    Args:
        method: with its settings.
        rows: how many groups it learns from.
    """
    train = method.train
    if not reads_reference(method) or train.budget is not None:
        return reads_reference(method)
    reads = train.max_steps * train.optimiser_batch if train.max_steps > 0 else train.num_train_epochs * rows
    return 2 * reads >= rows


class EncodedSplits:
    """The splits of a world, encoded.

    Args:
        world: gives the rows, and those splits that it encoded on the way.
        encoder: texts to token ids, within the limits.
    """

    def __init__(self, world: World, encoder: Encoder) -> None:
        self.world, self.encoder = world, encoder
        self._samples: dict[tuple[object, ...], EncodedSplits] = {}

    @cached_property
    def pairs(self) -> list[EncodedGroup]:
        """The preference training set."""
        return self._encoded("pairs", self.encoder.encode_pairs)

    @cached_property
    def rankings(self) -> list[EncodedGroup]:
        """The preference training set with all the ranked responses of each prompt."""
        return self._kept("rankings", *self.encoder.encode_pairs(self.world.pairs, ranked=True))

    @cached_property
    def singles(self) -> list[EncodedGroup]:
        """The preference training set as single responses, desirable or not."""
        rows = [*self.world.pairs, *(self.world.singles or ())]
        return self._kept("singles", *self.encoder.encode_singles(rows))

    @cached_property
    def gold_pairs(self) -> list[EncodedGroup]:
        """The training set of the judge's own reward model."""
        return self._encoded("gold_pairs", self.encoder.encode_pairs)

    @cached_property
    def heldout(self) -> list[EncodedGroup]:
        """The held-out preferences."""
        return self._encoded("heldout", self.encoder.encode_pairs)

    @cached_property
    def demonstrations(self) -> list[EncodedGroup]:
        """The demonstrations."""
        return self._encoded("demonstrations", self.encoder.encode_demonstrations)

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Prompts that on-policy methods sample from."""
        return [group.prompt_ids for group in self.prompt_groups]

    @cached_property
    def prompt_groups(self) -> list[EncodedGroup]:
        """The same, as groups without responses; their rows are the world's."""
        return self._encoded("prompts", self.encoder.encode_prompts)

    @cached_property
    def eval_prompts(self) -> list[EncodedGroup]:
        """Prompts of the evaluation."""
        return self._encoded("eval_prompts", self.encoder.encode_prompts)

    @cached_property
    def validation(self) -> EncodedSplits:
        """Rows set aside for evaluations during training, in the place of those that are learnt from.

        Raises:
            UserError: if there are none.
        """
        if self.world.validation is None:
            raise UserError("there are no training rows set aside to look at; set validation_fraction")
        return EncodedSplits(self.world.validation, self.encoder)

    def at_validation(self: S) -> S:
        """Return the same with the rows set aside in the place of those that are evaluated on.

        Raises:
            UserError: if there are none.
        """
        aside = self.validation.world
        encoded = {name: groups for name, groups in self.world.encoded.items() if name not in JUDGED}
        encoded |= {name: aside.encoded[own] for name, own in JUDGED.items() if own in aside.encoded}
        splits = {name: getattr(aside, own) for name, own in JUDGED.items()}
        return self._of(dataclasses.replace(self.world, **splits, encoded=encoded), JUDGED)

    def drawn_again(self: S, seed: int) -> S:
        """Return the same on a bootstrap sample of what is learnt from (`preflab.worlds.resampling.bootstrapped`)."""
        return self._sample(("drawn again", seed), lambda world: bootstrapped(world, seed))

    def with_fewer(self: S, fraction: float, seed: int) -> S:
        """Return the same on part of the preferences (`preflab.worlds.resampling.fewer`)."""
        return self._sample(("fewer", fraction, seed), lambda world: fewer(world, fraction, seed))

    def _sample(self: S, name: tuple[object, ...], draw: Callable[[World], World]) -> S:
        """Return the same on other rows to learn from, drawn once for each name; no pair is encoded again."""
        if name not in self._samples:
            known = {split: vars(self)[own] for split, own in LEARNT.items() if own in vars(self)}
            world = draw(dataclasses.replace(self.world, encoded={**self.world.encoded, **known}))
            self._samples[name] = self._of(world, (*LEARNT.values(), "prompts", "rankings", "singles"))
        return cast("S", self._samples[name])

    def _of(self: S, world: World, names: Iterable[str]) -> S:
        """Return the same of another world, without what was worked out of these splits of its own."""
        other = copy.copy(self)
        other.world, other._samples = world, {}
        for name in (*names, "data"):
            vars(other).pop(name, None)
        return other

    def learnt_from(self, name: str, needs: Needs) -> Sequence[EncodedGroup] | None:
        """Return the rows that a method learns from; None where it samples.

        Args:
            name: what to call it in messages.
            needs: of the method.

        Raises:
            UserError: if there are no such rows.
        """
        split = OFFLINE.get(needs.responses)
        rows: list[EncodedGroup] | None = getattr(self, split) if split else None
        if rows is not None and not rows:
            raise UserError(f"{name} learns from {split}, and the training data have none")
        return rows

    def _encoded(self, name: str, encode: Callable[[Rows], tuple[list[EncodedGroup], Dropped]]) -> list[EncodedGroup]:
        """Return a split as the world encoded it, or encode it now."""
        return self.world.encoded[name] if name in self.world.encoded else self._kept(name, *encode(self._split(name)))

    def _split(self, name: str) -> Rows:
        found: Rows = getattr(self.world, name)
        return found

    def _kept(self, name: str, groups: list[EncodedGroup], dropped: dict[str, int]) -> list[EncodedGroup]:
        if any(dropped.values()):
            logger.warning("%s: dropped %s of %d", name, dropped, len(groups) + sum(dropped.values()))
        return groups
