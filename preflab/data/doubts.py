"""What a referee would doubt about preferences: labels that contradict each other, or that something gives away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from preflab.data.cells import shown
from preflab.data.reading import Row

FEWEST = 30
"""Pairs below which a share says little."""

GIVES_AWAY = 0.2
"""By how much more often one side begins, or ends, in one way than the other."""

LONGER = 0.6
"""Share of the pairs, of unequal length, in which one side is the longer one."""

ONE_TEXT = 0.05
"""Share of the rows that have one and the same response."""

NAMED = 5  # rows
TRIED = 20  # of the commonest beginnings of either side


class Doubt(NamedTuple):
    """Something worth a look.

    Attributes:
        about: a short name, for programs.
        message: what was found, in a sentence.
        rows: the numbers of some rows that show it.
    """

    about: str
    message: str
    rows: tuple[int, ...] = ()


def doubts_of(rows: Sequence[Row], numbers: Sequence[int]) -> list[Doubt]:
    """Return what is to be doubted about clean rows.

    Args:
        rows: pairs (``prompt``, ``chosen``, ``rejected``) and single responses (``prompt``, ``response``,
            ``desirable``).
        numbers: of each, its number in the file.
    """
    pairs = [(number, row) for number, row in zip(numbers, rows, strict=True) if "chosen" in row]
    singles = [(number, row) for number, row in zip(numbers, rows, strict=True) if "response" in row]
    found = [
        *_repeated(pairs, singles),
        *_contradicted(pairs, singles),
        *_given_away(pairs),
        *_longer([(len(row["chosen"].strip()), len(row["rejected"].strip())) for _, row in pairs]),
        *_one_text(pairs),
    ]
    return found


Numbered = Sequence[tuple[int, Row]]


def _repeated(pairs: Numbered, singles: Numbered) -> Iterable[Doubt]:
    keys = [(number, hash((row["prompt"], row["chosen"], row["rejected"]))) for number, row in pairs]
    keys += [(number, hash((row["prompt"], row["response"], row["desirable"]))) for number, row in singles]
    seen, again = set[int](), list[int]()
    for number, key in keys:
        if key in seen:
            again.append(number)
        seen.add(key)
    if again:
        yield Doubt(
            "repeated", f"rows that repeat an earlier one and count again: {len(again):,}", tuple(again[:NAMED])
        )


def _contradicted(pairs: Numbered, singles: Numbered) -> Iterable[Doubt]:
    """Find one pair in both orders, and one response with both labels."""
    known = {hash((row["prompt"], row["chosen"], row["rejected"])) for _, row in pairs}
    turned = [n for n, row in pairs if hash((row["prompt"], row["rejected"], row["chosen"])) in known]
    if turned:
        yield Doubt(
            "both orders",
            f"rows whose pair stands in both orders, so that one label is wrong or neither is sure: {len(turned):,}",
            tuple(turned[:NAMED]),
        )
    labelled = {hash((row["prompt"], row["response"], row["desirable"])) for _, row in singles}
    both = [n for n, row in singles if hash((row["prompt"], row["response"], not row["desirable"])) in labelled]
    if both:
        yield Doubt("both labels", f"rows whose response has both labels: {len(both):,}", tuple(both[:NAMED]))


# ---- what gives the label away -----------------------------------------------------------------------


def _first(count: int) -> Callable[[str], str]:
    return lambda text: " ".join(text.split(maxsplit=count)[:count])


def _last(text: str) -> str:
    return text.rsplit(maxsplit=1)[-1] if text.strip() else ""


WAYS: tuple[tuple[str, Callable[[str], str]], ...] = (("begin", _first(3)), ("begin", _first(1)), ("end", _last))


def _given_away(pairs: Numbered) -> Iterable[Doubt]:
    """Find a beginning or an end that one side has far more often: a model could learn that alone."""
    if len(pairs) < FEWEST:
        return
    for way, cut in WAYS:
        chosen, rejected = (Counter(cut(row[side]) for _, row in pairs) for side in ("chosen", "rejected"))
        common = dict.fromkeys(text for side in (chosen, rejected) for text, _ in side.most_common(TRIED))
        text = max(common, key=lambda text: abs(chosen[text] - rejected[text]))
        shares = chosen[text] / len(pairs), rejected[text] / len(pairs)
        if abs(shares[0] - shares[1]) < GIVES_AWAY:
            continue
        rows = [n for n, row in pairs if (cut(row["chosen"]) == text) != (cut(row["rejected"]) == text)]
        yield Doubt(
            "given away",
            f"{shares[0]:.0%} of the chosen responses {way} with {shown(text)}, and {shares[1]:.0%} of the "
            "rejected: a model can tell them apart by that alone",
            tuple(rows[:NAMED]),
        )
        return


def _longer(lengths: Sequence[tuple[int, int]]) -> Iterable[Doubt]:
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    share = sum(unequal) / len(unequal) if unequal else 0.5
    if len(unequal) >= FEWEST and max(share, 1 - share) >= LONGER:
        side, most = ("chosen", share) if share > 0.5 else ("rejected", 1 - share)
        yield Doubt(
            "longer",
            f"the {side} response is the longer one in {most:.0%} of the pairs: see whether methods learn more than "
            "length",
        )


def _one_text(pairs: Numbered) -> Iterable[Doubt]:
    for side in ("chosen", "rejected") if len(pairs) >= FEWEST else ():
        text, count = Counter(row[side] for _, row in pairs).most_common(1)[0]
        if count >= ONE_TEXT * len(pairs):
            rows = [n for n, row in pairs if row[side] == text]
            yield Doubt(
                "one text",
                f"{count:,} of the {side} responses are one text, {shown(text.strip())}",
                tuple(rows[:NAMED]),
            )
