"""TRL's trainers by the native method that each is held to."""

from __future__ import annotations

from preflab.algorithms.trl_backed import TRLDPO, TRLKTO, TRLSFT, TRLReward

METHODS = {"sft": TRLSFT, "dpo": TRLDPO, "kto": TRLKTO, "reward": TRLReward}
LACKING = {"kto": {"accuracy"}}  # metrics of the native method that TRL's trainer does not compute
