"""`score` and `compare_scores`: a reward model on pairs or responses, and two of them on the same pairs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from preflab.data.columns import parse_columns
from preflab.data.in_memory import numbered
from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.eval.python.objects import plain
from preflab.eval.python.scored import ScoreComparison, ScoreResult, share
from preflab.eval.python.scorer import PAIRS, Encoded, encoded, logits, opened

if TYPE_CHECKING:
    from preflab.data.reading import Row
    from preflab.data.turns import Dialogues
    from preflab.eval.records.columns import Rows
    from preflab.eval.records.figures import Figure
    from preflab.tokens.literals import How

logger = logging.getLogger(__name__)

ANSWERS = ("response", "completion")
"""Columns of single responses; with one of `PREFERENCE` beside them, rows are preferences."""

PREFERENCE = frozenset({"chosen", "rejected", "responses", "label", "rejected_response", "kto_tag"})


def score(
    reward_model: Any,
    pairs: Any,
    *,
    tokenizer: Any = None,
    model: str | Path | None = None,
    columns: Mapping[str, str] | Sequence[str] = (),
    dataset_split: str = "train",
    system: str | None = None,
    dialogues: Dialogues = "auto",
    special_tokens: How = "auto",
    bad_rows: Literal["drop", "refuse"] = "drop",
    eval_batch_size: int = 32,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> ScoreResult:
    """Score pairs, or single responses, by a reward model. Nothing is written.

        scores = preflab.score("owner/reward-model", rows)
        scores.accuracy                     # with its interval
        scores.to_pandas()                  # a row for each pair

    Rows are read as preferences are everywhere: every layout, text or messages. A loaded model is as it was afterwards.

    Args:
        reward_model: hub name or folder of a classifier with one label; an adapter, or a stage or folder of a run; what
            `preflab.train` returned; or a loaded classifier, with its `tokenizer` or as ``(model, tokenizer)``.
        pairs: preferences, or rows with ``prompt`` and ``response``: a file, a name on the hub, a list of dicts, a
            pandas DataFrame or a `datasets.Dataset`.
        tokenizer: of a loaded `reward_model`.
        model: the base of an adapter; by default the one that its config names.
        columns: which column holds what, where names differ: ``{"chosen": "answer_a"}``.
        dataset_split: split to load when the data come from the hub.
        system: system prompt of dialogues that have none.
        dialogues: what text becomes for a model with a chat template, as for `preflab.compare`.
        special_tokens: what special-token strings in text are, as for `preflab.compare`.
        bad_rows: drop and count unusable rows, or refuse the data.
        eval_batch_size: responses scored at a time.
        dtype: of the model's weights; a loaded one keeps its own.
        trust_remote_code: run Python code that comes with a hub model.

    Raises:
        UserError: for a model that is none of rewards, data that cannot be read, and a text that is longer than the
            model reads.
    """
    rows = list(numbered(plain(pairs), PAIRS, dataset_split))
    if not rows:
        raise UserError(f"{PAIRS} is empty; give rows, each a dict of columns")
    given = [f"{ours}={theirs}" for ours, theirs in columns.items()] if isinstance(columns, Mapping) else columns
    try:
        named = parse_columns(given)
    except ValueError as error:
        raise UserError(f"score: {error}") from None
    columns_given = {*named, *(column for _, row in rows for column in row)}
    single = not PREFERENCE & columns_given and bool(columns_given.intersection(ANSWERS))
    how: dict[str, Any] = {"bad_rows": bad_rows, "columns": named, "dialogues": dialogues, "system": system}
    asked = [(number, _labelled(row)) for number, row in rows] if single else rows
    with opened(plain(reward_model), tokenizer, model, dtype, trust_remote_code) as scorer:
        found = encoded(scorer, asked, single, special_tokens, **how)
        scores = logits(scorer, found, eval_batch_size)
    return _result(scorer.name, [row for _, row in rows], found, scores)


def _labelled(row: Row) -> Row:
    """Return a single response as the reading of preferences takes one; what the label says is not looked at."""
    answer = next((row[name] for name in ANSWERS if name in row), None)
    return {**{name: value for name, value in row.items() if name not in ANSWERS}, "completion": answer, "label": True}


def _result(name: str, raw: Sequence[Row], found: Encoded, scores: Sequence[Sequence[float]]) -> ScoreResult:
    from preflab.data.splits import fingerprint
    from preflab.eval.comparison.preferences import summarise_preferences
    from preflab.eval.records.figures import Preferences
    from preflab.eval.records.typed import from_json

    rows = []
    for number, clean, group, said in zip(found.numbers, found.rows, found.groups, scores, strict=True):
        row: dict[str, Any] = {"row": number, "group": clean["group"]}
        if len(said) == 1:
            row |= {"score": said[0], "length": len(group.response_ids[0])}
        else:
            row |= {"chosen_score": said[0], "rejected_score": said[1]}
            row |= {"chosen_length": len(group.response_ids[0]), "rejected_length": len(group.response_ids[1])}
            row |= {column: clean[column] for column in ("subset", "preference") if clean.get(column) is not None}
        rows.append(row)
    pairs = summarise_preferences([rows], "reward", 1.0) if "chosen_score" in rows[0] else None
    return ScoreResult(name, tuple(rows), fingerprint(raw), None if pairs is None else from_json(Preferences, pairs))


def compare_scores(first: ScoreResult, second: ScoreResult) -> ScoreComparison:
    """Compare two reward models on the same pairs: does one rank more of them as labelled?

        preflab.compare_scores(preflab.score(a, rows), preflab.score(b, rows))

    The test flips signs of the pairs' differences, as that of two trained policies does (docs/calibration.md); pairs
    of one prompt are flipped together.

    Args:
        first: what `score` gave for one.
        second: what it gave for the other, on the same data.

    Raises:
        UserError: for scores of other data, of single responses, or of fewer than two pairs in common.
    """
    from preflab.eval.records.columns import prompt_groups
    from preflab.eval.records.figures import Figure
    from preflab.eval.statistics import compare as test
    from preflab.eval.statistics import verdict
    from preflab.eval.statistics.intervals import as_table, clustered

    for one in (first, second):
        if not isinstance(one, ScoreResult) or one.preferences is None:
            raise UserError(f"compare_scores takes two results of preflab.score on pairs, and not {shown(one)}")
    rows = _shared(first, second)
    right = [_right(side) for side in rows]
    groups, difference = prompt_groups(rows[0]), as_table(right[0] - right[1])
    per_prompt = difference if groups is None else clustered(difference, groups)
    if per_prompt.shape[1] < 2:
        raise UserError("one pair was scored by both, and nothing about others follows from it; score more")
    found = test(per_prompt, 0.0 * per_prompt)
    names = (first.name, second.name) if first.name != second.name else ("the first", "the second")
    result = ScoreComparison(
        *names,
        accuracies=(_accuracy(right[0], groups), _accuracy(right[1], groups)),
        difference=Figure.of(found.estimate._replace(n=len(rows[0]))),
        p=found.p,
        detectable=found.detectable,
        both=float((right[0] * right[1]).mean()),
        n=len(rows[0]),
        sentence="",
    )
    return replace(result, sentence=_sentence(result, verdict(result.difference.mean, found.p)))


def _shared(first: ScoreResult, second: ScoreResult) -> tuple[Rows, Rows]:
    """Return the rows of the pairs that both scored, in one order.

    Raises:
        UserError: if the two were given different data, or share no pair.
    """
    if first.data != second.data:
        raise UserError("the two results are scores of different rows; score the same data by both")
    ours, theirs = ({row["row"]: row for row in one.rows} for one in (first, second))
    both = [number for number in ours if number in theirs]
    if not both:
        raise UserError("no pair was scored by both: what one model reads, the other does not")
    if lost := len(ours.keys() ^ theirs.keys()):
        logger.warning("%d pairs were scored by one of the two alone, and are left out", lost)
    return [ours[number] for number in both], [theirs[number] for number in both]


def _right(rows: Rows) -> NDArray[np.float64]:
    """Return ``[N]``: 1 where a pair is ranked as labelled, 0.5 for a tie and where neither is better, else 0."""
    from preflab.eval.comparison.preferences import pair_columns
    from preflab.eval.metrics.preference_accuracy import ACCURACY

    table: NDArray[np.float64] = ACCURACY.table(*ACCURACY.given(pair_columns([rows])))
    return table[0]


def _accuracy(right: NDArray[np.float64], groups: NDArray[np.int64] | None) -> Figure:
    from preflab.eval.metrics.preference_accuracy import ACCURACY
    from preflab.eval.records.figures import Figure

    return Figure.of(ACCURACY.estimate(right[None], groups=groups))


def _sentence(found: ScoreComparison, better: str) -> str:
    names = (found.first, found.second)
    sides = (f"{name} {share(accuracy)}" for name, accuracy in zip(names, found.accuracies, strict=True))
    sign = -100 if better == "second" else 100
    low, high = sorted((sign * found.difference.low, sign * found.difference.high))
    between = f"[{low:+.1f}, {high:+.1f}]" if math.isfinite(high - low) else "[too few pairs for an interval]"
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    ranked = f"Of {found.n} pairs, ranked as labelled: {'; '.join(sides)}"
    figures = f"{sign * found.difference.mean:+.1f} percentage points {between}, {p}"
    if better != "none":
        ahead, behind = names if better == "first" else names[::-1]
        return f"{ranked}. {ahead} is better than {behind}: {figures}."
    seen = 100 * found.detectable
    power = f"; a true difference of {seen:.1f} would have been seen four times in five" if 0 < seen < 100 else ""
    return f"{ranked}. No detectable difference: {figures}{power}."
