"""What tells one stage's inputs from another's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.disk.digests import digest_of_parts
from preflab.errors import UserError

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.experiment.rewards import Rewards

LARGE_FILE = 64 * 2**20


class StandsOn(NamedTuple):
    """The stages under another one, by their keys; these are names of a stage's inputs in ``stage.json``.

    Attributes:
        sft: where the policy starts; None: the bare base.
        reward: what gives rewards; None where nothing does.
    """

    sft: str | None = None
    reward: str | None = None

    @classmethod
    def of(cls, sft: Stage | None, reward: Stage | Rewards | None) -> StandsOn:
        """Return the keys of stages."""
        return cls(sft.key if sft else None, reward.key if reward else None)

    @classmethod
    def said(cls, inputs: Mapping[str, Any]) -> StandsOn:
        """Return what a stage's inputs say, whoever wrote them; a run of another version may lack one."""
        return cls(*(inputs.get(name) for name in cls._fields))

    def start(self) -> dict[str, str | None]:
        """Return the part of a stage's inputs that counts where no reward decides anything."""
        return {name: key for name, key in self._asdict().items() if name != "reward"}


def model_fingerprint(name: str) -> str:
    """Return 16 hex digits of a local model's files; a hub name stands for itself.

    Weight files past 64 MiB count by size and time of change, which is quick and errs towards building
    again.

    Raises:
        UserError: if a file cannot be read.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name
    try:
        return digest_of_parts(_parts(folder), 16)
    except OSError as error:
        raise UserError(f"model {name!r}: {error.filename} cannot be read: {error.strerror}") from None


def _parts(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors", ".model", ".txt", ".jinja") and path.is_file():
            status = path.stat()
            large = status.st_size > LARGE_FILE
            yield path.name.encode(errors="surrogateescape")
            yield f"{status.st_size} {status.st_mtime_ns}".encode() if large else path.read_bytes()
