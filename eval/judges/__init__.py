"""Judges: who says which response is better. They score single responses, or they compare two.

`open_pair_judge` finds a comparing judge by what a person writes on the command line. Nothing here imports torch
before a judge that needs it is called.
"""

from __future__ import annotations

from pathlib import Path

from eval.judges.base import HeadToHead, Judge, JudgeSpec, PairJudge, head_to_head
from eval.judges.endpoint import EndpointJudge
from eval.judges.settings import EndpointConfig
from eval.judges.summary import judge_sentences
from eval.judges.trained import PLANTED, HeldOutRewardModel, TextJudge, planted, warn_if_trained_against, weights_hash
from eval.judges.verdicts import HumanVerdicts
from preflab.errors import UserError

__all__ = [
    "PLANTED",
    "EndpointConfig",
    "EndpointJudge",
    "HeadToHead",
    "HeldOutRewardModel",
    "HumanVerdicts",
    "Judge",
    "JudgeSpec",
    "PairJudge",
    "TextJudge",
    "head_to_head",
    "judge_sentences",
    "open_pair_judge",
    "planted",
    "warn_if_trained_against",
    "weights_hash",
]


def open_pair_judge(spec: str, endpoint: EndpointConfig | None = None) -> PairJudge:
    """Return the comparing judge that `spec` names.

    Args:
        spec: ``endpoint``, or the path of a file of human verdicts.
        endpoint: settings of the endpoint; needed for ``endpoint`` only.

    Raises:
        UserError: if there is no such judge, its settings are incomplete or its file is unreadable.
    """
    if spec == "endpoint":
        return EndpointJudge(endpoint or EndpointConfig())
    path = Path(spec).expanduser()
    if path.is_file():
        return HumanVerdicts(path)
    raise UserError(f"--judge {spec!r} is neither 'endpoint' nor a file of verdicts (docs/judges.md has the format)")
