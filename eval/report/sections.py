"""What each section of the page says: plain data for the template, empty where there is nothing to say."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from preflab.eval.judges import judge_sentences
from preflab.eval.metrics import columns_of, win_rate
from preflab.eval.metrics.kl_to_reference import KL
from preflab.eval.metrics.length_controlled_win_rate import LENGTH_CONTROLLED
from preflab.eval.metrics.likelihood_accuracy import LikelihoodAccuracy
from preflab.eval.metrics.measures import Column, fixed, percent, three
from preflab.eval.metrics.reward import GOLD
from preflab.eval.records.comparison import Comparison, PairTest, Place
from preflab.eval.records.figures import Figure, Preferences
from preflab.eval.records.frontier import MatchedDifference, OracleLine
from preflab.eval.report.curves import SHOWN
from preflab.eval.report.measures import LAWS, Table, Value, cell, measure_table
from preflab.eval.report.table import ABSENT
from preflab.eval.report.text import finite, p_value

ENDS = ("low", "mean", "high")
SOURCES = ("seeds", "prompts", "rest")
DEVIATION = Column("", "", three)
SHARE, PAIRS = Column("fraction", "share", fixed, " %"), Column("preferences", "preferences", lambda x: f"{x:,.0f}")


def ranking(comparison: Comparison) -> Table | None:
    """Return the methods' table, best first where they were ranked, and the ratings' place on one scale."""
    methods, ranked = comparison.methods, {place.method: place for place in comparison.ranking}
    order = [*(name for name in ranked if name in methods), *(name for name in methods if name not in ranked)]
    table = measure_table({name: methods[name].figures for name in order}, columns_of("ranking"))
    if table is None:
        return None
    ratings = {name: place.rating for name, place in ranked.items() if _known(place.rating)}
    low = min((rating.low for rating in ratings.values()), default=0.0)
    width = max((rating.high for rating in ratings.values()), default=1.0) - low or 1.0
    for row in table["rows"]:
        place, rating = ranked.get(row["name"]), ratings.get(row["name"])
        row["place"] = "" if place is None else _place(place)
        row["order"] = order.index(row["name"])
        row["rating"] = rating
        # Percent of the scale, 3 left free on both sides for the mark's own width.
        row["marks"] = rating and {k: round(3 + 94 * (vars(rating)[k] - low) / width, 2) for k in ENDS}
    controlled = {name: methods[name].figures.get(LENGTH_CONTROLLED.key) for name in order}
    notes = [{"name": name, "text": rate.note} for name, rate in controlled.items() if rate and rate.note]
    return {**table, "rated": bool(ratings), "baseline": comparison.baseline, "notes": notes}


def _known(figure: Figure) -> bool:
    return all(finite(value) for value in (figure.mean, figure.low, figure.high))


def _place(place: Place) -> str:
    low, high = place.rank_low, place.rank_high
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"


def pairwise(comparison: Comparison) -> Table | None:
    """Return the matrix of differences, row minus column, in the ranking's order."""
    pairs = comparison.pairwise
    named = dict.fromkeys(name for pair in pairs for name in (pair.first, pair.second))
    first = [place.method for place in comparison.ranking]
    names = [*(name for name in first if name in named), *(name for name in named if name not in first)]
    if len(names) < 2:
        return None
    cells = {}
    for pair in pairs:
        cells[pair.first, pair.second] = _comparison(pair, 1)
        cells[pair.second, pair.first] = _comparison(pair, -1)
    rows = [{"name": row, "cells": [cells.get((row, column)) for column in names]} for row in names]
    measures = {pair.measure.replace("_", " ") for pair in pairs}
    return {"names": names, "rows": rows, "measure": " and ".join(sorted(measures))}


def _comparison(pair: PairTest, sign: int) -> Table:
    """Return one cell; with sign −1 as seen from the second method."""
    rate = pair.measure == win_rate.WIN_RATE.key
    column = Column("", "", percent if rate else fixed, " %" if rate else "")
    difference, seen = pair.difference, pair.first if sign > 0 else pair.second
    if sign < 0:
        difference = replace(difference, mean=-difference.mean, low=-difference.high, high=-difference.low)
    known = cell(difference, column)
    return {
        "text": f"+{known['text']}" if finite(difference.mean) and difference.mean > 0 else known["text"],
        "interval": known["interval"],
        "outcomes": _outcomes(pair, sign),
        "p": p_value(pair.p_adjusted),
        "verdict": "none" if pair.winner is None else "better" if pair.winner == seen else "worse",
        "detectable": column.number(pair.detectable) + column.unit if finite(pair.detectable) else "",
    }


