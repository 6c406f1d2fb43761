"""One method at one setting, as the evaluation knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preflab.disk.files import read_jsonl
from preflab.eval.records.columns import column, kl_to_reference
from preflab.eval.records.records import Records

Array = NDArray[np.float64]
Row = Mapping[str, Any]

LONGEST_CURVE = 200


@dataclass(frozen=True)
class Contestant:
    """One method at one setting.

    Attributes:
        name: what tables call it.
        records: one evaluation per training seed, all on the same prompts and pairs.
        training: what each seed's training cost; empty where nothing was trained.
        curves: what each seed's training logged.
        settings: the method's configuration.
        varied: settings that a sweep changed; empty where they are the configured ones.
        gives: what was trained, ``policy`` or ``reward``.
        replicated: whether seed s of it shares start and reward model with seed s of the others, and no other seed's.
        course: the method on its way, one a snapshot, in order; their `varied` holds the ``step``.
        back: the method on its way back to the start, in order; their `varied` holds the ``share``.
    """

    name: str
    records: Sequence[Records]
    training: Sequence[Row] = ()
    curves: Sequence[Sequence[Row]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    varied: Mapping[str, Any] = field(default_factory=dict)
    gives: str = "policy"
    replicated: bool = False
    course: Sequence[Contestant] = ()
    back: Sequence[Contestant] = ()

    def table(self, name: str) -> Array | None:
        """Return a column of the samples over training seeds, ``[S, N]``; None where it is not known."""
        return column([records.samples for records in self.records], name)

    @property
    def kl(self) -> Array | None:
        """KL to the reference, ``[S, N]``, nats; None where it is not known. See `kl_to_reference`."""
        return kl_to_reference([records.samples for records in self.records])


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """Return what a stage logged in training, thinned to `LONGEST_CURVE` lines; nothing where it logged nothing.

    The library's count of epochs is left out: it is of an endless stream, and starts again when a run is resumed.
    """
    path = folder / "metrics.jsonl"
    lines = read_jsonl(path) if path.is_file() else []
    rows = [{name: value for name, value in line.items() if name != "epoch"} for line in lines]
    kept = {round(at) for at in np.linspace(0, len(rows) - 1, LONGEST_CURVE)} if rows else set()
    return [rows[i] for i in sorted(kept)]
