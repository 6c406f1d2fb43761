"""What a run will build: pieces, each with the stages that it leaves and the pieces that it stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple


class Piece(NamedTuple):
    """A part of the work.

    Attributes:
        name: for what is shown, for others to need it, and for another process to find it in the same graph.
        build: builds stages of the run; what it returns is dropped.
        needs: the pieces whose stages it stands on.
        stages: the names of those that it builds, where nothing is finished yet.
    """

    name: str
    build: Callable[[], object]
    needs: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()


class Graph:
    """Pieces, each after those that it needs; where several could be begun, the earlier one is.

    Args:
        pieces: in that order.

    Raises:
        ValueError: if two have one name, or one needs what is not before it.
    """

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces: dict[str, Piece] = {}
        for piece in pieces:
            if piece.name in self._pieces:
                raise ValueError(f"two pieces are called {piece.name!r}")
            if missing := set(piece.needs) - self._pieces.keys():
                raise ValueError(f"piece {piece.name!r} needs {min(missing)!r}, which is none before it")
            self._pieces[piece.name] = piece

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces.values())

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, name: str) -> Piece:
        """Return the piece of a name."""
        return self._pieces[name]

    def nearest(self, piece: Piece) -> tuple[str, ...]:
        """Return what a piece needs beside what these need themselves."""
        further = {name for other in piece.needs for name in self._below(other)}
        return tuple(name for name in piece.needs if name not in further)

    def _below(self, name: str) -> set[str]:
        needs = self[name].needs
        return {*needs, *(below for other in needs for below in self._below(other))}

    @property
    def stages(self) -> list[str]:
        """The stages that all of them build, in order."""
        return [stage for piece in self for stage in piece.stages]