def _outcomes(pair: PairTest, sign: int) -> str:
    """Return the shares won, tied and lost, as seen from the first method or, with sign −1, from the second."""
    means = [share.mean for share in (pair.wins, pair.ties, pair.losses)][::sign]
    if not all(map(finite, means)):
        return ""
    said = [outcome.heading for outcome in win_rate.OUTCOMES]
    # No line may break before the sign.
    return ", ".join(f"{word} {100 * mean:.0f}\u00a0%" for word, mean in zip(said, means, strict=True))


def frontier(comparison: Comparison) -> Table | None:
    """Return the table of settings, the table of equal KL and the differences there, and what lies above the line."""
    data = comparison.frontier
    if data is None:
        return None
    points = [
        {
            "name": point.method,
            "setting": _setting(point.setting),
            "cells": [
                cell(point.kl, KL.column),
                cell(point.gold_reward, GOLD.column),
                cell(point.attainable, Column("", "", percent, " %")),
            ],
        }
        for point in data.points
    ]
    levels = sorted({entry.kl for entry in data.matched if finite(entry.kl)})
    names = dict.fromkeys(entry.method for entry in data.matched)
    gold = {(entry.method, entry.kl): entry.gold_reward for entry in data.matched}
    rows = [{"name": n, "cells": [cell(gold.get((n, level)), GOLD.column) for level in levels]} for n in names]
    return {
        "points": points,
        "levels": [fixed(x) for x in levels],
        "matched": rows,
        "above": [
            {"name": point.method, "setting": _setting(point.setting)}
            for point in data.points
            if point.under_the_line and point.under_the_line.holds is False
        ],
        "differences": [_at_equal_kl(row) for row in data.matched_differences],
        "oracle": _oracle(data.oracle) if data.oracle else "",
    }


def _at_equal_kl(row: MatchedDifference) -> Table:
    """Return one difference at equal KL: the two methods, the KL, and its cells."""
    cells = [cell(row.kl, KL.column), cell(row.difference, GOLD.column)]
    p = {"text": p_value(row.p) or ABSENT, "interval": "", "value": row.p if finite(row.p) else None}
    return {"first": row.first, "second": row.second, "cells": [*cells, p]}


def _oracle(line: OracleLine) -> str:
    """Say where the best attainable line comes from, how exact it is, and where it ends."""
    if line.source == "exact":
        return "The best attainable line is exact: every response of this world was enumerated."
    effective = [count for count in line.ess if finite(count)]
    text = f"The best attainable line is estimated from {line.source}"
    text += f", to {percent(line.tolerance)} % of the gain by its own account." if finite(line.tolerance) else "."
    if effective:
        text += (
            f" Of each prompt's {fixed(effective[0], 0)} samples {fixed(effective[-1], 1)} are effective at its end."
        )
    if not finite(line.trusted_kl):
        return text
    return f"{text} Beyond KL {fixed(line.trusted_kl)} it is not to be trusted, and is cut."


def sources(comparison: Comparison) -> Table:
    """Return of what the variance of every difference is made."""
    seeds = "replications" if comparison.redrawn else "seeds"
    rows = []
    for pair in comparison.pairwise:
        if pair.sources:
            parts = [getattr(pair.sources, name) for name in SOURCES]
            shares = [_hundredfold(getattr(pair.sources.shares, name)) for name in SOURCES]
            cells = [cell(c, column) for column, values in ((DEVIATION, parts), (SHARE, shares)) for c in values]
            rows.append({"first": pair.first, "second": pair.second, "cells": cells})
    headings = [seeds, "prompts", "rest", f"share of {seeds}", "share of prompts", "share of the rest"]
    return {"headings": headings, "rows": rows, "replications": bool(comparison.redrawn)}


def learning(comparison: Comparison) -> Table | None:
    """Return the points of the learning curves."""
    measures = [m for m in SHOWN if any(vars(point)[m.key] for point in comparison.learning)]
    rows = [
        {
            "name": point.method,
            "cells": [
                cell(_hundredfold(point.fraction), SHARE),
                cell(point.preferences, PAIRS),
                *(cell(vars(point)[measure.key], measure.column) for measure in measures),
            ],
        }
        for point in comparison.learning
    ]
    return {"headings": ["share", "preferences", *(m.column.heading for m in measures)], "rows": rows} if rows else None


def _hundredfold(share: float | None) -> float | None:
    return 100 * share if share is not None and finite(share) else None


def tuning(comparison: Comparison) -> list[Table]:
    """Return of each tuned method by what it was chosen, from how many trials, and how the chosen one differs."""
    rows = []
    for name, tuned in comparison.tuning.items():
        if tuned.chosen >= len(tuned.trials):
            continue
        first, best = tuned.trials[0], tuned.trials[tuned.chosen]
        reached = [fixed(trial.objective) if finite(trial.objective) else ABSENT for trial in (first, best)]
        importance = ", ".join(f"{key} {percent(share)} %" for key, share in tuned.importance.items() if finite(share))
        cells = [tuned.objective, str(len(tuned.trials)), *reached, _setting(best.settings), importance or ABSENT]
        rows.append({"name": name, "cells": cells})
    return rows


