"""How far the annotators of one file of verdicts agree: all together, and every two of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from preflab.eval.judges.verdicts import Panel, Verdict, panel
from preflab.eval.statistics import Agreement, Estimate, agreement

NONE_SHARED = "No pair has been judged by two annotators, so that nothing is known of how far they agree."


class Between(NamedTuple):
    """Two annotators who judged some of the same pairs.

    Attributes:
        annotators: their names.
        agreement: of their verdicts on these pairs.
    """

    annotators: tuple[str, str]
    agreement: Agreement


def every_two(found: Panel) -> list[Between]:
    """Return how far every two annotators agree who judged some of the same pairs."""
    columns = zip(found.annotators, found.verdicts.T, strict=True)
    pairs = []
    for (one, said), (other, also) in combinations(columns, 2):
        both = np.isfinite(said) & np.isfinite(also)
        if both.any():
            pairs.append(Between((one, other), agreement(said[both], also[both], found.prompts[both])))
    return pairs


def agreement_sentences(verdicts: Sequence[Verdict]) -> list[str]:
    """Return how far annotators agree, in sentences: all together, then every two where there are three or more."""
    found = panel(verdicts)
    if found is None:
        return [NONE_SHARED]
    share, kappa = found.agreement()
    many = len(found.annotators)
    sentences = [
        f"Of {share.n:,} pairs that two or more of {many} annotators judged, two of them agree on {percent(share)}"
        f"{beyond(kappa)}."
    ]
    if many > 2:
        sentences += [
            f"{' and '.join(names)}: {percent(share)} of {share.n:,} pairs{beyond(kappa)}."
            for names, (share, kappa) in every_two(found)
        ]
    return sentences


def percent(share: Estimate) -> str:
    """Return a share with its interval."""
    return f"{100 * share.mean:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def number(kappa: Estimate | None) -> str:
    """Return a kappa with its interval."""
    return f"{kappa.mean:.2f} [{kappa.low:.2f}, {kappa.high:.2f}]" if kappa else "not defined: all say tie"


def beyond(kappa: Estimate | None) -> str:
    """Return what of a share is beyond chance, as the end of a sentence."""
    return f"; kappa, which sets off chance, {number(kappa)}"
