"""Pairs of responses judged by a person in a terminal, blind; each verdict is on disk before the next pair is shown."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.data.asked import conversation
from preflab.disk.journal import Journal
from preflab.disk.journal import read_rows as read_objects
from preflab.errors import UserError
from preflab.errors.terminal import console, one_line, printable, say
from preflab.eval.judges.verdicts import Key, pair_key, preference_data, read_verdicts, verdicts_of
from preflab.settings.fields import option
from preflab.settings.values import LARGEST_SEED

if TYPE_CHECKING:
    from rich.console import Console

HINT = "[1] or [2] is better   [t]ie   [s]kip   [u]ndo   [q]uit"
WORDS = {"tie": "t", "skip": "s", "undo": "u", "quit": "q"}
KEYS = {"1": "1", "2": "2", **WORDS, **{key: key for key in WORDS.values()}}
WIDTH = 100


@dataclass(frozen=True)
class AnnotateConfig:
    """What is judged, by whom, and where the verdicts go."""

    samples: tuple[str, ...] = option((), "two models' samples.jsonl on the same prompts: first=FILE,second=FILE")
    pairs: str | None = option(None, "preference file (json, jsonl, csv, parquet) whose pairs are judged afresh")
    output: str = option("verdicts.jsonl", "file of verdicts; those in it are not asked for again")
    export: str | None = option(None, "file to write the verdicts to as preference data: prompt, chosen, rejected")
    annotator: str = option("human", "name that the verdicts are given under")
    seed: int = option(0, "seed of the order of pairs and of the responses' places", minimum=0, maximum=LARGEST_SEED)
    limit: int | None = option(None, "at most this many pairs, drawn by the seed", minimum=1)

    def __post_init__(self) -> None:
        if bool(self.samples) == bool(self.pairs) and (self.samples or not self.export):
            raise ValueError("give either samples or pairs (or export alone, to write verdicts as preference data)")
        files = (self.output, self.pairs, *(item.partition("=")[2] for item in self.samples))
        if self.export and Path(self.export).expanduser().is_dir():
            raise ValueError(f"export {self.export} is a folder; name a file in it")
        if self.export and any(file and _same_file(self.export, file) for file in files):
            raise ValueError(f"export {self.export} would overwrite what is read; choose another file")


def _same_file(one: str, other: str) -> bool:
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


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


def judge_pairs(config: AnnotateConfig) -> None:
    """Show each pair that this annotator has not judged, and write each verdict.

    Raises:
        UserError: for files that cannot be read or do not match, and where there is nobody or nothing to ask.
    """
    pairs = list(sample_pairs(config.samples) if config.samples else preference_pairs(str(config.pairs)))
    with closing(Journal(Path(config.output).expanduser())) as journal:
        annotate(pairs, journal, config)


def export(config: AnnotateConfig) -> None:
    """Write the verdicts as preference data.

    Raises:
        UserError: if the file cannot be written.
    """
    from preflab.disk.files import write_jsonl

    rows, ties = preference_data(read_verdicts(Path(config.output).expanduser()))
    try:
        write_jsonl(Path(str(config.export)).expanduser(), rows)
    except UserError as error:
        raise UserError(f"--export {config.export} cannot be written: {error}") from None
    say(f"{len(rows)} preferences written to {config.export}; {ties} ties left out")


# ---- pairs ---------------------------------------------------------------------------------------


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


def to_judge(pairs: Iterable[Pair], config: AnnotateConfig) -> list[Pair]:
    """Return each pair once, in the annotator's order; equal responses are ties that need no one's time."""
    distinct = {pair.key: pair for pair in pairs if pair.first.strip() != pair.second.strip()}
    order = sorted(distinct)  # so that the order depends on the seed, not on the file's
    random.Random(config.seed).shuffle(order)
    return [distinct[key] for key in order][: config.limit]


def turned(pair: Pair, seed: int) -> bool:
    """Whether the second response takes the first place: by chance, yet the same whenever it is asked."""
    return random.Random(repr((seed, *pair.key))).random() < 0.5


# ---- the annotator -------------------------------------------------------------------------------


def annotate(pairs: list[Pair], journal: Journal, config: AnnotateConfig) -> None:
    """Ask for a verdict on each pair that this annotator has not judged."""
    if sys.stdin is None:  # closed by the shell: `<&-`
        raise UserError("there is nobody to ask: standard input is closed; run it in a terminal")
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may know less than UTF-8, or send more
    page = console(min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))
    verdicts_of(journal.rows, config.output)  # a file with something else in it is not written to
    todo = to_judge(pairs, config)
    if not todo:
        raise UserError("there is no pair to judge: no two responses differ")
    judged = {
        pair_key(row["prompt"], row["first"], row["second"])[0]
        for row in journal.rows
        if row.get("annotator", "") == config.annotator
    }
    open_pairs = [pair for pair in todo if pair.key not in judged]
    done = len(todo) - len(open_pairs)
    page.print(f"{done} of {len(todo)} pairs are judged. {HINT}")
    ask_all(open_pairs, done, page, journal, config)


def ask_all(pairs: list[Pair], done: int, page: Console, journal: Journal, config: AnnotateConfig) -> None:
    """Go through the pairs, back and forth, until the end or the key q."""
    total, at, skipped = done + len(pairs), 0, set[int]()
    while at < len(pairs):
        swap = turned(pairs[at], config.seed)
        show(pairs[at], swap, page, f"{done + at - len(skipped)} of {total} judged")
        key = ask()
        if key == "q":
            break
        if key == "u":
            if at == 0:
                page.print("nothing to undo in this session")
                continue
            at -= 1
            if at in skipped:
                skipped.remove(at)
            else:
                journal.undo()
            continue
        if key == "s":
            skipped.add(at)
        else:
            journal.append(verdict_row(pairs[at], swap, key, config.annotator))
        at += 1
    judged = done + at - len(skipped)
    rest = "" if judged == total else "; run the same command again to go on"
    say(f"{judged} of {total} pairs are judged, in {config.output}{rest}")


def show(pair: Pair, swap: bool, page: Console, progress: str) -> None:
    """Print a pair; frames keep apart what is ours and what a model wrote."""
    from rich.panel import Panel
    from rich.text import Text

    responses = (pair.second, pair.first) if swap else (pair.first, pair.second)
    page.rule(progress)
    for title, text in zip(("prompt", "1", "2"), (pair.prompt, *responses), strict=True):
        page.print(Panel(Text(printable(text)), title=title, title_align="left"))
    page.print(HINT)


def ask() -> str:
    """Return one of 1, 2, t, s, u, q; the end of the input means q."""
    while True:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return "q"
        if key := KEYS.get(line.strip().lower()):
            return key
        print(f"type one key and Enter: {HINT}")


def verdict_row(pair: Pair, swap: bool, key: str, annotator: str) -> dict[str, Any]:
    """Return what is written down: the verdict in terms of first and second, and where each was shown."""
    sides = ("second", "first") if swap else ("first", "second")
    verdict = "tie" if key == "t" else sides[int(key) - 1]
    row: dict[str, Any] = {"prompt": pair.prompt, "first": pair.first, "second": pair.second, "verdict": verdict}
    names = {"models": {"first": pair.names[0], "second": pair.names[1]}} if pair.names else {}
    row |= {"messages": pair.messages} if pair.messages else {}
    return {**row, "annotator": annotator, "shown": {"1": sides[0], "2": sides[1]}, **names}
