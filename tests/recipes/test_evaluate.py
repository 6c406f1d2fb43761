"""evaluate.py: every kind of model in one table, without training anything."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
import torch
from preference_files import preference_rows, write_rows
from recipe_runner import check_record, read, run, run_warm, stages

from preflab.eval.pipeline.evaluating import EVALUATE, EvaluateConfig, named_subjects
from preflab.eval.pipeline.session import Session

DEFINED = {  # of the figures that depend on what is evaluated
    "reference": {
        "win_rate",
        "gold_reward",
        "proxy_reward",
        "kl",
        "kl_log_ratio",
        "entropy",
        "heldout_accuracy",
        "ended",
    },
    "best": {"win_rate", "gold_reward", "proxy_reward", "kl", "kl_log_ratio", "heldout_accuracy", "ended"},
    "scorer": {"heldout_accuracy"},
    "file": {"win_rate", "gold_reward", "proxy_reward"},
}
DEFINED |= {"adapter": DEFINED["reference"], "model": DEFINED["reference"]}


class Models(NamedTuple):
    """Where the models are."""

    options: list
    adapter: str
    scorer: str
    other: str


@pytest.fixture(scope="module")
def models(options, tmp_path_factory):
    """Random adapters on the recipes' tiny model: a policy and two reward models."""
    from preflab.model.base import load_base
    from preflab.model.roles import Roles
    from preflab.settings.training import LoraSettings

    folder, base = tmp_path_factory.mktemp("models"), options[options.index("--model") + 1]
    lora = LoraSettings(lora_rank=4)
    for seed, (name, role) in enumerate({"adapter": "policy", "scorer": "reward", "other": "reward"}.items()):
        roles = Roles(load_base(str(base), lora), lora, (role,))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in roles.parameters_of(role):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        roles.save(role, folder / name)
    return Models(options, *(str(folder / name) for name in ("adapter", "scorer", "other")))


def test_all_kinds_stand_in_one_table(models, tmp_path):
    rows = preference_rows(96)
    write_rows(tmp_path / "answers.jsonl", [{"prompt": r["prompt"], "response": "word1 word2"} for r in rows])
    base = models.options[models.options.index("--model") + 1]
    command = [
        *models.options,
        *("--models", f"adapter={models.adapter}", f"model={base}", f"best=best-of-4:{models.adapter}"),
        *("--models", f"scorer={models.scorer},file=answers.jsonl"),
        *("--reward-model", models.scorer, "--judge", models.other, "--output", "run"),
    ]
    answer = run("evaluate.py", *command, cwd=tmp_path)
    assert answer.status == 0, answer.err
    evaluation = read(tmp_path / "run" / "evaluation.json")
    methods = evaluation["methods"]
    assert {name: row["kind"] for name, row in methods.items()} == {
        "reference": "reference",
        "adapter": "policy adapter",
        "model": "causal language model",
        "best": "best of 4",
        "scorer": "reward adapter",
        "file": "responses",
    }
    every = set.union(*DEFINED.values())
    for name, row in methods.items():
        assert {figure for figure in every if row.get(figure) is not None} == DEFINED[name], name
    check_record(tmp_path / "run" / "evaluation.json", "evaluation")
    assert evaluation["judge"]["kind"] == "scores"
    assert evaluation["judge"]["warning"] is None
    assert {row["fingerprint"]["prompts"] for name, row in methods.items() if name != "scorer"} == {
        methods["reference"]["fingerprint"]["prompts"]
    }
    assert methods["reference"]["kl"]["mean"] == methods["model"]["kl"]["mean"] == 0
    assert methods["adapter"]["kl"]["mean"] > 0
    assert methods["best"]["heldout_accuracy"] == methods["scorer"]["heldout_accuracy"]
    assert "file of responses" in answer.err
    page = (tmp_path / "run" / "evaluation" / "report.html").read_text()
    assert "word1 word2" in page
    assert "python recipes/evaluate.py" in page
    judged_by_proxy = [*command[:-2], "--judge", models.scorer, "--generate", "false", "--output", "other"]
    judged_by_proxy += ["--report", "false"]
    assert run("evaluate.py", *judged_by_proxy, cwd=tmp_path).status == 0
    assert not (tmp_path / "other" / "evaluation").exists()
    assert "TRAINED AGAINST" in read(tmp_path / "other" / "evaluation.json")["judge"]["warning"]
    trained = {"sft", "reward", "judge", "dpo"}
    assert not {name.split("-")[0] for name in stages(tmp_path / "run")} & trained

    before = stages(tmp_path / "run")
    again = run("evaluate.py", *command, cwd=tmp_path)
    assert again.status == 0, again.err
    assert stages(tmp_path / "run") == before
    assert again.out == answer.out
    assert read(tmp_path / "run" / "evaluation.json")["methods"] == methods


