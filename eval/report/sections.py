"""What each section of the page says: plain data for the template, every one of them empty where data are absent."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from eval.judges import judge_sentences
from eval.metrics import columns_of, win_rate
from eval.metrics.figures import Column, fixed, percent
from eval.metrics.kl_to_reference import KL
from eval.metrics.length_controlled_win_rate import LENGTH_CONTROLLED
from eval.metrics.reward import GOLD
from eval.report.measures import COSTS, LAWS, Table, cell, measure_table, minus
from eval.report.table import ABSENT, estimate_text
from eval.report.text import finite, p_value

Comparison = Mapping[str, Any]


def ranking(comparison: Comparison) -> Table | None:
    """Return the methods' table, best first where they were ranked, and the ratings' place on one scale."""
    methods = {name: record or {} for name, record in (comparison.get("methods") or {}).items()}
    ranked = {entry.get("method"): entry for entry in comparison.get("ranking") or []}
    order = [*(name for name in ranked if name in methods), *(name for name in methods if name not in ranked)]
    table = measure_table({name: methods[name] for name in order}, columns_of("ranking"))
    if table is None:
        return None
    ratings = {name: entry["rating"] for name, entry in ranked.items() if _interval(entry.get("rating"))}
    low = min((r["low"] for r in ratings.values()), default=0.0)
    width = max((r["high"] for r in ratings.values()), default=1.0) - low or 1.0
    for row in table["rows"]:
        entry, rating = ranked.get(row["name"]) or {}, ratings.get(row["name"])
        row["place"] = _place(entry)
        row["order"] = order.index(row["name"])
        row["rating"] = rating
        # Percent of the scale, 3 left free on both sides for the mark's own width.
        row["marks"] = rating and {k: round(3 + 94 * (rating[k] - low) / width, 2) for k in ("low", "mean", "high")}
    controlled = {name: methods[name].get(LENGTH_CONTROLLED.key) or {} for name in order}
    notes = [{"name": name, "text": rate["note"]} for name, rate in controlled.items() if rate.get("note")]
    return {**table, "rated": bool(ratings), "baseline": comparison.get("baseline"), "notes": notes}


def _interval(estimate: Any) -> bool:
    return isinstance(estimate, Mapping) and all(finite(estimate.get(key)) for key in ("mean", "low", "high"))


def _place(entry: Mapping[str, Any]) -> str:
    low, high = entry.get("rank_low"), entry.get("rank_high")
    if not (finite(low) and finite(high)):
        return ""
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"


def pairwise(comparison: Comparison) -> Table | None:
    """Return the matrix of differences, row minus column, in the ranking's order."""
    pairs = comparison.get("pairwise") or []
    named = dict.fromkeys(name for pair in pairs for name in (pair.get("first"), pair.get("second")))
    first = [entry.get("method") for entry in comparison.get("ranking") or []]
    names = [*(name for name in first if name in named), *(name for name in named if name not in first)]
    if len(names) < 2:
        return None
    cells = {}
    for pair in pairs:
        cells[pair.get("first"), pair.get("second")] = _comparison(pair, 1)
        cells[pair.get("second"), pair.get("first")] = _comparison(pair, -1)
    rows = [{"name": row, "cells": [cells.get((row, column)) for column in names]} for row in names]
    measures = {str(pair.get("measure")).replace("_", " ") for pair in pairs}
    return {"names": names, "rows": rows, "measure": " and ".join(sorted(measures))}


def _comparison(pair: Mapping[str, Any], sign: int) -> Table:
    """Return one cell; with sign −1 as seen from the second method."""
    rate = pair.get("measure") == win_rate.WIN_RATE.key
    column = Column("", "", percent if rate else fixed, " %" if rate else "")
    difference = dict(pair.get("difference") or {})
    if sign < 0:
        ends = {"mean": difference.get("mean"), "low": difference.get("high"), "high": difference.get("low")}
        difference = {key: -value if finite(value) else None for key, value in ends.items()}
    text, interval = estimate_text(difference, column)
    verdict = pair.get("verdict")
    detectable = pair.get("detectable")
    return {
        "text": f"+{text}" if finite(difference.get("mean")) and difference["mean"] > 0 else minus(text),
        "interval": minus(interval),
        "outcomes": _outcomes(pair, sign),
        "p": p_value(pair.get("p_adjusted")),
        "verdict": "none"
        if verdict not in ("first", "second")
        else "better"
        if (verdict == "first") == (sign > 0)
        else "worse",
        "detectable": column.number(detectable) + column.unit if finite(detectable) else "",
    }


