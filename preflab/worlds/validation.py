"""A validation split: part of what methods learn from, set aside for looking at while they learn.

No final figure touches it, and methods that look at nothing on the way never see it either.
"""

from __future__ import annotations

from dataclasses import replace

from preflab.data.splits import split_of
from preflab.errors import UserError
from preflab.worlds import World
from preflab.worlds.resampling import LEARNT_FROM, rows_of_groups, with_rows


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
    kept, aside = (_part(world, side, fraction, seed) for side in ("train", "validation"))
    for name in LEARNT_FROM:
        sizes = [len(getattr(part, name) or ()) for part in (kept, aside)]
        if len(getattr(world, name) or ()) and not all(sizes) and name != "singles":
            raise UserError(
                f"validation_fraction {fraction} leaves {sizes[0]} {name} to train on and {sizes[1]} to validate with; "
                "give more data, or another fraction"
            )
    counts = {name: len(split) for name in LEARNT_FROM if (split := getattr(aside, name)) is not None}
    facts = {**world.facts, "validation": {"fraction": fraction, "set aside of the training rows": counts}}
    return replace(kept, facts=facts, validation=aside)


def _part(world: World, side: str, fraction: float, seed: int) -> World:
    """Return the world with one side of the rows that are learnt from."""
    shares = {"validation": fraction, "train": 1 - fraction}
    rows = {}
    for name in LEARNT_FROM:
        if (split := getattr(world, name)) is not None:
            groups = rows_of_groups(split).items()
            kept = (found for group, found in groups if split_of(f"validation {group}", seed, shares) == side)
            rows[name] = sorted(row for found in kept for row in found)
    return with_rows(world, rows)
