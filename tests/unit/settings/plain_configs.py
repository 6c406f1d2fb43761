"""Two configs whose fields have every type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preflab.settings.fields import option


@dataclass(frozen=True)
class Plain:
    """One field of each kind."""

    rate: float = option(0.5, "a share", minimum=0.0, maximum=1.0)
    count: int = option(3, "a number", minimum=1)
    name: str = option("x", "a word")
    quick: bool = option(False, "a switch")
    kind: Literal["a", "b"] = option("a", "a choice")
    limit: int | None = option(None, "a number or none")
    names: tuple[str, ...] = option((), "words")
    folder: Path = option(Path("runs"), "a folder")
    extra: dict[str, int] = option({}, "others")

    def __post_init__(self):
        if self.count == 13:
            raise ValueError("count 13 brings bad luck; take 12")


@dataclass(frozen=True)
class Other:
    """Shares one field with `Plain`."""

    rate: float = option(0.5, "a share")
    steps: int = option(1, "steps")
