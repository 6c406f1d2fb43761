"""The judge of a table as one who ranks held-out pairs itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from preflab.eval.judges import JudgeSpec
from preflab.eval.records.records import Records
from preflab.eval.subjects.ground import Ground


@dataclass(frozen=True)
class ScoringJudge:
    """A judge that scores.

    Attributes:
        spec: opens it.
    """

    spec: JudgeSpec
    kind: str = "judge"
    role: str = "reward"

    @property
    def key(self) -> str:
        """What decides its scores."""
        return self.spec.key

    def evaluate(self, ground: Ground, title: str, folder: Path | None = None) -> Records:
        """Score held-out pairs, by the very calls that judge answers."""
        from preflab.eval.harness.evaluate import evaluate_judge

        roles = ground.experiment.open_roles(("policy",), sft=ground.sft, reward=None)
        return evaluate_judge(ground.experiment, self.spec.open(roles), ground.config, title=title)