def _outcomes(pair: Mapping[str, Any], sign: int) -> str:
    """Return the shares won, tied and lost, as seen from the first method or, with sign −1, from the second."""
    said = [outcome.heading for outcome in win_rate.OUTCOMES]
    means = [mean for at in win_rate.OUTCOMES[::sign] if finite(mean := (pair.get(at.key) or {}).get("mean"))]
    if len(means) < len(said):
        return ""
    # No line may break before the sign.
    return ", ".join(f"{word} {100 * mean:.0f}\u00a0%" for word, mean in zip(said, means, strict=True))


def frontier(comparison: Comparison) -> Table | None:
    """Return the table of settings, the table of equal KL and the differences there, and what lies above the line."""
    data = comparison.get("frontier") or {}
    points = [
        {
            "name": point.get("method"),
            "setting": _setting(point.get("setting")),
            "cells": [
                cell(point.get("kl"), KL.column),
                cell(point.get("gold_reward"), GOLD.column),
                cell(point.get("attainable"), Column("", "", percent, " %")),
            ],
        }
        for point in data.get("points") or []
    ]
    matched = data.get("matched") or []
    levels = sorted({entry["kl"] for entry in matched if finite(entry.get("kl"))})
    names = dict.fromkeys(entry.get("method") for entry in matched)
    gold = {(entry.get("method"), entry.get("kl")): entry.get("gold_reward") for entry in matched}
    rows = [{"name": n, "cells": [cell(gold.get((n, level)), GOLD.column) for level in levels]} for n in names]
    return {
        "points": points,
        "levels": [fixed(x) for x in levels],
        "matched": rows,
        "above": [
            {"name": point.get("method"), "setting": _setting(point.get("setting"))}
            for point in data.get("points") or []
            if (point.get("under_the_line") or {}).get("holds") is False
        ],
        "differences": [_at_equal_kl(row) for row in data.get("matched_differences") or []],
        "oracle": _oracle(data),
    }


def _at_equal_kl(row: Mapping[str, Any]) -> Table:
    """Return one difference at equal KL: the two methods, the KL, and its cells."""
    kl, difference = row.get("kl"), row.get("difference")
    cells = [cell(kl, KL.column), cell(difference, GOLD.column)]
    p = row.get("p")
    return {
        "first": row.get("first"),
        "second": row.get("second"),
        "cells": [*cells, {"text": p_value(p) or ABSENT, "interval": "", "value": p if finite(p) else None}],
    }


def _oracle(data: Mapping[str, Any]) -> str:
    """Say where the best attainable line comes from, how exact it is, and where it ends."""
    oracle = data.get("oracle") or {}
    if not oracle:
        return ""
    if oracle.get("source") == "exact":
        return "The best attainable line is exact: every response of this world was enumerated."
    trusted, tolerance = oracle.get("trusted_kl"), oracle.get("tolerance")
    effective = [count for count in oracle.get("ess") or [] if finite(count)]
    text = f"The best attainable line is estimated from {oracle.get('source') or 'an unnamed source'}"
    text += f", to {percent(tolerance)} % of the gain by its own account." if finite(tolerance) else "."
    if effective:
        text += (
            f" Of each prompt's {fixed(effective[0], 0)} samples {fixed(effective[-1], 1)} are effective at its end."
        )
    return text + (f" Beyond KL {fixed(trusted)} it is not to be trusted, and is cut." if finite(trusted) else "")


def _setting(setting: Any) -> str:
    return ", ".join(f"{key} = {value}" for key, value in setting.items()) if isinstance(setting, Mapping) else ""


def overoptimisation(comparison: Comparison) -> Table | None:
    """Return each method's law, why some have none, and the methods whose peak lies beyond all that was measured."""
    fits = {name: fit or {} for name, fit in (comparison.get("overoptimisation") or {}).items()}
    peaks = {name: fit.get("peak") or {} for name, fit in fits.items()}
    records = {n: {**fit, "peak_d": peaks[n].get("d"), "peak_gold": peaks[n].get("gold")} for n, fit in fits.items()}
    beyond = [name for name, peak in peaks.items() if peak and not peak.get("reached")]
    notes = [{"name": name, "text": fit["note"]} for name, fit in fits.items() if fit.get("note")]
    return {"table": measure_table(records, LAWS), "notes": notes, "beyond": ", ".join(beyond)}


