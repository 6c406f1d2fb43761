"""What third parties import stays where it is: the names that `preflab` offers, each the object it stands for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import preflab

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = [
    "KL_TARGET_METRICS",
    "POLICY_METRICS",
    "STD_EPSILON",
    "VALUE_METRICS",
    "ActorCriticConfig",
    "ActorCriticFeedback",
    "Algorithm",
    "Batch",
    "Behaviour",
    "BestOf",
    "DecoderMethod",
    "Feedback",
    "KnownOptimum",
    "Labels",
    "LoraSettings",
    "Loss",
    "LossMethod",
    "Mean",
    "Needs",
    "Pair",
    "Pairwise",
    "PolicyFeedback",
    "PolicyGradient",
    "PolicyGradientConfig",
    "Prepares",
    "Rollout",
    "RolloutConfig",
    "Scores",
    "TokenPolicyGradient",
    "TokenPolicyGradientConfig",
    "TrainConfig",
    "TrainerMethod",
    "UserError",
    "at_last_token",
    "behaviour",
    "best_of_n_kl_bound",
    "best_of_n_log_ratio",
    "best_of_n_logps",
    "bootstrapped_scores",
    "charged_rewards",
    "clipped_surrogate",
    "clipped_value_loss",
    "compare",
    "compare_scores",
    "discounted_advantages",
    "evaluate",
    "explained_variance",
    "importance_weighted",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_penalty",
    "kl_regularised_optimum",
    "log_odds",
    "log_sigmoid",
    "loss_per_unit",
    "masked_mean",
    "masked_sum",
    "mean_of",
    "mean_of_others",
    "moments",
    "next_kl_coefficient",
    "option",
    "plackett_luce",
    "policy_metrics",
    "policy_ratio",
    "response_scores",
    "score",
    "train",
    "unit_mask",
    "value_metrics",
    "whiten",
    "win_probability",
]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there(name):
    assert name in preflab.__all__
    assert getattr(preflab, name) is not None


def test_names_of_higher_floors_are_fetched_when_asked_for():
    code = """
import sys
import preflab
late = {"compare", "compare_scores", "evaluate", "score", "train"}
assert late <= set(dir(preflab)) and not late & set(vars(preflab))
assert not [name for name in sys.modules if name.startswith("preflab.eval") or name == "torch"]
assert preflab.compare is sys.modules["preflab.eval.python"].compare and "torch" not in sys.modules
try:
    preflab.comparre
except AttributeError as error:
    assert "comparre" in str(error)
else:
    raise SystemExit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_example_methods_import_nothing_but_public_names():
    for path in (ROOT / "docs" / "example_package" / "example_methods").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("preflab"):
                assert node.module == "preflab"
                assert {alias.name for alias in node.names} <= set(preflab.__all__)
