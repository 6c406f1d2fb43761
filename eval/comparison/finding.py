"""What a comparison found as a heading of a few words, and how far that goes as labels beside it.

Both come from the fields that the headline is made of (`eval.comparison.sentences`) and never claim more than it does:
what a heading has no room for, it leaves out, and names nobody whom it cannot say the truth of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

from preflab.eval.comparison.human_sentences import contested
from preflab.eval.comparison.sentences import better_pairs, policies, unbeaten
from preflab.eval.records.comparison import Summary
from preflab.eval.records.frontier import EqualKl

MOST_WORDS = 8


class Heading(NamedTuple):
    """What was found.

    Attributes:
        text: at most `MOST_WORDS` words.
        scope: what that is about, and what weakens it; empty where nothing is claimed.
    """

    text: str
    scope: tuple[str, ...]


def heading(summary: Summary, start: str) -> Heading:
    """Return the finding, of the methods against each other, or of a single one against `start`."""
    names = policies(summary, start)
    if not names:
        return Heading("No policy was compared", ())
    if not summary.pairwise:
        return Heading("No two methods could be tested" if summary.untested else "Nobody judged the answers", ())
    return Heading(_brief(_found(summary, names, start)), scope(summary))


def scope(summary: Summary) -> tuple[str, ...]:
    """Return what a finding is about, trained models or methods, and what else its claim is no larger than."""
    count = summary.training_seeds
    if count == 1:
        about = "these trained models only"
    elif summary.common:
        about = f"methods on this one {' and this one '.join(summary.common)}, {count} seeds"
    else:
        about = f"methods, {count} {'replications' if summary.redrawn else 'seeds'}"
    found = [about]
    if summary.looks > 1:
        found.append(f"exploratory: test prompts used {summary.looks} times")
    if summary.judge_is_kin:
        found.append("judge akin to the reward model")
    return tuple(found)


def _found(summary: Summary, names: Sequence[str], start: str) -> Iterable[str]:
    """Return ways to say it, the one that says most first; the last has room for any name."""
    if contested(summary):
        return ["People do not confirm every finding"]
    if summary.primary == "equal-kl":
        return _at_equal_kl(summary.frontier.equal_kl if summary.frontier else ())
    better = better_pairs(summary.pairwise)
    judged = {frozenset((pair.first, pair.second)) for pair in summary.pairwise}
    if len(names) == 1:
        return _against(names[0], start, better, judged)
    return _between(names, better, judged, "tested" if summary.untested else "judged")


def _between(
    names: Sequence[str], better: set[tuple[str, str]], judged: set[frozenset[str]], asked: str
) -> Iterable[str]:
    best = unbeaten(names, better)
    if len(best) > 1:
        if any(frozenset(pair) not in judged for pair in combinations(best, 2)):
            return [f"Not every two methods were {asked}"]
        many = f"{len(best)} methods" if len(best) == len(names) else f"{len(best)} of {len(names)} methods"
        named = [f"No detectable difference between {best[0]} and {best[1]}"] if len(best) == 2 else []
        return [*named, f"No detectable difference among {many}"]
    beaten = [name for name in names if best and (best[0], name) in better]
    if not beaten:
        return ["Methods beat one another in a circle"]
    others = len(names) - 1
    if len(beaten) < others:
        return [f"{best[0]} beats {len(beaten)} of {others} others", "One method beats some of the others"]
    if others == 1:
        return [f"{best[0]} beats {beaten[0]}", "One method beats the other"]
    return [f"{best[0]} beats {'both' if others == 2 else f'all {others}'} others", "One method beats all others"]


def _against(name: str, start: str, better: set[tuple[str, str]], judged: set[frozenset[str]]) -> Iterable[str]:
    if (name, start) in better:
        return [f"{name} beats {start}", "The method beats its start"]
    if (start, name) in better:
        return [f"{name} is worse than {start}", "The method is worse than its start"]
    if frozenset((name, start)) in judged:
        return [f"No detectable difference between {name} and {start}", "No detectable difference to the start"]
    return [f"Nobody judged {name} against {start}", "Nobody judged the method against its start"]


def _at_equal_kl(rows: Sequence[EqualKl]) -> Iterable[str]:
    if not rows:
        return ["No two methods reach a common KL"]
    better = {(r.first, r.second) if r.verdict == "first" else (r.second, r.first) for r in rows if r.verdict != "none"}
    if not better:
        return ["No detectable difference at equal KL"]
    if len(rows) == 1:
        ((first, second),) = better
        return [f"{first} beats {second} at equal KL", "One method beats another at equal KL"]
    names = {name for row in rows for name in (row.first, row.second)}
    for name in sorted(names):
        if all((name, other) in better for other in names - {name}):
            return [f"{name} beats all others at equal KL", "One method beats all at equal KL"]
    return [f"At equal KL, {len(better)} of {len(rows)} pairs differ"]


def _brief(ways: Iterable[str]) -> str:
    """Return the first that is short enough: names are anybody's, and may hold spaces."""
    return next(text for text in ways if len(text.split()) <= MOST_WORDS)