def preferences(comparison: Comparison) -> Table:
    """Return the table of held-out preferences, what was scored and at which scale, and the table of subsets."""
    records = {n: (r or {}).get("preferences") or {} for n, r in (comparison.get("methods") or {}).items()}
    records = {name: record for name, record in records.items() if record}
    notes = []
    for name, record in records.items():
        scale = record.get("scale") or {}
        at = f", times {fixed(scale['value'])} ({scale.get('source')})" if finite(scale.get("value")) else ""
        notes.append({"name": name, "text": f"{record.get('score') or 'score'}{at}"})
    subsets = dict.fromkeys(key for record in records.values() for key in record.get("subsets") or {})
    columns = [Column(key, key, percent, " %") for key in subsets]
    by_subset = {name: record.get("subsets") or {} for name, record in records.items()}
    return {
        "table": measure_table(records, columns_of("preferences")),
        "notes": notes,
        "subsets": measure_table(by_subset, columns),
    }


def costs(comparison: Comparison) -> Table | None:
    """Return what each method's training cost."""
    methods = comparison.get("methods") or {}
    records = {
        n: {**((r or {}).get("train") or {}), "settings_tried": (r or {}).get("settings_tried")}
        for n, r in methods.items()
        if (r or {}).get("train")
    }
    reward = (comparison.get("reward_model") or {}).get("train")
    return measure_table({**records, **({"reward model": reward} if reward else {})}, COSTS)


def settings(comparison: Comparison) -> Table | None:
    """Return the methods' settings side by side, those that differ first."""
    records = {n: r["settings"] for n, r in (comparison.get("methods") or {}).items() if (r or {}).get("settings")}
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


def diagnosis(comparison: Comparison) -> Table | None:
    """Return findings, serious ones first, and the methods without any."""
    found = comparison.get("diagnosis")
    if not isinstance(found, Mapping):
        return None
    cards = [{"name": name, **card} for name, items in found.items() for card in items or []]
    cards.sort(key=lambda card: card.get("severity") != "serious")
    return {"cards": cards, "healthy": [name for name, items in found.items() if not items]}


def provenance(comparison: Comparison) -> Table:
    """Return what is needed to make the comparison again."""
    facts = [(key, comparison.get(key)) for key in ("commit", "python", "machine")]
    facts.append(("seeds", ", ".join(map(str, comparison.get("seeds") or []))))
    facts += [(name, version) for name, version in (comparison.get("versions") or {}).items()]
    blocks = [(title, comparison.get(key)) for title, key in (("Settings", "config"), ("Data", "data"))]
    return {
        "command": command(comparison.get("command")),
        "facts": [(key, value) for key, value in facts if value],
        "blocks": [(title, json.dumps(b, indent=2, ensure_ascii=False, default=str)) for title, b in blocks if b],
    }


def command(words: Any) -> str:
    """Return the command line, quoted for a shell, from its words (a recipe's name first) or as it is."""
    if not isinstance(words, Sequence) or isinstance(words, str):
        return str(words or "")
    recipe = [str(word) for word in words]
    start = (
        ["python", f"recipes/{recipe[0]}"]
        if recipe and recipe[0].endswith(".py") and "/" not in recipe[0]
        else recipe[:1]
    )
    lines: list[list[str]] = [start]
    for word in recipe[1:]:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n  ".join(shlex.join(line) for line in lines)


def judge(comparison: Comparison) -> Mapping[str, Any]:
    """Return name, kind and warning of the judge (older comparisons give a name alone), and what it says of itself."""
    found = comparison.get("judge")
    known = found if isinstance(found, Mapping) else {"name": found, "kind": None, "warning": None}
    return {**known, "sentences": judge_sentences(known)}


def headline(comparison: Comparison) -> str:
    """Return the verdict in a sentence."""
    sentences = comparison.get("verdict") or []
    return str(comparison.get("headline") or (sentences[0] if sentences else "No verdict: no method was judged."))


def sentences(comparison: Comparison) -> list[str]:
    """Return the verdict's sentences, without one that is the headline already."""
    return [s for s in comparison.get("verdict") or [] if s != headline(comparison)]
