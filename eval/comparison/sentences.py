"""What a comparison says, in sentences: first the answer, then every pair of methods.

Names in it are untrusted: whoever prints the sentences makes them harmless there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from preflab.eval.comparison.human_sentences import contested, human_sentences
from preflab.eval.metrics.kl_to_reference import KL
from preflab.eval.metrics.response_length import LENGTH
from preflab.eval.metrics.reward import GOLD
from preflab.eval.metrics.win_rate import WIN_RATE
from preflab.eval.records.comparison import PairTest, Summary
from preflab.eval.records.figures import Figure
from preflab.eval.records.frontier import EqualKl
from preflab.eval.records.variance import Replications
from preflab.experiment.sweep import not_one_objective

SIGNIFICANT = 0.05
"""Below this, after correction, a p-value makes a verdict; see `eval.statistics.verdict`."""

KIN = "Judged by a reward model of the same base, start and recipe as the one maximised, whose errors it may share. "

MEASURES = {GOLD.key: "gold reward", WIN_RATE.key: "win rate less that of the other"}


def headline(summary: Summary, start: str) -> str:
    """Return the answer: the methods against each other, and against `start`, the policy that training starts from."""
    pairs, names = summary.pairwise, policies(summary, start)
    if not names:
        return "No policy was compared."
    if not pairs and summary.untested:
        return "No two methods could be tested: the figures say what the methods did, not which is better."
    if not pairs:
        return "Nobody judged the answers: the figures say what the methods did, not which is better."
    better, judged = better_pairs(pairs), {frozenset((pair.first, pair.second)) for pair in pairs}
    between = _between(summary, names, better, judged) if len(names) > 1 else ""
    against = f"Against {start}: {_against(summary, start, names, better, judged)}."
    equal = at_equal_kl(summary)
    if summary.primary == "equal-kl":
        answers = [
            f"{equal or 'No two methods reach a KL in common.'}",
            "Exploratory, as configured:",
            between,
            against,
            contested(summary),
        ]
    else:
        also = f"Exploratory: {equal[0].lower()}{equal[1:]}" if equal else ""
        answers = [between, against, contested(summary), also]
    return about(summary) + " ".join(answer for answer in answers if answer)


def policies(summary: Summary, start: str) -> list[str]:
    """Return the methods that answered prompts, without the policy that training starts from."""
    return [name for name, row in summary.methods.items() if row.figures.get(LENGTH.key) and name != start]


def at_equal_kl(summary: Summary) -> str:
    """Return which methods lead over the KLs that two of them both reach; nothing where none do."""
    rows = summary.frontier.equal_kl if summary.frontier else ()
    if not rows:
        return ""
    clear = [row for row in rows if row.verdict != "none"]
    reach = max(row.high_kl for row in clear or rows)
    said = f"At equal KL (up to {reach:.2f} nats) "
    if not clear:
        return f"{said}no detectable difference."
    return said + "; ".join(_ahead(row) for row in clear) + "."


def _ahead(row: EqualKl) -> str:
    """Return who is ahead of whom over a range of KL, and by how much."""
    sign, ends = (1, (row.first, row.second)) if row.verdict == "first" else (-1, (row.second, row.first))
    return f"{ends[0]} is ahead of {ends[1]} ({_figures(row.difference, sign)})"


def equal_kl_sentence(row: EqualKl) -> str:
    """Return what was found of two methods over the KLs that both reach."""
    span = f"over KLs of {row.low_kl:.2f} to {row.high_kl:.2f} nats"
    about = f"{_figures(row.difference, -1 if row.verdict == 'second' else 1)}, corrected p {_p(row.p_adjusted)}"
    sure = [at.kl for at in row.band if not at.difference.low <= 0.0 <= at.difference.high]
    where = f"; the band leaves 0 out from {min(sure):.2f} to {max(sure):.2f} nats" if sure else ""
    if row.verdict == "none":
        return f"At equal KL, no detectable difference between {row.first} and {row.second}: {about} {span}{where}."
    ends = (row.first, row.second) if row.verdict == "first" else (row.second, row.first)
    return f"At equal KL, {ends[0]} beats {ends[1]}: gold reward {about} {span}{where}."


def _figures(difference: Figure, sign: int) -> str:
    """Return a difference with its interval, turned round where the second is ahead."""
    ends = sorted((sign * difference.low, sign * difference.high))
    if not math.isfinite(ends[1] - ends[0]):
        return f"{_signed(sign * difference.mean, digits_for(abs(difference.mean)))} [too few prompts for an interval]"
    digits = digits_for((ends[1] - ends[0]) / 2 or abs(difference.mean))
    mean, low, high = (_signed(value, digits) for value in (sign * difference.mean, *ends))
    return f"{mean} [{low}, {high}]"


def about(summary: Summary) -> str:
    """Return what an answer is about, which comes before who won: these models, or methods, and on what, by whom."""
    return (KIN if summary.judge_is_kin else "") + _covered(summary)


def _covered(summary: Summary) -> str:
    """Return whether an answer is about models or methods, and what they stand on."""
    if summary.training_seeds == 1:
        return "Of these trained models, one training seed each: "
    if summary.common:
        return f"Of methods on this one {' and this one '.join(summary.common)}, {summary.training_seeds} seeds: "
    if summary.redrawn:
        return f"Of methods, {summary.training_seeds} replications with {_listed(summary.redrawn)} of their own: "
    return ""


def _between(summary: Summary, names: Sequence[str], better: set[tuple[str, str]], judged: set[frozenset[str]]) -> str:
    """Return which methods lead: those that no other is better than beyond chance."""
    leaders = unbeaten(names, better)
    behind = [name for name in names if name not in leaders]
    if len(leaders) > 1:
        unknown = [f"{a} against {b}" for a, b in combinations(leaders, 2) if frozenset((a, b)) not in judged]
        known = f"No detectable difference between {_listed(leaders)}"
        if unknown:
            nobody = "Nobody judged" if _judged(summary) == "judged" else "No test of"
            known = f"{nobody} {' or '.join(unknown)}"
        return "; ".join([known, *_behind(leaders, behind, names, better)]) + "."
    beaten = [name for name in behind if (leaders[0], name) in better] if leaders else []
    if not beaten:
        return "Methods beat one another in a circle: there is no best."
    parts = [f"{leaders[0]} is better than {_listed(beaten)}{_distance(summary, [leaders[0], *beaten])}"]
    others = [name for name in behind if name not in beaten]
    unclear = [name for name in others if frozenset((leaders[0], name)) in judged]
    parts += [f"no detectable difference to {_listed(unclear)}"] if unclear else []
    unknown = [name for name in others if name not in unclear]
    return "; ".join(parts + ([f"not {_judged(summary)} against {_listed(unknown)}"] if unknown else [])) + "."


def _behind(
    leaders: Sequence[str], behind: Sequence[str], names: Sequence[str], better: set[tuple[str, str]]
) -> list[str]:
    """Return who is worse than all leaders, and who than some methods alone."""
    beaters = {name: [other for other in names if (other, name) in better] for name in behind}
    clear = [name for name in behind if set(leaders) <= set(beaters[name])]
    texts = [f"{_listed(clear)} worse"] if clear else []
    return texts + [f"{name} worse than {_listed(beaters[name])}" for name in behind if name not in clear]


def sentences(summary: Summary) -> list[str]:
    """Return a sentence for every pair of methods, then one for every method of how far its KL was put to use.

    What people say stands before them: it is the more trustworthy, and the fewer.
    """
    found = human_sentences(summary.humans) if summary.humans else []
    found += [pair_sentence(pair) for pair in summary.pairwise]
    found += [f"{pair.first} against {pair.second}: {pair.reason}." for pair in summary.untested]
    found += [equal_kl_sentence(row) for row in (summary.frontier.equal_kl if summary.frontier else ())]
    for point in summary.frontier.points if summary.frontier else ():
        share = point.attainable
        if share is not None and not point.setting:
            low, high = 100 * share.low, 100 * share.high
            found.append(
                f"{point.method} has {100 * share.mean:.0f} % [{low:.0f}, {high:.0f}] of the gold reward that "
                f"any policy could have gained at its KL of {point.kl.mean:.2f} nats."
            )
    found += sweep_sentences(summary)
    found += [replications_sentence(summary.replications)] if summary.replications else []
    found += [tuning_sentence(summary)] if summary.tuning else []
    return [*found, looks_sentence(summary)] if summary.looks > 1 else found


def replications_sentence(found: Replications) -> str:
    """Return what replications give to all of their methods, which pairing takes out, and to each alone."""
    digits = digits_for(found.shared + found.own)
    return (
        f"Over {found.training_seeds} replications, gold rewards of all {found.methods} methods move together by "
        f"{found.shared:.{digits}f} (start, reward model and what else they share: it cancels in a difference) and of "
        f"each alone by {found.own:.{digits}f}; so few tell such deviations roughly."
    )


def sweep_sentences(summary: Summary) -> list[str]:
    """Return that equal values of a sweep are not equal objectives, where methods' settings have two units."""
    named: dict[str, list[str]] = {}
    for point in summary.frontier.points if summary.frontier else ():
        for name in point.setting:
            named.setdefault(name, []).append(point.method)
    said = not_one_objective({name: list(dict.fromkeys(methods)) for name, methods in named.items()})
    return [f"{said}."] if said else []


