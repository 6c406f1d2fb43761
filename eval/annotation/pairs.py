"""The pairs that people judge: two models' samples on the same prompts, or those of a preference file."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from preflab.data.asked import conversation
from preflab.disk.journal import read_rows as read_objects
from preflab.errors import UserError
from preflab.errors.terminal import one_line
from preflab.eval.annotation.settings import AnnotateConfig
from preflab.eval.judges.verdicts import Key, pair_key


class Pair(NamedTuple):
    """Two responses to a prompt, with the names of the models where they are known.

    Attributes:
        prompt: as a reader sees it.
        first: one response.
        second: the other one.
        names: of the models.
        messages: the prompt as such, where a chat template wrote it.
    """

    prompt: str
    first: str
    second: str
    names: tuple[str, str] | None = None
    messages: list[dict[str, Any]] | None = None

    @property
    def key(self) -> Key:
        """The same for both orders."""
        return pair_key(*self[:3])[0]


def pairs_to_judge(config: AnnotateConfig) -> list[Pair]:
    """Return each pair once, drawn by the seed where not all are wanted; equal responses are ties that need nobody.

    Raises:
        UserError: for files that cannot be read or do not match, and where no two responses differ.
    """
    found = sample_pairs(config.samples) if config.samples else preference_pairs(str(config.pairs))
    pairs = drawn(found, config.seed, config.limit)
    if not pairs:
        raise UserError("there is no pair to judge: no two responses differ")
    return pairs


def drawn(pairs: Iterable[Pair], seed: int, limit: int | None) -> list[Pair]:
    """Return at most `limit` of the pairs whose responses differ, each once."""
    distinct = {pair.key: pair for pair in pairs if pair.first.strip() != pair.second.strip()}
    order = sorted(distinct)  # so that the draw depends on the seed, not on the file's order
    random.Random(seed).shuffle(order)
    return [distinct[key] for key in order][:limit]


def sample_pairs(samples: tuple[str, ...]) -> Iterator[Pair]:
    """Read two models' responses to the same prompts.

    Raises:
        UserError: for another number of files, or files that do not match.
    """
    named = [item.partition("=") for item in samples]
    if len(named) != 2 or not all(name and file for name, _, file in named):
        raise UserError("--samples needs the form first=FILE,second=FILE")
    (name, _, first), (other, _, second) = named
    tables = [list(sample_rows(Path(file).expanduser())) for file in (first, second)]
    if len(tables[0]) != len(tables[1]):
        raise UserError(f"--samples: {first} has {len(tables[0])} rows, {second} has {len(tables[1])}")
    for row, (one, two) in enumerate(zip(*tables, strict=True), 1):
        if one["prompt"] != two["prompt"]:
            raise UserError(f"--samples: row {row} answers another prompt in {second} than in {first}")
        messages = one.get("messages") or two.get("messages")
        yield Pair(conversation(one["prompt"], messages), one["response"], two["response"], (name, other), messages)


def sample_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read rows that have prompt and response.

    Raises:
        UserError: if one is missing.
    """
    for number, row in enumerate(read_objects(path), 1):
        prompt, response = row.get("prompt"), row.get("response")
        if not isinstance(prompt, str) or not isinstance(response, str):
            raise UserError(f"{path}, row {number}: needs 'prompt' and 'response' as text")
        yield row


def preference_pairs(source: str) -> Iterator[Pair]:
    """Read the pairs of a preference file; unusable rows are counted and left out."""
    from preflab.data.formats import preference_rows
    from preflab.data.reading import read_rows

    rows, bad = preference_rows(read_rows(source), source=source)
    if bad.total:
        print(one_line(f"left out of {source}: {bad.summary()}"), file=sys.stderr)
    for row in rows:
        if "chosen" in row:
            yield Pair(row["prompt"], row["chosen"], row["rejected"])
