"""Clean rows as data: paired, split by prompt, checked for leaks, fingerprinted.

`preflab.data.formats` makes the rows, `preflab.data.encoding` turns them into token ids. Datasets is imported
where it is used: checking a config does not need it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from preflab.data.dialogues import first_human_turn
from preflab.data.reading import BATCH, Row, rows_of
from preflab.disk.digests import digest, digest_of_parts

if TYPE_CHECKING:
    from datasets import Dataset

Rows = Iterable[Mapping[str, Any]]  # a Dataset, or a list of rows


def normalised(text: str) -> str:
    """Return text as it counts for "the same prompt": case folded, white space collapsed."""
    return " ".join(text.casefold().split())


def group_key(prompt: str | list[dict[str, Any]]) -> str:
    """Return what prompts of one dialogue share: the normalised first human turn, else all of it."""
    if not isinstance(prompt, str):
        said = [m["content"] for m in prompt if m["role"] == "user" and m["content"].strip()]
        return normalised(said[0] if said else " ".join(m["content"] for m in prompt))
    return normalised(first_human_turn(prompt) or prompt)


def paired(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Make pairs of unpaired responses to one prompt: its first desirable with its first undesirable one, and so on.

    Args:
        rows: ``prompt, response, desirable`` and whatever else (a pair keeps that of its desirable row).

    Returns:
        Rows with ``chosen`` and ``rejected``, and the rows left without a partner.
    """
    prompts: dict[str, dict[bool, list[Row]]] = {}
    for row in rows:
        prompts.setdefault(row["prompt"], {True: [], False: []})[row["desirable"]].append(row)
    pairs: list[Row] = []
    singles: list[Row] = []
    for good, bad in ((sides[True], sides[False]) for sides in prompts.values()):
        shared = min(len(good), len(bad))
        for chosen, rejected in zip(good[:shared], bad[:shared], strict=True):
            if chosen["response"].strip() == rejected["response"].strip():  # one text with both labels
                singles += chosen, rejected
                continue
            rest = {name: value for name, value in chosen.items() if name not in ("response", "desirable")}
            pairs.append({**rest, "chosen": chosen["response"], "rejected": rejected["response"]})
        singles += good[shared:] + bad[shared:]
    return pairs, singles


def split_of(key: str, seed: int, fractions: Mapping[str, float]) -> str:
    """Return the split of a group; it depends on nothing but the arguments, so more data moves no group.

    Args:
        key: the group's name; all rows of a group land in one split.
        seed: another seed gives other splits.
        fractions: split name to share, in a fixed order; shares sum to 1.
    """
    position, edge = int(digest(f"{seed}\n{key}", 16), 16) / 2**64, 0.0
    for name, share in fractions.items():
        edge += share
        if position < edge:
            return name
    return next(reversed(list(fractions)))  # only rounding of the sum leads here


def check_leak(train: Iterable[Row], heldout: Iterable[Row]) -> tuple[list[Row], int]:
    """Drop held-out rows whose prompt or group is in `train`; return the rest and how many were dropped."""
    seen = {key for row in train for key in (normalised(row["prompt"]), row["group"])}
    rows = list(heldout)
    kept = [row for row in rows if normalised(row["prompt"]) not in seen and row["group"] not in seen]
    return kept, len(rows) - len(kept)


def fingerprint(dataset: Rows) -> str:
    """Return 16 hex digits of SHA-256 over all rows, in order."""
    lines = (json.dumps(row, sort_keys=True, ensure_ascii=True, default=str) + "\n" for row in each_row(dataset))
    return digest_of_parts(map(str.encode, lines), 16)


def each_row(dataset: Rows) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a data set or a list; a data set's by many at a time, since one by one each is converted."""
    if isinstance(dataset, (list, tuple)):
        yield from dataset
        return
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        yield from dataset
        return
    for batch in dataset.iter(batch_size=BATCH):
        yield from rows_of(batch)


def to_dataset(rows: Sequence[Row], columns: Sequence[str] = ("prompt", "chosen", "rejected")) -> Dataset:
    """Return rows as a `datasets.Dataset` with these columns and any other that a row has."""
    from datasets import Dataset

    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
