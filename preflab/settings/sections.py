"""What a command line asks of the settings that stand in sections of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Sections(Protocol):
    """Settings in sections of their own, as ``--SECTION.FIELD``: those of methods."""

    def named(self, section: str) -> str:
        """Return a section's name, however it is spelt."""

    def classes(self, section: str, asked: Sequence[str]) -> Mapping[str, type] | None:
        """Return whose fields it has, where these methods are asked for; None if there is no such section."""

    def known(self, asked: Sequence[str]) -> Sequence[str]:
        """Return every section that there is."""

    def others(self, field: str) -> Sequence[str]:
        """Return every method that has a field."""

    def about(self, section: str, asked: Sequence[str]) -> str:
        """Return in a line what a section is of, where these methods are asked for."""
