"""One annotator's way through the pairs: what is shown next, and where each response stands; forth and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from preflab.disk.digests import digest
from preflab.eval.annotation.log import VerdictLog
from preflab.eval.annotation.pairs import Pair
from preflab.eval.judges.verdicts import pair_key, verdicts_of

Choice = Literal["1", "2", "t"]
"""The response in the first place is better, that in the second, or neither."""


class Shown(NamedTuple):
    """A pair as an annotator sees it.

    Attributes:
        name: for the page that shows it; another one for another seed or annotator, who may see the responses in other
            places. Names are drawn, and their order is that in which pairs are shown.
        pair: the pair.
        swapped: whether its second response takes the first place.
    """

    name: str
    pair: Pair
    swapped: bool

    @property
    def responses(self) -> tuple[str, str]:
        """The two, in their places."""
        return (self.pair.second, self.pair.first) if self.swapped else (self.pair.first, self.pair.second)

    @property
    def places(self) -> tuple[str, str]:
        """Which of the pair's responses stands in each place."""
        return ("second", "first") if self.swapped else ("first", "second")


class Sitting:
    """What an annotator has judged, and what is open.

    Order and places are drawn for each annotator, so that a habit of looking left, or tired ends, are not everybody's.
    Those whose verdicts are in the file already go on where they were; what they skipped is open again.

    Args:
        pairs: to be judged.
        log: where verdicts go.
        annotator: who gives them.
        seed: of order and places.
    """

    def __init__(self, pairs: Sequence[Pair], log: VerdictLog, annotator: str, seed: int) -> None:
        self.annotator, self._log = annotator, log
        every = sorted(_shown(pair, annotator, seed) for pair in pairs)
        self._shown = {shown.name: shown for shown in every}
        judged, names = log.judged_by(annotator), {shown.pair.key: shown.name for shown in every}
        self._open = [shown.name for shown in every if shown.pair.key not in judged]
        self._skipped: list[str] = []
        self._history = [names[key] for key in judged if key in names]
        """What was judged or skipped, the last at the end."""

    @property
    def total(self) -> int:
        """How many pairs there are."""
        return len(self._shown)

    @property
    def judged(self) -> int:
        """How many of them this annotator has judged."""
        return self.total - len(self._open) - len(self._skipped)

    @property
    def skipped(self) -> int:
        """How many of them were skipped for now."""
        return len(self._skipped)

    @property
    def current(self) -> Shown | None:
        """What to show; None where nothing is open."""
        return self._shown[self._open[0]] if self._open else None

    @property
    def last(self) -> Shown | None:
        """What `undo` would show again."""
        return self._shown[self._history[-1]] if self._history else None

    def named(self, name: str) -> Shown | None:
        """Return a pair of this sitting by its name; None for a name of another one."""
        return self._shown.get(name)

    def judge(self, shown: Shown, choice: Choice, note: str = "") -> bool:
        """Write a verdict, unless there is one: whoever sends it twice gives it once.

        Returns:
            Whether this verdict now stands; not where another one does.

        Raises:
            UserError: if it cannot be written; the pair is open still.
        """
        row = verdict_row(shown, choice, self.annotator, note)
        if shown.name not in self._open and shown.name not in self._skipped:
            return self._log.judged_by(self.annotator)[shown.pair.key] == verdicts_of([row], "a verdict")[0].value
        self._log.append(row)
        self._leave(shown)
        return True

    def skip(self, shown: Shown) -> None:
        """Leave a pair for later, if it is open."""
        if shown.name in self._open:
            self._leave(shown)
            self._skipped.append(shown.name)

    def undo(self) -> bool:
        """Take the last verdict back, or the last skip, and show its pair again; whether there was one.

        Raises:
            UserError: if it cannot be written; the verdict stands still.
        """
        if not self._history:
            return False
        shown = self._shown[self._history[-1]]
        if shown.name in self._skipped:
            self._skipped.remove(shown.name)
        else:
            self._log.take_back(self.annotator, shown.pair.key)
        self._open.insert(0, self._history.pop())
        return True

    def show_skipped(self) -> None:
        """Open what was skipped, behind whatever is open still."""
        self._history = [name for name in self._history if name not in self._skipped]
        self._open += self._skipped
        self._skipped = []

    def _leave(self, shown: Shown) -> None:
        for names in (self._open, self._skipped, self._history):
            if shown.name in names:
                names.remove(shown.name)
        self._history.append(shown.name)


def _shown(pair: Pair, annotator: str, seed: int) -> Shown:
    """Return a pair as an annotator sees it, drawn, yet the same whenever it is asked for.

    Who knows the seed can say which of two texts stands first in the alphabet, and nothing of whose they are.
    """
    drawn = digest(repr((seed, annotator, *pair.key)))
    turned = pair_key(pair.prompt, pair.first, pair.second)[1]
    return Shown(drawn[:24], pair, turned != (int(drawn[-1], 16) % 2 == 1))


def verdict_row(shown: Shown, choice: Choice, annotator: str, note: str = "") -> dict[str, Any]:
    """Return what is written down: the verdict in terms of first and second, and where each was shown."""
    pair, places = shown.pair, shown.places
    verdict = "tie" if choice == "t" else places[int(choice) - 1]
    row: dict[str, Any] = {"prompt": pair.prompt, "first": pair.first, "second": pair.second, "verdict": verdict}
    row |= {"messages": pair.messages} if pair.messages else {}
    row |= {"annotator": annotator, "shown": {"1": places[0], "2": places[1]}}
    row |= {"models": {"first": pair.names[0], "second": pair.names[1]}} if pair.names else {}
    return row | ({"note": note} if note else {})
