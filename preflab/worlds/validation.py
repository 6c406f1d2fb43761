"""A validation split: part of what methods learn from, set aside for looking at while they learn.

No final figure touches it, and methods that look at nothing on the way never see it either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from preflab.data.splits import normalised, split_of
from preflab.errors import UserError
from preflab.worlds import World

if TYPE_CHECKING:
    from datasets import Dataset

LEARNT_FROM = ("demonstrations", "pairs", "singles", "prompts")


def with_validation(world: World, fraction: float, seed: int) -> World:
    """Return the world with part of its training rows set aside, as the same world with those rows in their place.

    Rows of one group, and of one prompt where the data have no groups, stay together; other splits stay as they are.

    Args:
        world: as it was built.
        fraction: share of the groups that is set aside.
        seed: decides which.

    Raises:
        UserError: if nothing is left on one side, or training and evaluation share their prompts in this world.
    """
    if world.cut:
        raise UserError(f"the {world.name} world shares its few prompts among all splits; drop validation_fraction")
    kept = _part(world, "train", fraction, seed)
    aside = _part(world, "validation", fraction, seed)
    for name in LEARNT_FROM:
        sizes = [len(part.get(name) or ()) for part in (kept, aside)]
        if len(getattr(world, name) or ()) and not all(sizes) and name != "singles":
            raise UserError(
                f"validation_fraction {fraction} leaves {sizes[0]} {name} to train on and {sizes[1]} to validate with; "
                "give more data, or another fraction"
            )
    counts = {name: len(split) for name, split in aside.items() if name in LEARNT_FROM and split is not None}
    facts = {**world.facts, "validation": {"fraction": fraction, "set aside of the training rows": counts}}
    return replace(world, **kept, facts=facts, validation=replace(world, **aside))


def _part(world: World, side: str, fraction: float, seed: int) -> dict[str, Any]:
    """Return the splits that are learnt from, and what of them was encoded, of one side."""
    shares = {"validation": fraction, "train": 1 - fraction}
    found: dict[str, Any] = {"encoded": dict(world.encoded)}
    for name in LEARNT_FROM:
        split: Dataset | None = getattr(world, name)
        if split is None:
            continue
        rows = [i for i, group in enumerate(_groups(split)) if split_of(f"validation {group}", seed, shares) == side]
        found[name] = split.select(rows)
        if name in world.encoded:
            place = {row: at for at, row in enumerate(rows)}
            groups = world.encoded[name]
            found["encoded"][name] = [g._replace(row=place[g.row]) for g in groups if g.row in place]
    return found


def _groups(split: Dataset) -> Sequence[str]:
    """Return what each row must not be parted from the like of."""
    prompts = [normalised(prompt) for prompt in split["prompt"]]
    given = split["group"] if "group" in split.column_names else [None] * len(prompts)
    return [group or prompt for group, prompt in zip(given, prompts, strict=True)]
