"""What a stage would take: steps, tokens, arithmetic, memory and disk, from its settings and the rows that it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.experiment.splits import keeps_reference
from preflab.method.configured import Method
from preflab.method.contract import Batch, Role
from preflab.planning.arithmetic import Arithmetic
from preflab.planning.footprint import Footprint, Sketch
from preflab.scoring.batching import rows_at_once
from preflab.settings.training import TrainConfig
from preflab.training.arguments import total_steps
from preflab.training.offline import OfflineSource, mismatched

if TYPE_CHECKING:
    from preflab.planning.pace import Pace

ENOUGH = 256
"""Rows, spread over the data, whose mean length stands for all."""

LOOKED_AT = 256
"""Optimiser steps whose rows are looked at for the longest micro-batch."""

SEQUENCES = 512
"""Responses that the sampler draws together at the most."""


class Cost(NamedTuple):
    """What a stage takes.

    Attributes:
        steps: optimiser steps; None where a budget of time ends it.
        prompts: that go through training passes, as often as they do.
        tokens: that go through training passes.
        sampled: response tokens drawn, at the most.
        training: FLOPs of passes there and back.
        scoring: FLOPs of passes without a way back.
        drawing: FLOPs of drawing.
        memory: what it holds at its peak while it trains; None where it does not, or nobody knows.
        drawn_with: bytes that sampling takes beside the weights.
        largest: the micro-batch that memory is told by.
        disk: bytes that it leaves, and that its checkpoints take meanwhile.
    """

    steps: int | None = 0
    prompts: int = 0
    tokens: int = 0
    sampled: int = 0
    training: float = 0
    scoring: float = 0
    drawing: float = 0
    memory: Footprint | None = None
    drawn_with: int = 0
    disk: int = 0
    largest: Batch[Any] | None = None

    @property
    def flops(self) -> float:
        """All of them."""
        return self.training + self.scoring + self.drawing

    @property
    def peak(self) -> int | None:
        """Bytes at the peak of training or sampling; None where nobody knows."""
        if self.memory is None:
            return None
        return self.memory.total - self.memory.passes + max(self.memory.passes, self.drawn_with)

    def beside(self, other: Cost) -> Cost:
        """Return this with the arithmetic of another, whose memory is no more."""
        return self._replace(scoring=self.scoring + other.scoring)

    def then(self, other: Cost) -> Cost:
        """Return what both take, one after the other, where neither trains: memory is that of the larger."""
        larger = max(self, other, key=lambda cost: cost.peak or 0)
        return larger._replace(
            sampled=self.sampled + other.sampled,
            scoring=self.scoring + other.scoring,
            drawing=self.drawing + other.drawing,
            disk=self.disk + other.disk,
        )

    def seconds(self, pace: Pace) -> float:
        """Return how long all this takes at a pace."""
        return self.training / pace.training + self.scoring / pace.scoring + self.drawing / pace.drawing


class Costing:
    """Foretells stages of one model.

    Args:
        sketch: the model.
        limit: tokens of a sampled response at the most.
        cloned_reference: whether the reference has an adapter of its own; else it is the bare base.
    """

    def __init__(self, sketch: Sketch, limit: int, *, cloned_reference: bool) -> None:
        self.sketch, self.limit, self.cloned_reference = sketch, limit, cloned_reference

    @cached_property
    def arithmetic(self) -> Arithmetic:
        """FLOPs of passes."""
        return Arithmetic(self.sketch)

    # ---- training --------------------------------------------------------------------------------

    def offline(self, method: Method, groups: Sequence[EncodedGroup], seed: int) -> Cost:
        """Return what a method takes that learns from rows."""
        train, needs = method.train, method.needs
        source = OfflineSource(groups, train, 0, seed)
        rows = list(mismatched(groups)) if needs.responses == "single" else list(groups)
        batch, share = self._sample(rows)
        cached: tuple[Role, ...] = ("reference",) if keeps_reference(method, len(groups)) else ()
        each, scoring = self._loss(batch, method, cached), self.arithmetic.scoring(batch, needs.rollout)
        read = train.optimiser_batch * share
        steps = _steps(train, source, tokens=_tokens(batch) * read, flops=(each + scoring) * read)
        if steps is None:
            return Cost(None)
        seen = steps * read
        largest = self.worst(source, rows, steps)
        return Cost(
            steps=steps,
            prompts=steps * train.optimiser_batch,
            tokens=int(_tokens(batch) * seen),
            training=each * seen,
            scoring=scoring * seen,
            memory=self._memory(method, largest, [r for r in self._present(method, 1) if r not in cached]),
            disk=self._disk(method),
            largest=largest,
        )

    def reference(self, groups: Sequence[EncodedGroup]) -> Cost:
        """Return what the reference's log-probabilities of all rows take, which methods then share."""
        batch, share = self._sample(groups)
        return Cost(
            scoring=self.arithmetic.scoring(batch, ("reference",)) * share * len(groups),
            disk=4 * sum(len(ids) for group in groups for ids in group.response_ids),  # in float32
        )

    def on_policy(self, method: Method, prompts: Sequence[EncodedGroup], length: int, *, reward_models: int) -> Cost:
        """Return what a method takes that samples, where responses have so many tokens."""
        train, config = method.train, method.config
        per_rollout, k = config.steps_per_rollout(train), config.samples_per_prompt
        source: Any = _Paced(math.ceil(len(prompts) / config.rollout_prompts) * per_rollout)
        batch, share = self._sample(answered(prompts, k, length))
        # A rollout of one step is not scored again by the policy that drew it (`RolloutSource`).
        drawn_only = per_rollout == 1 and not method.needs.joint and self.sketch.exact and not train.bf16
        scoring_roles = [role for role in method.needs.rollout if not (drawn_only and role == "policy")]
        roles = [r for r in scoring_roles for _ in range(reward_models if r == "reward" else 1)]
        each, scoring, drawing = (
            self._loss(batch, method),
            self.arithmetic.scoring(batch, roles),
            self.arithmetic.drawing(batch),
        )
        read, asked = train.optimiser_batch * share, config.rollout_prompts / per_rollout * share
        flops = each * read + (scoring + drawing) * asked
        steps = _steps(train, source, tokens=_tokens(batch) * read, flops=flops)
        if steps is None:
            return Cost(None)
        rollouts = math.ceil(steps / per_rollout) * config.rollout_prompts
        seen, drawn = steps * read, rollouts * share
        micro = train.micro_batch
        longest = sorted(prompts, key=lambda group: len(group.prompt_ids))[-micro:]
        largest = collate(answered(longest, k, self.limit), 0)
        return Cost(
            steps=steps,
            prompts=steps * train.optimiser_batch,
            tokens=int(_tokens(batch) * seen),
            sampled=rollouts * k * length,
            training=each * seen,
            scoring=scoring * drawn,
            drawing=drawing * drawn,
            memory=self._memory(method, largest, self._present(method, reward_models)),
            drawn_with=self.drawing(config.rollout_prompts, k, len(longest[-1].prompt_ids), micro),
            disk=self._disk(method),
            largest=largest,
        )

    def worst(self, source: OfflineSource, rows: Sequence[EncodedGroup], steps: int) -> Batch[Any]:
        """Return the longest micro-batch among those that the first steps read."""
        micro, size = source.train.micro_batch, source.train.optimiser_batch
        read = source.order.take(0, size * min(steps, LOOKED_AT))
        parts = [[rows[row] for row in read[at : at + micro]] for at in range(0, len(read), micro)]
        return collate(max(parts, key=lambda part: sum(map(_length, part))), 0)

    def _loss(self, batch: Batch[Any], method: Method, at_hand: Sequence[Role] = ()) -> int:
        recomputes = method.train.gradient_checkpointing is True
        return self.arithmetic.training(batch, method.needs, recomputes=recomputes, at_hand=at_hand)

    def _memory(self, method: Method, batch: Batch[Any], present: Sequence[Role]) -> Footprint:
        train = method.train
        twice = train.gradient_checkpointing is True
        return self.sketch.footprint(
            batch, method.needs, roles=present, checkpointing=twice, bf16=train.bf16, optim=train.optim
        )

    def _present(self, method: Method, reward_models: int) -> list[Role]:
        """Return the roles that have an adapter of their own, a reward model once for each there is."""
        needs = method.needs
        times = {"value": 0 if needs.joint else 1, "reference": int(self.cloned_reference), "reward": reward_models}
        if "reward" in needs.trains:
            times["reward"] = 1
        named = dict.fromkeys(("policy", *needs.trains, *needs.scores, *needs.rollout))
        return [role for role in named for _ in range(times.get(role, 1))]

    def _disk(self, method: Method) -> int:
        adapters = sum(map(self.sketch.adapter, method.needs.trains))
        return adapters * (1 + (3 if method.train.save_steps else 0))  # a checkpoint holds two moments besides

    # ---- evaluation ------------------------------------------------------------------------------

    def answering(self, prompts: Sequence[EncodedGroup], length: int, *, samples: int, size: int) -> Cost:
        """Return what so many answers to each prompt take, each scored by policy, reference, reward and judge."""
        batch, share = self._sample(answered(prompts, 1, length))
        drawn = len(prompts) * samples * share
        longest = max(len(group.prompt_ids) for group in prompts)
        roles: tuple[Role, ...] = ("policy", "reference", "reward", "reward")
        return Cost(
            sampled=len(prompts) * samples * length,
            scoring=self.arithmetic.scoring(batch, roles) * drawn,
            drawing=self.arithmetic.drawing(batch) * drawn,
            memory=Footprint(self.sketch.base, sum(map(self.sketch.adapter, roles)), 0, 0, 0),
            drawn_with=self.drawing(size, 1, longest, size),
        )

    def judging(self, pairs: Sequence[EncodedGroup], policies: int) -> Cost:
        """Return what it takes that policies and the reference score held-out pairs."""
        if not pairs:
            return Cost()
        batch, share = self._sample(pairs)
        return Cost(scoring=self.arithmetic.scoring(batch, ("policy", "reference")) * share * len(pairs) * policies)

    # ---- what all that rests on --------------------------------------------------------------------

    def ways(self, method: Method, cost: Cost, free: int) -> tuple[str, ...]:
        """Return the smallest changes of settings under which a stage's passes fit in the memory that is free."""
        assert cost.memory is not None
        assert cost.peak is not None
        saved = self.sketch.base - self.sketch.base_in("4bit")
        found = ["load_in 4bit"] if saved > 0 and cost.peak - saved <= free else []
        still, train = cost.memory.total - cost.memory.passes, method.train
        if still + cost.drawn_with > free:
            return tuple(found) or ("a smaller model, or more memory: weights and sampling alone do not fit",)
        for twice in (False, True):
            size = self._fitting(method, cost.largest, free - still, twice)
            if size:
                parts = train.optimiser_batch // size
                said = f"per_device_train_batch_size {size} with gradient_accumulation_steps {parts}"
                found.append(f"gradient_checkpointing true, {said}" if twice else said)
        return tuple(found) or ("shorter limits (--max-prompt-tokens, --max-response-tokens)",)

    def _fitting(self, method: Method, batch: Batch[Any] | None, free: int, twice: bool) -> int:
        """Return how many rows of a micro-batch, halved and halved again, fit in so many bytes; 0 if not one does."""
        assert batch is not None
        size, train = len(batch.prompt_ids), method.train
        longest = (batch.prompt_mask.sum(1) + batch.response_mask.sum((1, 2))).argsort(descending=True)
        while size:
            part = batch.rows(longest[:size])
            kept = self.sketch.passes(part, method.needs.trains, checkpointing=twice, bf16=train.bf16)
            if self.sketch.held(kept, len(method.needs.trains), recomputed=twice) <= free:
                return size
            size //= 2
        return 0

    def typical(self, rows: Sequence[EncodedGroup], micro: int) -> Batch[Any]:
        """Return a micro-batch of rows from all over the data; prompts get an answer."""
        given = [group if group.response_ids else answered([group], 1, self.limit)[0] for group in rows]
        step = max(1, len(given) // micro)
        return collate([said_nothing(group) for group in given[::step][:micro]], 0)

    def rows_drawn(self) -> int:
        """Return how many responses are usually drawn together."""
        return min(64, SEQUENCES)

    def drawing(self, prompts: int, k: int, longest: int, batch_size: int) -> int:
        """Return the bytes that sampling takes beside the weights, as `TransformersSampler` cuts it up."""
        size = rows_at_once(SEQUENCES, longest + self.limit, batch_size)
        return self.sketch.sampling(min(prompts, max(1, size // k)), min(k, size), longest, self.limit)

    def _sample(self, groups: Sequence[EncodedGroup]) -> tuple[Batch[Any], float]:
        """Return rows spread over the data, and the share that one row is of them."""
        step = max(1, len(groups) // ENOUGH)
        some = [said_nothing(group) for group in groups[::step]]
        return collate(some, 0), 1 / len(some)


class _Paced(NamedTuple):
    """What `total_steps` asks of a source."""

    steps_per_epoch: int


def _steps(train: TrainConfig, source: Any, **spent: float) -> int | None:
    """Return the optimiser steps of a run, under a budget by what one spends; None where that is time."""
    if train.budget is None:
        return total_steps(train, source)
    return None if train.budget_kind == "time" else max(1, math.ceil(train.budget / spent[train.budget_kind]))


def answered(prompts: Sequence[EncodedGroup], k: int, length: int) -> list[EncodedGroup]:
    """Return the prompts with k responses of so many tokens."""
    return [EncodedGroup(group.prompt_ids, [[1] * length] * k, group.row) for group in prompts]


def said_nothing(group: EncodedGroup) -> EncodedGroup:
    """Return a group of which nothing is said."""
    return group._replace(feedback={})


def _length(group: EncodedGroup) -> int:
    return len(group.prompt_ids) + sum(map(len, group.response_ids))


def _tokens(batch: Batch[Any]) -> int:
    return int(batch.prompt_mask.sum() + batch.response_mask.sum())
