"""Judges: who says which response is better. They score single responses, or they compare two.

A file of this folder that declares a `JudgeOption` as ``JUDGE`` is a judge that ``--judge`` may name, by being there;
`open_named_judge` opens it. Nothing here imports torch before a judge that needs it is called.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from preflab.errors import UserError
from preflab.eval.judges.base import HeadToHead, Judge, JudgeOption, JudgeSpec, PairJudge, head_to_head
from preflab.eval.judges.endpoint import EndpointJudge
from preflab.eval.judges.settings import EndpointConfig
from preflab.eval.judges.summary import judge_sentences
from preflab.eval.judges.trained import (
    PLANTED,
    HeldOutRewardModel,
    TextJudge,
    planted,
    warn_if_trained_against,
    weights_hash,
)
from preflab.eval.judges.verdicts import HumanVerdicts

__all__ = [
    "JUDGES",
    "PLANTED",
    "EndpointConfig",
    "EndpointJudge",
    "HeadToHead",
    "HeldOutRewardModel",
    "HumanVerdicts",
    "Judge",
    "JudgeOption",
    "JudgeSpec",
    "PairJudge",
    "TextJudge",
    "declared",
    "head_to_head",
    "judge_named",
    "judge_sentences",
    "judge_settings",
    "known_judges",
    "open_named_judge",
    "planted",
    "warn_if_trained_against",
    "weights_hash",
]


def declared(modules: Iterable[ModuleType]) -> dict[str, JudgeOption]:
    """Return the judges that modules declare, by the word for each.

    Raises:
        TypeError: if a ``JUDGE`` is something else.
        ValueError: if two go by one word.
    """
    found: dict[str, JudgeOption] = {}
    for module in modules:
        option = vars(module).get("JUDGE")
        if option is None:
            continue
        if not isinstance(option, JudgeOption):
            raise TypeError(f"JUDGE of {module.__name__} is a {type(option).__name__}; it must be a JudgeOption")
        if option.name in found:
            raise ValueError(f"{module.__name__} declares a second judge {option.name!r}; rename one of them")
        found[option.name] = option
    return found


def _found() -> dict[str, JudgeOption]:
    return declared(import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))


JUDGES: Mapping[str, JudgeOption] = _found()
"""Every judge that a person may name, by the word for it: what the files of this folder declare as ``JUDGE``."""


def judge_settings() -> dict[str, type]:
    """Return the config classes of judges' own options, by title."""
    return {name: option.settings for name, option in JUDGES.items() if option.settings is not None}


def judge_named(spec: str) -> JudgeOption | None:
    """Return which judge `spec` names; None where none of them."""
    return next((option for option in JUDGES.values() if option.is_named_by(spec)), None)


def open_named_judge(spec: str, settings: Mapping[str, Any] | None = None) -> PairJudge | JudgeSpec:
    """Return the judge that `spec` names.

    Args:
        spec: the word for a judge, or what else names it, such as the path of a file of human verdicts.
        settings: of the judges that have any, by title; defaults where they are missing.

    Raises:
        UserError: if there is no such judge, its settings are incomplete or its file is unreadable.
    """
    option = judge_named(spec)
    if option is None:
        raise UserError(f"--judge {spec!r} is not {known_judges()} (docs/judges.md)")
    default = option.settings() if option.settings else None
    judge = option.opens(spec, (settings or {}).get(option.name, default))
    if judge is None:  # would pass for the world's own
        raise TypeError(f"the judge {option.name!r} opened nothing; its `opens` must return a judge")
    return judge


def known_judges(*more: str) -> str:
    """Return what may be named, in words, and what else may be."""
    every = [*(option.what for option in JUDGES.values()), *more]
    return f"{', '.join(every[:-1])} or {every[-1]}"