def tuning_sentence(summary: Summary) -> str:
    """Return what every method's setting was chosen by."""
    counts = {len(tuned.trials) for tuned in summary.tuning.values()}
    one = next(iter(summary.tuning.values()))
    each = f"{max(counts)} trials each" if len(counts) == 1 else "trials that differ in number"
    chosen = [
        f"{name}: {', '.join(f'{key} {value:.3g}' for key, value in tuned.trials[tuned.chosen].settings.items())}"
        for name, tuned in summary.tuning.items()
    ]
    _, *methods = summary.methods.items()
    others = [name for name, row in methods if row.train and name not in summary.tuning]
    plain = f"; not tuned: {_listed(others)}" if others else ""
    where = f"{one.prompts} training prompts set aside, by {one.objective}, {each}, on a replication of their own"
    return f"Tuned on {where}: {'; '.join(chosen)}{plain}."


def looks_sentence(summary: Summary) -> str:
    """Return that the test prompts were used before, which no p-value knows."""
    many = f"The test prompts of this run folder have been used for {summary.looks} comparisons, this one included"
    return f"{many}: whoever chooses among them chooses by chance too, which is in no p-value."


def pair_sentence(pair: PairTest) -> str:
    """Return what a test says: who beats whom by how much, or that no difference was seen."""
    first, second, difference = pair.first, pair.second, pair.difference
    sign = -1 if pair.verdict == "second" else 1
    if sign < 0:
        first, second = second, first
    digits = digits_for((difference.high - difference.low) / 2 or abs(difference.mean))
    interval = _figures(difference, sign) + _effect(pair, sign)
    remark = f" ({difference.note})" if difference.note else _disagreement(pair)
    figures = f"{MEASURES[pair.measure]} {interval}, corrected p {_p(pair.p_adjusted)}{remark}"
    if pair.verdict != "none":
        return f"{first} beats {second}: {figures}."
    seen = pair.detectable
    could = (
        f"; a true difference of {seen:.{digits}f} would have been seen four times in five" if seen is not None else ""
    )
    return f"No detectable difference between {first} and {second}: {figures}{could}."


