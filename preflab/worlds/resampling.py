"""Other samples of the rows that are learnt from: drawn again as a second collection would draw them, or fewer of them.

Rows of one group, and of one prompt where the data have no groups, stay together. What is evaluated on stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from preflab.data.splits import normalised
from preflab.disk.digests import digest
from preflab.errors import UserError
from preflab.worlds import World

if TYPE_CHECKING:
    from datasets import Dataset

LEARNT_FROM = ("demonstrations", "pairs", "singles", "prompts")
PREFERENCES = ("pairs", "singles")


def bootstrapped(world: World, seed: int) -> World:
    """Return the world with as many groups to learn from as it has, drawn with replacement (Efron 1979).

    Groups that are in the same splits are drawn among themselves, so that every split keeps its number of groups. On
    average 63 % of the groups are drawn, some several times.

    Args:
        world: as it was built.
        seed: decides which.

    Raises:
        UserError: if training and evaluation share their prompts in this world.
    """
    from preflab.seeds import derive  # which imports torch

    check_apart(world)
    rows = {name: rows_of_groups(split) for name in LEARNT_FROM if (split := getattr(world, name)) is not None}
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for group in sorted({group for found in rows.values() for group in found}):
        alike[tuple(name for name, found in rows.items() if group in found)].append(group)
    generator = np.random.default_rng(derive(seed, "preferences"))
    drawn = [groups[i] for groups in alike.values() for i in generator.integers(len(groups), size=len(groups))]
    return with_rows(world, {name: _rows(found, drawn) for name, found in rows.items()})


def fewer(world: World, fraction: float, seed: int) -> World:
    """Return the world with the preferences of part of its groups; smaller parts are inside larger ones.

    Demonstrations of groups that are left out go with them, as they are such groups' chosen responses. Those of other
    groups stay, and so do the prompts that are sampled from, which bear no preference.

    Args:
        world: as it was built.
        fraction: of the groups that have preferences, above 0; at least one is left.
        seed: decides which.

    Raises:
        UserError: if training and evaluation share their prompts in this world.
    """
    check_apart(world)
    rows = {name: rows_of_groups(split) for name in PREFERENCES if (split := getattr(world, name)) is not None}
    groups = sorted({group for found in rows.values() for group in found}, key=lambda group: digest(f"{seed} {group}"))
    dropped = set(groups[max(1, round(fraction * len(groups))) :])
    rows["demonstrations"] = rows_of_groups(world.demonstrations)
    # In their own order, which is that of training without a seed.
    return with_rows(
        world, {name: sorted(_rows(found, (g for g in found if g not in dropped))) for name, found in rows.items()}
    )


def with_rows(world: World, rows: Mapping[str, Sequence[int]]) -> World:
    """Return the world with these rows of some splits, in this order, and what of them was encoded.

    Args:
        world: as it was built.
        rows: places in each split; one that is named twice is there twice.
    """
    encoded = dict(world.encoded)
    for name in rows.keys() & encoded.keys():
        at = {group.row: group for group in encoded[name]}  # rows over a limit have none
        encoded[name] = [at[row]._replace(row=place) for place, row in enumerate(rows[name]) if row in at]
    splits: dict[str, Any] = {name: getattr(world, name).select(chosen) for name, chosen in rows.items()}
    return dataclasses.replace(world, **splits, encoded=encoded)


def rows_of_groups(split: Dataset) -> dict[str, list[int]]:
    """Return the rows of a split by what they must not be parted by: their group, or else their prompt."""
    prompts = [normalised(prompt) for prompt in split["prompt"]]
    given = split["group"] if "group" in split.column_names else [None] * len(prompts)
    found: dict[str, list[int]] = defaultdict(list)
    for row, (group, prompt) in enumerate(zip(given, prompts, strict=True)):
        found[group or prompt].append(row)
    return dict(found)


def _rows(found: Mapping[str, Sequence[int]], groups: Iterable[str]) -> list[int]:
    return [row for group in groups for row in found.get(group, ())]


def check_apart(world: World) -> None:
    """Refuse a world whose training and evaluation share their prompts.

    Raises:
        UserError: naming it.
    """
    if world.cut:
        raise UserError(
            f"the {world.name} world shares its few prompts among all splits; its preferences are not drawn again"
        )
