"""Records: what an evaluation wrote down, whoever was evaluated; `eval.records.columns` reads it. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preflab.data.splits import fingerprint
from preflab.disk.files import read_jsonl, write_jsonl

Rows = list[dict[str, Any]]

SAMPLES, PREFERENCES = "samples.jsonl", "preferences.jsonl"


class Records:
    """What an evaluation wrote down, one row a sample or a held-out pair; what is not defined is None.

    Attributes:
        samples: one row per evaluation prompt; empty for reward models, and where nothing is generated.
            ``prompt``, ``response`` (texts), ``messages`` (the prompt as such, where a chat template wrote it),
            ``length`` (tokens), ``ended`` (before the limit), ``log_ratio``
            (log π(y|x) − log π_ref(y|x), nats), ``kl`` (Rao-Blackwellised, nats; see `eval.harness.divergence`),
            ``entropy`` (mean over positions, nats per token), ``gold`` (the judge's score), ``proxy`` (the
            training reward model's).
        preferences: one row per held-out pair, in data order. ``row`` (index in the data), ``subset``, ``group``
            (a hash that pairs of one prompt share; older records lack it), ``chosen_score`` and
            ``rejected_score`` (log π/π_ref of a policy, r of a reward model), ``chosen_logp`` and
            ``rejected_logp`` (log π(y|x), policies only), ``chosen_length`` and ``rejected_length`` (tokens);
            where the data say so, ``preference`` (share of labels for the chosen one).
    """

    def __init__(self, samples: Rows, preferences: Rows) -> None:
        self.samples, self.preferences = samples, preferences

    def write(self, folder: Path) -> None:
        """Write both tables as JSON lines."""
        write_jsonl(folder / SAMPLES, self.samples)
        write_jsonl(folder / PREFERENCES, self.preferences)

    @classmethod
    def read(cls, folder: Path) -> Records:
        """Read what `write` wrote."""
        return cls(read_jsonl(folder / SAMPLES), read_jsonl(folder / PREFERENCES))

    @property
    def fingerprint(self) -> dict[str, str]:
        """What was asked, hashed: rows of two evaluations are pairs only where their ``prompts`` (``pairs``) agree."""
        return {
            "prompts": fingerprint([{"prompt": row["prompt"]} for row in self.samples]),
            "pairs": fingerprint([{"row": row["row"]} for row in self.preferences]),
        }