def _effect(pair: PairTest, sign: int) -> str:
    """Return the difference in standard deviations of the start's rewards, where it is known."""
    return "" if pair.effect is None else f" ({_signed(sign * pair.effect.mean, 2)} of the start's deviations)"


def _disagreement(pair: PairTest) -> str:
    """Return why a pair's interval leaves 0 out where its corrected p-value makes no verdict."""
    if pair.verdict != "none" or pair.difference.low <= 0.0 <= pair.difference.high:
        return ""
    return " (the interval, which leaves 0 out, is of this pair alone and not corrected)"


def _judged(summary: Summary) -> str:
    """Return what pairs without a test were not; they may have been judged in ways that allow none."""
    return "tested" if summary.untested else "judged"


def unbeaten(names: Sequence[str], better: set[tuple[str, str]]) -> list[str]:
    """Return the methods that no other of `names` is better than beyond chance."""
    return [name for name in names if not any((other, name) in better for other in names)]


def better_pairs(pairs: Sequence[PairTest]) -> set[tuple[str, str]]:
    """Return (better, worse) of every pair that differs beyond chance."""
    return {(pair.winner, pair.loser) for pair in pairs if pair.winner and pair.loser}


def _against(
    summary: Summary,
    start: str,
    names: Sequence[str],
    better: set[tuple[str, str]],
    judged: set[frozenset[str]],
) -> str:
    above = [name for name in names if (name, start) in better]
    below = [name for name in names if (start, name) in better]
    unknown = [name for name in names if frozenset((name, start)) not in judged]
    same = [name for name in names if name not in above + below + unknown]
    parts = [(above, "better"), (below, "worse"), (same, "no detectable difference")]
    parts.append((unknown, f"not {_judged(summary)}"))
    return "; ".join(f"{_listed(who)} {what}" for who, what in parts if who)


def _distance(summary: Summary, names: Sequence[str]) -> str:
    """Return at what KL to the reference each one stands, which is part of the price."""
    known = [(name, summary.methods[name].figures.get(KL.key)) for name in names]
    texts = [f"{name} {kl.mean:.2f}" for name, kl in known if kl is not None]
    return f" (KL, nats: {', '.join(texts)})" if len(texts) == len(names) else ""


def digits_for(size: float) -> int:
    """Return two decimals, or as many as show a half width of this size: rewards have any unit."""
    return max(2, 1 + math.floor(-math.log10(size))) if 0 < size < math.inf else 2


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}"  # never "-0.00"


def _p(p: float) -> str:
    return f"= {p_digits(p, 3)}" if p >= 0.001 else "below .001"


def p_digits(p: float, digits: int) -> str:
    """Return a p-value to so many decimals, or more where rounding would put it on the verdict's other side."""
    while p < SIGNIFICANT <= round(p, digits) and digits < 12:
        digits += 1
    return f"{p:.{digits}f}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
