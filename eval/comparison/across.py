"""Methods of several runs side by side: what differs between the runs, and tests where there is something to test by.

Runs differ in more than a method, and somebody chose to put them side by side after they were seen: what is found is
exploratory, of everything that differs between two runs, and says no more of methods than the runs themselves do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

from preflab.eval.comparison.contestant import Contestant
from preflab.eval.comparison.contests import by_gold, compare_pairs, head_to_head
from preflab.eval.comparison.finding import MOST_WORDS, Heading
from preflab.eval.comparison.sentences import pair_sentence
from preflab.eval.records.comparison import SCHEMA, Budgets, Comparison, Finding, PairTest
from preflab.eval.records.figures import Method
from preflab.eval.records.records import Records, Rows

SKIPPED = (
    "run.output",
    "run.cache",
    "sections",
    "defaults",
    "plan",
    "comparison.report",
    "facts.rows",
    "facts.fingerprints",
)
"""Settings that say where a run lies or are said again elsewhere."""

NAMED = 8  # of the fields that differ, in a sentence
OWN_BUDGETS = Budgets(matched="none", equal=(), unequal=(), unknown=(), untrained=(), sentence="")


class Side(NamedTuple):
    """One run of several.

    Attributes:
        name: what the others know it by.
        comparison: what it found.
        samples: its answers, by method and training seed.
        judges: what identifies whoever judged each method's answers; empty where nobody can say.
    """

    name: str
    comparison: Comparison
    samples: Mapping[str, Mapping[str, Rows]]
    judges: frozenset[str]

    @property
    def methods(self) -> list[str]:
        """Return the methods that answered prompts and whose answers were found, without the start."""
        return [name for name in self.comparison.methods if name in self.samples and name != self.comparison.baseline]


class Differing(NamedTuple):
    """What differs between runs: a title, and rows of ``field`` and ``cells``, one a run."""

    title: str
    rows: list[dict[str, Any]]


class Across(NamedTuple):
    """What is to be said of runs side by side before their methods.

    Attributes:
        names: of the runs.
        heading: what was found.
        notes: sentences: what was compared, what was not, and why.
        tables: what differs: model and data first.
    """

    names: list[str]
    heading: Heading
    notes: list[str]
    tables: list[Differing]

    @property
    def first(self) -> str:
        """Return in a sentence what differs, as many fields as fit."""
        fields = [row["field"] for table in self.tables for row in table.rows]
        if not fields:
            return "The runs differ in nothing that was written down."
        more = f" and {len(fields) - NAMED} more" if len(fields) > NAMED else ""
        return f"The runs differ in {', '.join(fields[:NAMED])}{more}."


def side_by_side(runs: Sequence[Side], about: Mapping[str, Any]) -> tuple[Comparison, Across]:
    """Return all methods as one comparison, and what differs between the runs.

    Args:
        runs: two or more, of different names.
        about: command, versions and machine of this comparison.
    """
    apart = [(a, b, why) for a, b in combinations(runs, 2) if (why := why_not(a, b))]
    together = [(a, b) for a, b in combinations(runs, 2) if not why_not(a, b)]
    tests = _tests(together)
    names, seeds = [run.name for run in runs], min(run.comparison.training_seeds for run in runs)
    notes = [
        "Runs were put side by side after they were made: what is found here is exploratory. A difference between "
        "methods of two runs is one of all that differs between the runs, not of the methods alone.",
        *(f"{a.name} and {b.name} are not compared: {why}." for a, b, why in apart),
    ]
    if any(run.comparison.baseline for run in runs):
        notes.append("Win rates, KL and log-ratios are against each run’s own start.")
    across = Across(names, _heading(tests, seeds), notes, differing(runs))
    return _merged(runs, tests, seeds, about, notes), across


# ---- what can be compared ----------------------------------------------------------------------------


def why_not(one: Side, other: Side) -> str:
    """Return why methods of two runs cannot be tested against each other; nothing where they can."""
    for run in (one, other):
        if run.comparison.judge is None or not run.comparison.pairwise:
            return f"nobody judged the answers of {run.name}"
        if run.comparison.judge.kind != "scores":
            return f"the judge of {run.name} compares two answers at a time, and was not asked about two of two runs"
        if not run.methods:
            return f"the answers of {run.name} are not in its folder"
        if len(run.judges) != 1:
            return f"what judged {run.name} is not on record"
    if one.judges != other.judges:
        return "their judges are not the same"
    asked = [_prompts(run) for run in (one, other)]
    if None in asked:
        return "the methods of one of them did not answer the same prompts"
    if asked[0] != asked[1]:
        shared = len(set(asked[0] or ()) & set(asked[1] or ()))
        counts = " and ".join(str(len(prompts or ())) for prompts in asked)
        return f"they were tested on different prompts ({counts}, {shared} of them shared)"
    return ""


def _prompts(run: Side) -> list[str] | None:
    """Return the test prompts of a run; None where its methods answered different ones."""
    every = [[str(row.get("prompt")) for row in rows] for name in run.methods for rows in run.samples[name].values()]
    return every[0] if every and all(prompts == every[0] for prompts in every) else None


def _tests(together: Sequence[tuple[Side, Side]]) -> list[PairTest]:
    """Return the test of every two methods of different runs that can be compared, corrected over all of them."""
    contestants: dict[str, Contestant] = {}
    games = {}
    for one, other in together:
        for run in (one, other):
            for method in run.methods:
                name, seeds = f"{run.name}/{method}", run.samples[method].values()
                contestants.setdefault(name, Contestant(name, [Records(list(rows), []) for rows in seeds]))
        for first in one.methods:
            for second in other.methods:
                pair = f"{one.name}/{first}", f"{other.name}/{second}"
                games[pair] = head_to_head(contestants[pair[0]], contestants[pair[1]], by_gold)
    return compare_pairs(list(contestants.values()), games, scored=True) if games else []


# ---- what is said ------------------------------------------------------------------------------------


def _heading(tests: Sequence[PairTest], seeds: int) -> Heading:
    if not tests:
        return Heading("These runs cannot be compared", ())
    clear = [test for test in tests if test.winner]
    scope = "these trained models only" if seeds == 1 else f"these runs, {seeds} seeds"
    named = f"{clear[0].winner} beats {clear[0].loser}" if len(tests) == len(clear) == 1 else ""
    if named and len(named.split()) <= MOST_WORDS:
        text = named
    elif clear:
        text = f"{len(clear)} of {len(tests)} differences between runs detected"
    else:
        text = "No detectable difference between the runs’ methods"
    return Heading(text, (scope, "exploratory: runs chosen afterwards"))


def _merged(
    runs: Sequence[Side], tests: Sequence[PairTest], seeds: int, about: Mapping[str, Any], notes: Sequence[str]
) -> Comparison:
    methods: dict[str, Method] = {}
    training: dict[str, Any] = {}
    diagnosis: dict[str, tuple[Finding, ...]] = {}
    examined: dict[str, tuple[str, ...]] = {}
    for run in runs:
        own = run.comparison
        methods |= {f"{run.name}/{name}": row for name, row in own.methods.items()}
        training |= {f"{run.name}/{name}": rows for name, rows in own.training.items()}
        diagnosis |= {f"{run.name}/{name}": found for name, found in own.diagnosis.items()}
        examined |= {f"{run.name}/{name}": seen for name, seen in own.examined.items()}
    clear = [test for test in tests if test.winner]
    said = [
        f"{len(clear)} of {len(tests)} differences between methods of different runs are beyond chance (Holm’s "
        "correction over all of them); each is one of all that differs between its runs."
        if tests
        else f"Nothing was tested between runs: {notes[1] if len(notes) > 1 else 'no method answered.'}"
    ]
    judges = {run.comparison.judge.name: run.comparison.judge for run in runs if run.comparison.judge}
    judge = next(iter(judges.values())) if len(judges) == 1 else None
    return Comparison(
        headline=said[0],
        verdict=tuple(pair_sentence(test) for test in tests),
        schema=SCHEMA,
        methods=methods,
        pairwise=tuple(tests),
        untested=(),
        ranking=(),
        frontier=None,
        overoptimisation=None,
        training=training,
        diagnosis=diagnosis,
        budgets=OWN_BUDGETS,
        training_seeds=seeds,
        examined=examined,
        baseline=None,
        judge=None if judge is None else replace(judge, report=None, heldout_accuracy=None),
        reward_model=None,
        seeds=(),
        **{"config": {}, "data": {}, **about},
    )


# ---- what differs ------------------------------------------------------------------------------------


def differing(runs: Sequence[Side]) -> list[Differing]:
    """Return every field that is not the same in all runs: of model and data, the judging, settings, versions."""
    every = [run.comparison for run in runs]
    tables = (
        ("Model and data", [c.data for c in every]),
        ("Judging", [_judging(run) for run in runs]),
        ("Settings", [c.config for c in every]),
        ("Versions and machine", [_made(c) for c in every]),
    )
    return [Differing(title, list(_rows([dict(_flat(part)) for part in parts]))) for title, parts in tables]


def _judging(run: Side) -> dict[str, Any]:
    c = run.comparison
    judge = c.judge.name if c.judge else "nobody"
    return {"judge": judge, "judge’s key": ", ".join(sorted(run.judges)), "training seeds": c.training_seeds,
            "drawn anew with every seed": list(c.redrawn), "shared by all seeds": list(c.common),
            "endpoint": c.primary, "start": c.baseline}  # fmt: skip


def _made(comparison: Comparison) -> dict[str, Any]:
    return {"commit": comparison.commit, "python": comparison.python, "machine": comparison.machine,
            **comparison.versions}  # fmt: skip


def _flat(part: Any, where: str = "") -> Iterable[tuple[str, str]]:
    """Yield the fields of nested settings by their path, and their values as text."""
    if any(where == skipped or where.startswith(f"{skipped}.") for skipped in SKIPPED):
        return
    if isinstance(part, Mapping) and part:
        for name, inner in part.items():
            yield from _flat(inner, f"{where}.{name}" if where else str(name))
    elif where:
        text = part if isinstance(part, str) else json.dumps(part, default=str, ensure_ascii=False)
        yield where, text


def _rows(parts: Sequence[Mapping[str, str]]) -> Iterable[dict[str, Any]]:
    for field in dict.fromkeys(field for part in parts for field in part):
        cells = [part.get(field, "") for part in parts]
        if len(set(cells)) > 1:
            yield {"field": field, "cells": cells}
