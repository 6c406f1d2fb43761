"""Finished runs, read back: what was found, and the answers behind it. A folder may be anybody's, and is only read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from preflab.disk.files import read_jsonl, read_object
from preflab.disk.seals import SUMS, damage
from preflab.disk.stages import RECORD
from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.eval.comparison.across import Side
from preflab.eval.metrics.response_length import LENGTH
from preflab.eval.metrics.reward import GOLD
from preflab.eval.pipeline.results import MANIFEST
from preflab.eval.records.comparison import Comparison, read_comparison, read_evaluation
from preflab.eval.records.figures import Figure
from preflab.eval.records.records import SAMPLES, Rows

COMPARISON, EVALUATION = "comparison.json", "evaluation.json"
REPORTS = {EVALUATION: "evaluation"}
"""Where the report of a result lies in its run folder; others lie in ``report``."""

MOST_BYTES = 512 * 2**20  # of one table of answers
MOST_WAYS = 100_000  # of choosing a stage for every seed
CLOSE = 1e-6  # of two means of the same numbers


class Finished(NamedTuple):
    """A finished run.

    Attributes:
        folder: of the run.
        path: the file that says what was found.
        side: what was found, and the answers behind it.
        notes: what was not found, in lines.
    """

    folder: Path
    path: Path
    side: Side
    notes: list[str]

    @property
    def report(self) -> Path:
        """Where its report lies."""
        return self.folder / REPORTS.get(self.path.name, "report")


class Answers(NamedTuple):
    """One evaluation in a run folder.

    Attributes:
        seed: the training seed.
        judge: what identifies who judged.
        rows: of ``samples.jsonl``.
    """

    seed: int
    judge: str | None
    rows: Rows


def read_run(place: str, name: str = "") -> Finished:
    """Read a finished run.

    Args:
        place: its folder, or the file in it that says what was found.
        name: what to call it; by default as its folder.

    Raises:
        UserError: if there is no finished run there, or what it says cannot be read.
    """
    path = result_of(Path(place))
    comparison = read_evaluation(path) if path.name == EVALUATION else read_comparison(path)
    samples, judges, notes = read_answers(path.parent, comparison)
    other = path.parent / EVALUATION
    if Path(place).is_dir() and path.name == COMPARISON and other.is_file():
        notes.append(f"{other} is there too: name it to report on it")
    side = Side(name or path.absolute().parent.name, comparison, samples, frozenset(judges))
    return Finished(path.parent, path, side, notes)


def result_of(place: Path) -> Path:
    """Return the file that says what a run found.

    Raises:
        UserError: if there is none, or several of a single recipe's.
    """
    if place.is_file():
        return place
    if not place.is_dir():
        raise UserError(f"there is no run folder {place}: name one, such as runs/default")
    for name in (COMPARISON, EVALUATION):
        if (place / name).is_file():
            return place / name
    others = sorted(path for path in place.glob("*.json") if path.name != MANIFEST)
    if len(others) == 1:
        return others[0]
    if others:
        named = ", ".join(path.name for path in others[:5])
        raise UserError(f"{place} holds several results, {named}: name one of these files")
    if (place / MANIFEST).is_file():
        raise UserError(f"the run {place} is not finished, it has no {COMPARISON}: the command that began it goes on")
    raise UserError(f"{place} holds no finished run: neither {COMPARISON} nor {EVALUATION} is there")


# ---- answers -----------------------------------------------------------------------------------------


def read_answers(folder: Path, comparison: Comparison) -> tuple[dict[str, dict[str, Rows]], set[str], list[str]]:
    """Return the answers that a comparison is of, by method and training seed; who judged them; and what is missing.

    A run folder may hold evaluations of other settings too, snapshots and ends of sweeps among them, and no file says
    which is which: those count whose means are the comparison's own figures.
    """
    samples: dict[str, dict[str, Rows]] = {}
    judges, notes = set[str](), []
    for name, row in comparison.methods.items():
        length = row.figures.get(LENGTH.key)
        if length is None:
            continue  # no policy, which answers nothing
        try:
            found = _chosen(list(_evaluations(folder, name)), length, row.figures.get(GOLD.key), comparison.seeds)
        except UserError as error:
            notes.append(f"no samples of {shown(name)}: {error}")
            continue
        samples[name] = {str(at): answers.rows for at, answers in enumerate(found)}
        judges |= {answers.judge for answers in found if answers.judge is not None}
    return samples, judges, notes


def _evaluations(folder: Path, name: str) -> Iterable[Answers]:
    """Yield every evaluation of a method that a run folder holds, whole and as it was written.

    Raises:
        UserError: if one is damaged, too large, or says something of itself that cannot be.
    """
    stages, begin = folder / "stages", f"eval-{name}-"
    for stage in sorted(stages.iterdir()) if stages.is_dir() else ():
        own = stage.name.startswith(begin) and re.fullmatch(r"(seed\d+-)?[0-9a-f]{6,64}", stage.name[len(begin) :])
        if not own or not (stage / SAMPLES).is_file():
            continue
        if (stage / SUMS).is_file() and (trouble := damage(stage)):
            raise UserError(f"stage {stage} is damaged: {trouble}; the command that made it builds it again")
        if (stage / SAMPLES).stat().st_size > MOST_BYTES:
            raise UserError(f"{stage / SAMPLES} is larger than {MOST_BYTES >> 20} MiB")
        inputs = read_object(stage / RECORD).get("inputs")
        inputs = inputs if isinstance(inputs, Mapping) else {}
        seed, judge = inputs.get("seed", 0), inputs.get("judge")
        rows = read_jsonl(stage / SAMPLES)
        if isinstance(seed, int) and rows:
            yield Answers(seed, judge if isinstance(judge, str) else None, rows)


def _chosen(every: Sequence[Answers], length: Figure, gold: Figure | None, seeds: Sequence[int]) -> list[Answers]:
    """Return one evaluation for each training seed, such that their means are the figures.

    Raises:
        UserError: if there are none such.
    """
    if not every:
        raise UserError("its evaluations are not in the folder")
    by_seed: dict[int, list[Answers]] = {}
    for answers in [answers for answers in every if answers.seed in seeds] or every:
        by_seed.setdefault(answers.seed, []).append(answers)
    wanted = [("length", length), *([("gold", gold)] if gold is not None else [])]
    for kept in (list(by_seed.values()), list(by_seed.values())[:1]):  # of a start that all seeds share there is one
        share = length.n // max(1, len(kept))
        fitting = [[answers for answers in own if len(answers.rows) == share] for own in kept]
        ways = 1
        for own in fitting:
            ways *= len(own)
        if not 0 < ways <= MOST_WAYS:
            continue
        means = {id(a): [_mean(a.rows, name) for name, _ in wanted] for own in fitting for a in own}
        for way in product(*fitting):
            if all(_close(fmean(means[id(a)][at] for a in way), figure.mean) for at, (_, figure) in enumerate(wanted)):
                return sorted(way, key=lambda answers: answers.seed)
    raise UserError("none of its evaluations in the folder has the figures of the comparison")


def _mean(rows: Rows, name: str) -> float:
    values = [row.get(name) for row in rows]
    known = [float(value) for value in values if isinstance(value, int | float)]
    return fmean(known) if len(known) == len(values) else float("nan")


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= CLOSE * max(1.0, abs(other))


def names_of(places: Sequence[str]) -> list[str]:
    """Return a short name for each run, all different: that of its folder, with those above it where they are alike.

    Raises:
        UserError: if a run is named twice.
    """
    folders = [(Path(place) if Path(place).is_dir() else Path(place).parent).resolve() for place in places]
    if len({Path(place).resolve() for place in places}) < len(places):
        raise UserError("a run is named twice: each is compared with the others")
    for depth in range(1, 1 + max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{name} {Path(place).name}" for name, place in zip(names, places, strict=True)]
