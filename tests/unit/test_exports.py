"""What leaves the suite: files of other tools' formats, and adapters that their loaders take."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from preflab.data.formats import preference_rows
from preflab.data.reading import read_rows
from preflab.errors import UserError
from preflab.eval.exports import alpaca_outputs, main, rewardbench_pairs, rewardbench_scores
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings

ODD = 'a\u2028b "quoted" \\ 日本 <script>\n'
SAMPLES = [
    {"prompt": "Say hello.", "response": "Hello!", "length": 2, "gold": None},
    {"prompt": ODD, "response": "", "length": 0, "gold": 1.0},
]
PAIRS = [
    {"prompt": "Q1", "chosen": "good", "rejected": "bad", "subset": "chat"},
    {"prompt": "Q2", "chosen": ODD, "rejected": "bad"},
    {"prompt": "Q3", "chosen": "fine", "rejected": "poor", "subset": "safety"},
]
PREFERENCES = [
    {"row": 2, "subset": "safety", "chosen_score": 1.5, "rejected_score": -0.25, "chosen_logp": None},
    {"row": 0, "subset": None, "chosen_score": 0, "rejected_score": 0},
]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["preflab.eval.exports", *map(str, arguments)])
    main()


# ---- formats -----------------------------------------------------------------------------------------


def test_alpaca_outputs():
    assert alpaca_outputs(SAMPLES, "dpo", "reviews") == [
        {"instruction": "Say hello.", "output": "Hello!", "generator": "dpo", "dataset": "reviews"},
        {"instruction": ODD, "output": "", "generator": "dpo", "dataset": "reviews"},
    ]


def test_rewardbench_pairs():
    found = rewardbench_pairs(PAIRS)
    assert [list(row) for row in found] == [["id", "prompt", "chosen", "rejected", "subset"]] * 3
    assert [row["subset"] for row in found] == ["chat", "all", "safety"]
    assert found[1] == {"id": 1, "prompt": "Q2", "chosen": ODD, "rejected": "bad", "subset": "all"}


def test_rewardbench_pairs_of_an_evaluation_are_those_it_scored():
    found = rewardbench_pairs(PAIRS, PREFERENCES)
    assert [(row["id"], row["prompt"]) for row in found] == [(2, "Q3"), (0, "Q1")]
    with pytest.raises(UserError, match="scored pair 2 of 2"):
        rewardbench_pairs(PAIRS[:2], PREFERENCES)


def test_messages_stay_messages():
    turns = [{"role": "user", "content": "hi"}]
    assert rewardbench_pairs([{"prompt": turns, "chosen": turns, "rejected": turns}])[0]["chosen"] == turns


def test_rewardbench_scores():
    assert rewardbench_scores(PREFERENCES) == [
        {"id": 2, "subset": "safety", "chosen": 1.5, "rejected": -0.25},
        {"id": 0, "subset": "all", "chosen": 0, "rejected": 0},
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alpaca_outputs([SAMPLES[0], {"prompt": "x"}], "g", "d"), "row 2: 'response' is missing"),
        (lambda: alpaca_outputs([{"prompt": ["x"], "response": ""}], "g", "d"), "row 1: 'prompt' is of type list"),
        (lambda: rewardbench_pairs([{"prompt": "x", "chosen": "y"}]), "row 1: 'rejected' is missing"),
        (lambda: rewardbench_scores([{"row": 0, "chosen_score": 1.0}]), "no row has 'rejected_score'"),
        (lambda: rewardbench_scores([{"row": 0.5, "chosen_score": 1.0, "rejected_score": 0.0}]), "'row' is 0.5"),
        (
            lambda: rewardbench_scores([{"row": 0, "chosen_score": float("nan"), "rejected_score": 0.0}]),
            "chosen_score of row 0 (training seed 0) is nan",
        ),
    ],
    ids=["missing", "type", "pair", "score", "index", "nan"],
)
def test_rows_that_do_not_fit_are_a_users_error(call, message):
    with pytest.raises(UserError, match=re.escape(message)):
        call()


# ---- the command line --------------------------------------------------------------------------------


def test_an_evaluations_folder_in_both_formats(tmp_path, monkeypatch, capsys):
    write_lines(tmp_path / "samples.jsonl", SAMPLES)
    write_lines(tmp_path / "preferences.jsonl", PREFERENCES)
    alpaca, scores = tmp_path / "model_outputs.json", tmp_path / "scores.jsonl"
    run(monkeypatch, tmp_path, "--alpaca", alpaca, "--scores", scores, "--generator", "dpo", "--dataset", "reviews")
    assert json.loads(alpaca.read_text()) == alpaca_outputs(SAMPLES, "dpo", "reviews")
    lines = scores.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines if line] == rewardbench_scores(PREFERENCES)
    assert "2 rows written to" in capsys.readouterr().out


def test_exported_pairs_are_read_back_as_preferences(tmp_path, monkeypatch):
    """RewardBench's format is one of those that `--dataset` takes."""
    out = tmp_path / "rewardbench.jsonl"
    run(monkeypatch, write_lines(tmp_path / "pairs.jsonl", PAIRS), "--rewardbench", out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]
    assert rows == rewardbench_pairs(PAIRS)
    back, _ = preference_rows(read_rows(str(out)), bad_rows="refuse")
    for before, after in zip(PAIRS, back, strict=True):
        assert {name: after[name] for name in ("prompt", "chosen", "rejected")} == {
            name: before[name] for name in ("prompt", "chosen", "rejected")
        }
        assert after["subset"] == before.get("subset", "all")


