"""The two kinds of judges, and how two policies' responses are put before one that compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from preflab.method.contract import Batch
    from preflab.model.roles import Roles


class Judge(Protocol):
    """Gives a gold reward to each of the K responses to each of B prompts.

    What it reads (weights, a function, a client) is its own: nothing of the caller's is changed by a call.
    """

    def __call__(self, batch: Batch, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return the rewards ``[B, K]``.

        Args:
            batch: prompts and responses as tokens, ``[B, K, T]``.
            prompts: the B prompts as text.
            texts: the K responses of each as text, which say the same as the tokens.
        """
        ...


class JudgeSpec(NamedTuple):
    """A judge whose weights are not opened yet.

    Attributes:
        name: for tables.
        key: what decides its scores, for the keys of stages.
        sources: what it is recognised by where policies were trained to please it: keys of stages and folders.
        open: the judge, on the base of some roles where it is an adapter of that base; the roles stay as they are.
    """

    name: str
    key: str
    sources: tuple[str | Path, ...]
    open: Callable[[Roles], Judge]


class PairJudge(Protocol):
    """Says which of two responses to a prompt is better.

    Attributes:
        name: for tables.
        sees_position: whether it knows which response was shown first, and may lean that way.
    """

    name: str
    sees_position: bool

    def prefer(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float | None]:
        """Return, for each prompt, how far the first response is preferred.

        1: the first is better, 0: the second is, 0.5: a tie; between them where several annotators disagree;
        None: no answer.
        """
        ...

    def report(self) -> dict[str, Any]:
        """Return what a reader must know of all answers so far, JSON-ready: counts, costs, warnings.

        `eval.judges.summary` puts the counts that judges share into words; ``sentences``, a list, are a judge's own.
        """
        ...


@dataclass(frozen=True)
class JudgeOption:
    """A judge that a person may name as ``--judge``: what its own file says of it, as ``JUDGE``.

    Attributes:
        name: the word for it, and the title of its settings.
        what: how help and messages call it.
        opens: gives the judge, one that compares or one that scores, from what names it and its settings (None where
            it has none). No weights are opened yet, and what would end a long run later is said now.
        fits: whether something names it, such as the path of a file; None: its word does, and nothing else.
        settings: dataclass of options of its own, each with a name that no other settings have.
    """

    name: str
    what: str
    opens: Callable[[str, Any], PairJudge | JudgeSpec]
    fits: Callable[[str], bool] | None = None
    settings: type | None = None

    def is_named_by(self, spec: str) -> bool:
        """Whether `spec` names it."""
        return spec == self.name if self.fits is None else self.fits(spec)


class HeadToHead(NamedTuple):
    """What a judge said of two policies' responses.

    Attributes:
        wins: ``[N]``: 1 where the first policy's response is better, 0.5 for ties, 0; None without an answer.
        identical: pairs of equal responses, ties that nobody was asked about.
        missing: pairs without an answer.
        inconsistent: share of the answered pairs on which the two orders gave different answers; None where the
            judge does not see position, or was asked nothing.
        shown_first: mean preference for the response shown first, over both orders; 0.5 leans nowhere.
    """

    wins: list[float | None]
    identical: int
    missing: int
    inconsistent: float | None
    shown_first: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and shares, without the answers."""
        return {name: value for name, value in self._asdict().items() if name != "wins"}


def head_to_head(judge: PairJudge, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> HeadToHead:
    """Ask a judge which of two policies' responses is better, on each prompt.

    A judge that sees position is asked in both orders (Zheng et al. 2023, arXiv 2306.05685, section 3.4): a response
    wins if it wins in both; answers that contradict each other, or a win and a tie, make a tie. Responses that are
    equal but for surrounding white space tie without being asked about.

    Raises:
        ValueError: if the three sequences differ in length.
    """
    if not len(prompts) == len(first) == len(second):
        raise ValueError(f"{len(prompts)} prompts, {len(first)} first and {len(second)} second responses")
    asked = [i for i in range(len(prompts)) if first[i].strip() != second[i].strip()]
    there = ([prompts[i] for i in asked], [first[i] for i in asked], [second[i] for i in asked])
    wins: list[float | None] = [0.5] * len(prompts)
    if not judge.sees_position:
        answers = judge.prefer(*there)
        inconsistent = shown_first = None
    else:
        # One call for both orders, so that a slow judge can work on all of them at once.
        both = judge.prefer(there[0] * 2, there[1] + there[2], there[2] + there[1])
        orders = list(zip(both[: len(asked)], both[len(asked) :], strict=True))
        answers = [_agreed(*order) for order in orders]
        known = [(a, b) for a, b in orders if a is not None and b is not None]
        inconsistent = sum(a != 1 - b for a, b in known) / len(known) if known else None
        shown_first = sum(a + b for a, b in known) / (2 * len(known)) if known else None
    for i, answer in zip(asked, answers, strict=True):
        wins[i] = answer
    return HeadToHead(wins, len(prompts) - len(asked), wins.count(None), inconsistent, shown_first)


def _agreed(ahead: float | None, behind: float | None) -> float | None:
    """Return what the answers with the first policy's response shown ahead and behind amount to."""
    if ahead is None or behind is None:
        return None
    behind = 1 - behind
    return (ahead + behind) / 2 if (ahead - 0.5) * (behind - 0.5) > 0 else 0.5