def test_a_stage_is_evaluated_as_it_was_in_the_comparison(finished, options, tmp_path):
    """One road: a stage that is named gives the answers that it gave in the run that trained it."""
    [stage] = finished[0].glob("stages/dpo-seed0-*")
    answer = run_warm("evaluate.py", *options, "--models", f"dpo={stage}", "--output", "run", cwd=tmp_path)
    assert answer.status == 0, answer.err
    for table in ("samples.jsonl", "preferences.jsonl"):
        [there] = finished[0].glob(f"stages/eval-dpo-seed0-*/{table}")
        [here] = tmp_path.glob(f"run/stages/eval-dpo-*/{table}")
        rows = [
            [{**json.loads(line), "gold": 0, "proxy": 0} for line in f.read_text().splitlines()] for f in (there, here)
        ]
        assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_file_with_subsets_is_reported_by_subset(models, tmp_path):
    rows = [{**row, "subset": ("chat", "code")[i % 3 == 0]} for i, row in enumerate(preference_rows(24))]
    write_rows(tmp_path / "bench.jsonl", rows)
    at = models.options.index("--dataset")
    options = models.options[:at] + models.options[at + 2 :]
    choice = ["--heldout", "bench.jsonl", "--generate", "false", "--eval-pairs", "24", "--output", "run"]
    answer = run("evaluate.py", *options, *choice, "--models", f"scorer={models.scorer}", cwd=tmp_path)
    assert answer.status == 0, answer.err
    methods = read(tmp_path / "run" / "evaluation.json")["methods"]
    assert methods["reference"]["kl"] is None
    assert methods["reference"]["preferences"]["likelihood"]["accuracy"]["n"] == 24
    subsets = methods["scorer"]["preferences"]["subsets"]
    [path] = (tmp_path / "run").glob("stages/eval-scorer-*/preferences.jsonl")
    written = [json.loads(line) for line in path.read_text().splitlines()]
    for name, count in (("chat", 16), ("code", 8)):
        right = [r["chosen_score"] > r["rejected_score"] for r in written if r["subset"] == name]
        found = subsets[name]["accuracy"]
        assert len(right) == found["n"] == count
        assert found["mean"] == sum(right) / count
        assert found["low"] <= found["mean"] <= found["high"]
        assert name in answer.out


FAULTS = [
    (["--models", "a=PLACE,a=PLACE"], ["'a'", "already"]),
    (["--models", "reference=PLACE"], ["'reference'", "already"]),
    (["--models", "a/b=PLACE"], ["'a/b=", "name=PATH"]),
    (["--models", "a=SCORER", "b=best-of-4:SCORER"], ["best-of-n", "reward adapter"]),
    (["--models", "b=best-of-4:PLACE"], ["b chooses", "--reward-model"]),
    (["--models", "a=PLACE", "--judge-url", "http://localhost/v1"], ["--judge endpoint"]),
    (["--models", "a=PLACE", "--sft", "SCORER"], ["--sft", "reward adapter"]),
    (["--models", "a=PLACE", "--reward-model", "PLACE"], ["--reward-model", "policy adapter"]),
    (["--models", "a=PLACE", "--judge", "PLACE"], ["--judge", "policy adapter"]),
    (["--models", "a=PLACE", "--judge", "nowhere"], ["nowhere"]),
]


@pytest.mark.parametrize(("wrong", "parts"), FAULTS, ids=[str(i) for i in range(len(FAULTS))])
def test_wrong_models_are_answered_before_torch_is_loaded(models, tmp_path, wrong, parts):
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    wrong = [w.replace("PLACE", models.adapter).replace("SCORER", models.scorer) for w in wrong]
    answer = run("evaluate.py", *models.options, *wrong, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert answer.status == 2, answer
    assert "Traceback" not in answer.err
    for part in parts:
        assert part in answer.err


@pytest.mark.parametrize("given", ["a=P,b=Q", "a=P b=Q", "a=P, b=Q", "a=P --model m --models b=Q"])
def test_models_are_separated_by_commas_or_spaces(given):
    session = Session.read("test", EVALUATE, argv=["--models", *given.split()])
    assert session.config(EvaluateConfig).models == ("a=P", "b=Q")


def test_a_run_stands_for_its_models(copy_of_a_run):
    assert list(named_subjects([f"mine={copy_of_a_run}"])) == ["mine.dpo-seed0", "mine.sft"]


@pytest.fixture
def copy_of_a_run(models, tmp_path):
    for name, key in (("sft", "aa"), ("dpo-seed0", "bb"), ("judge", "cc")):
        folder = tmp_path / "stages" / f"{name}-{key}"
        folder.mkdir(parents=True)
        (folder / "policy").symlink_to(models.adapter, target_is_directory=True)
        inputs = {"method": name, "config": {}, "sft": None if name == "sft" else "aa"}
        (folder / "stage.json").write_text(json.dumps({"inputs": inputs, "record": {}}))
    return tmp_path