def _setting(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in setting.items())


def overoptimisation(comparison: Comparison) -> Table:
    """Return each method's law, why some have none, and the methods whose peak lies beyond all that was measured."""
    laws = comparison.overoptimisation or {}
    peaks = {name: law.peak for name, law in laws.items() if law.peak is not None}
    records: dict[str, dict[str, Value]] = {
        name: {"alpha": law.alpha, "beta": law.beta, "r2": law.r2} for name, law in laws.items()
    }
    for name, peak in peaks.items():
        records[name] |= {"peak_d": peak.d, "peak_gold": peak.gold}
    beyond = [name for name, peak in peaks.items() if not peak.reached]
    notes = [{"name": name, "text": law.note} for name, law in laws.items() if law.note]
    return {"table": measure_table(records, LAWS), "notes": notes, "beyond": ", ".join(beyond)}


def preferences(comparison: Comparison) -> Table:
    """Return the table of held-out preferences, what was scored and at which scale, and the table of subsets."""
    found = {name: row.preferences for name, row in comparison.methods.items() if row.preferences}
    notes = [{"name": name, "text": _scored(row)} for name, row in found.items()]
    subsets = dict.fromkeys(key for row in found.values() for key in row.subsets)
    columns = [Column(key, key, percent, " %") for key in subsets]
    records = {name: {**row.figures, **_likelihoods(row)} for name, row in found.items()}
    by_subset = {name: {key: part.accuracy for key, part in row.subsets.items()} for name, row in found.items()}
    return {
        "table": measure_table(records, columns_of("preferences")),
        "notes": notes,
        "subsets": measure_table(by_subset, columns),
    }


def _likelihoods(found: Preferences) -> dict[str, Figure]:
    """Return accuracy by likelihood, where it is known, under the keys of its columns."""
    known = {measure.key: vars(found)[measure.key] for measure in LikelihoodAccuracy.measures}
    return {key: by.accuracy for key, by in known.items() if by is not None}


def _scored(found: Preferences) -> str:
    """Say what was compared, and what it was multiplied by."""
    at = (
        f", times {fixed(found.scale.value)} ({found.scale.source})"
        if found.scale and finite(found.scale.value)
        else ""
    )
    return f"{found.score or 'score'}{at}"


def settings(comparison: Comparison) -> Table | None:
    """Return the methods' settings side by side, those that differ first."""
    records = {name: row.settings for name, row in comparison.methods.items() if row.settings}
    fields = dict.fromkeys(field for record in records.values() for field in record)
    if not fields:
        return None
    rows = []
    for field in fields:
        values = [
            json.dumps(r[field], default=str, ensure_ascii=False).strip('"') if field in r else ""
            for r in records.values()
        ]
        rows.append({"field": field, "cells": values, "differs": len({value for value in values if value}) > 1})
    return {"names": list(records), "rows": sorted(rows, key=lambda row: not row["differs"])}


def provenance(comparison: Comparison) -> Table:
    """Return what is needed to make the comparison again."""
    facts = [("commit", comparison.commit), ("python", comparison.python), ("machine", comparison.machine)]
    facts += [("seeds", ", ".join(map(str, comparison.seeds))), *comparison.versions.items()]
    blocks = (("Settings", comparison.config), ("Data", comparison.data))
    return {
        "command": command(comparison.command),
        "facts": [(key, value) for key, value in facts if value],
        "blocks": [(title, json.dumps(b, indent=2, ensure_ascii=False, default=str)) for title, b in blocks if b],
    }


def command(words: Sequence[str]) -> str:
    """Return the command line, quoted for a shell, from its words, a recipe's name first."""
    start = ["python", f"recipes/{words[0]}"] if words and words[0].endswith(".py") else list(words[:1])
    lines: list[list[str]] = [start]
    for word in words[1:]:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n  ".join(shlex.join(line) for line in lines)


def judge(comparison: Comparison) -> Mapping[str, Any]:
    """Return name, kind and warning of the judge, and what it says of itself."""
    known = vars(comparison.judge) if comparison.judge else {}
    return {**known, "sentences": judge_sentences(comparison.judge)}


def headline(comparison: Comparison) -> str:
    """Return the verdict in a sentence."""
    return comparison.headline or "No verdict: no method was judged."


def sentences(comparison: Comparison) -> list[str]:
    """Return the verdict's sentences, without one that is the headline already."""
    return [sentence for sentence in comparison.verdict if sentence != headline(comparison)]