def test_a_failed_export_leaves_the_old_file(tmp_path, monkeypatch):
    out = tmp_path / "model_outputs.json"
    out.write_text("old")
    bad = write_lines(tmp_path / "samples.jsonl", [*SAMPLES, {"prompt": "x"}])
    with pytest.raises(UserError):
        run(monkeypatch, bad, "--alpaca", out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_outputs.json", "samples.jsonl"]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, ["--alpaca", "o.json"], "does not exist"),
        ("", ["--alpaca", "o.json"], "has no rows"),
        ('{"prompt": "x", "response": "y"}\nnonsense\n', ["--alpaca", "o.json"], "row 2 is no JSON object"),
        ('{"prompt": "x"}\n', ["--alpaca", "o.json"], "'response' is missing"),
        ('{"prompt": "x", "response": "y"}\n', ["--alpaca", "no/such/folder/o.json"], "cannot be written"),
        ('{"prompt": "x", "response": "y"}\n', [], "nothing to write"),
    ],
    ids=["absent", "empty", "not-json", "missing", "folder", "nothing"],
)
def test_wrong_input_is_answered_with_status_2(tmp_path, content, arguments, message):
    if content is not None:
        (tmp_path / "rows.jsonl").write_text(content)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "preflab.eval.exports", str(tmp_path / "rows.jsonl")]
    arguments = [str(tmp_path / a) if a.endswith(".json") else a for a in arguments]
    done = subprocess.run([*command, *arguments], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error:")
    assert done.stderr.count("\n") == 1


def test_start_up_is_light():
    code = "import sys, preflab.eval.exports, preflab.eval.comparison.budgets\n"
    code += "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- adapters, as vLLM's LoRA loader takes them ------------------------------------------------------
#
# What its loader reads and refuses (vllm/lora/peft_helper.py, lora_model.py, utils.py): the keys r,
# lora_alpha and target_modules; no modules_to_save, no DoRA, no bias; safetensors under PEFT's own names
# whose last part is a module of the model.

MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


def saved_policy(path, folder, targets=("all-linear",), rank=8):
    settings = LoraSettings(lora_rank=rank, lora_alpha=2 * rank, target_modules=targets, dtype="float32")
    roles = Roles(load_base(str(path), settings, device="cpu"), settings, ("policy", "reward"), seed=0)
    roles.save("policy", folder / "policy")
    roles.save("reward", folder / "reward")
    return roles


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "v_proj")])
def test_a_policys_folder_is_what_vllm_documents(tiny_model_path, tmp_path, targets):
    saved_policy(tiny_model_path, tmp_path, targets)
    folder = tmp_path / "policy"
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    assert LoraSettings().lora_rank <= 16, "its own default of --max-lora-rank"
    assert (config["modules_to_save"], config["bias"]) == (None, "none")
    assert not config["use_dora"]
    assert not config["use_rslora"]
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    wanted = MODULES if targets == ("all-linear",) else set(targets)
    assert isinstance(config["target_modules"], list), "all-linear is spelt out: it is no module's name"
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == wanted
    check_weights(folder, wanted, config["r"])


def check_weights(folder, wanted, rank):
    sides: dict[str, set[str]] = {}
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            match = NAME.fullmatch(name)
            assert match, name
            sides.setdefault(match["module"], set()).add(match["side"])
            shape = file.get_slice(name).get_shape()
            assert shape[0 if match["side"] == "A" else 1] == rank, name
    assert {name.rpartition(".")[2] for name in sides} == wanted
    assert all(both == {"A", "B"} for both in sides.values())
    assert {name.split(".")[2] for name in sides} == {"0", "1"}, "every layer"


def test_a_reward_model_is_none_of_vllms(tiny_model_path, tmp_path):
    saved_policy(tiny_model_path, tmp_path)
    config = json.loads((tmp_path / "reward" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == ["score"], "which its loader refuses, and says so"


def test_an_adapter_on_the_head_is_in_the_folder(tiny_model_path, tmp_path):
    """vLLM takes those on ``lm_head`` for some models only: the documentation warns, the folder tells."""
    saved_policy(tiny_model_path, tmp_path, ("q_proj", "lm_head"))
    with safe_open(tmp_path / "policy" / "adapter_model.safetensors", "pt") as file:
        modules = {NAME.fullmatch(name)["module"].rpartition(".")[2] for name in file.keys()}  # noqa: SIM118
    assert modules == {"q_proj", "lm_head"}


# ---- adapters, as lm-evaluation-harness loads them ---------------------------------------------------


def test_a_policy_loads_as_lm_evaluation_harness_loads_it(tiny_model_path, tmp_path):
    """``--model hf --model_args pretrained=BASE,peft=ADAPTER`` is these two calls, and gives the policy's logits."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = LoraSettings(lora_rank=8, lora_alpha=16, dtype="float32")
    roles = Roles(load_base(str(tiny_model_path), settings, device="cpu"), settings, seed=0)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.add_(0.1)
    roles.save("policy", tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        bare = base(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path)
        found = adapted(ids).logits
        with roles.active("policy"):
            expected = roles.model(ids).logits
        merged = adapted.merge_and_unload()(ids).logits
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-4)
    assert (found - bare).abs().max() > 0.1


def test_two_answers_to_one_prompt_and_pairs_without_a_number_are_refused():
    rows = [{"prompt": "A", "response": "1"}, {"prompt": "a", "response": "2"}]
    assert len(alpaca_outputs(rows, "m", "d")) == 2
    with pytest.raises(UserError, match=r"rows 1 and 3 .* 'A'"):
        alpaca_outputs([*rows, {"prompt": "A", "response": "3"}], "m", "d")
    score = {"chosen_score": 1.0, "rejected_score": 0.0}
    for row in (1.5, True, "1"):
        with pytest.raises(UserError, match="'row'"):
            rewardbench_scores([{"row": row, **score}])
