"""`compare`, `train` and `evaluate` on a tiny model: rows in every form, loaded models, classes; what results hold."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass

import datasets
import pandas
import pytest
import torch
from preference_files import preference_rows, write_rows
from transformers import AutoModelForCausalLM, LlamaForSequenceClassification

import preflab
from preflab import Pairwise, log_sigmoid, option
from preflab.errors import UserError
from preflab.eval.records.comparison import read_comparison, read_evaluation
from preflab.eval.records.typed import to_json

ROWS = preference_rows(120)
STEPS = {"max_steps": 2, "per_device_train_batch_size": 4}
SMALL = {
    **{"max_prompt_tokens": 8, "max_response_tokens": 8, "lora_rank": 4, "eval_prompts": 10, "eval_pairs": 10},
    **{"baseline_draws": 1, "oracle_samples": 0, "sft": STEPS, "reward": STEPS, "pair": STEPS, "sampled": STEPS},
}
FORMS = {
    "list": list,
    "frame": pandas.DataFrame,
    "Dataset": datasets.Dataset.from_list,
}


@dataclass(frozen=True)
class MyConfig:
    """Fields."""

    some_field: float = option(0.1, "a factor", minimum=0.0)


class MyLoss(Pairwise):
    """L = -log sigmoid(some_field x margin)."""

    Config = MyConfig

    def pair_loss(self, pair):
        return -log_sigmoid(self.config.some_field * pair.margin)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def compared(tmp_path_factory, tiny_model_path):
    """A comparison of two methods, one of them a class, of two seeds."""
    folder = tmp_path_factory.mktemp("compared")
    result = preflab.compare(
        ["dpo", MyLoss],
        model=tiny_model_path,
        dataset=ROWS,
        seeds=2,
        output=folder / "run",
        MyLoss={"some_field": 0.3},
        interpolate=[1.0],
        workers=1,
        **{name: value for name, value in SMALL.items() if name != "sampled"},
    )
    return result


def trained(tmp_path, tiny_model_path, dataset, **more):
    settings = {name: value for name, value in SMALL.items() if name not in ("reward", "sampled", "pair")}
    return preflab.train(
        "dpo", model=tiny_model_path, dataset=dataset, output=tmp_path / "run", **STEPS, **settings, **more
    )


# ---- data ----------------------------------------------------------------------------------------


def test_rows_in_every_form_have_the_keys_and_figures_of_their_file(tmp_path, tiny_model_path):
    path = write_rows(tmp_path / "pairs.jsonl", ROWS)
    first = trained(tmp_path, tiny_model_path, path)
    stages = sorted((tmp_path / "run" / "stages").iterdir())
    for name, form in FORMS.items():
        again = trained(tmp_path, tiny_model_path, form(ROWS))
        assert [stage.key for stage in again.stages] == [stage.key for stage in first.stages], name
        assert to_json(again.comparison)["methods"] == to_json(first.comparison)["methods"], name
    assert sorted((tmp_path / "run" / "stages").iterdir()) == stages, "nothing was built anew"
    [kept] = (tmp_path / "run" / "given").iterdir()
    assert kept.read_text() == path.read_text(), "the three forms are one file"
    assert trained(tmp_path, tiny_model_path, ROWS[:-1]).stages[0].key != first.stages[0].key


def test_held_out_rows_are_taken_in_every_form_too(tmp_path, tiny_model_path):
    held = preference_rows(20, seed=1)
    path = write_rows(tmp_path / "held.jsonl", held)
    first = trained(tmp_path, tiny_model_path, ROWS, heldout=path)
    again = trained(tmp_path, tiny_model_path, ROWS, heldout=pandas.DataFrame(held))
    assert again.stages[0].key == first.stages[0].key
    assert to_json(again.comparison)["methods"] == to_json(first.comparison)["methods"]


def test_bad_rows_are_said_by_their_numbers(tmp_path, tiny_model_path, caplog):
    rows = [*ROWS[:6], {"prompt": "word1"}, *ROWS[6:]]
    trained(tmp_path, tiny_model_path, rows, evaluate=False)
    assert "1 bad rows dropped: missing field" in caplog.text
    assert "(row 7)" in caplog.text


def test_prompts_are_texts_or_rows(tmp_path, tiny_model_path):
    texts = [f"word{a} word{b}" for a in range(6) for b in range(6)]
    settings = {name: value for name, value in SMALL.items() if name not in ("reward", "sampled", "pair")}
    keys = set()
    for prompts in (texts, [{"prompt": text} for text in texts]):
        result = preflab.train(
            "dpo",
            model=tiny_model_path,
            reward="preflab.rewards.examples:happy_story",
            prompts=prompts,
            output=tmp_path / "run",
            cache=tmp_path / "cache",
            evaluate=False,
            **STEPS,
            **settings,
        )
        keys.add(result.stages[0].key)
    assert len(keys) == 1


# ---- models --------------------------------------------------------------------------------------


def test_a_loaded_model_is_trained_from_and_left_as_it_was(tmp_path, cache, tiny_model_path, tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path).train()
    model.lm_head.requires_grad_(False)
    before = copy.deepcopy(model)
    loaded = trained(tmp_path, model, ROWS, tokenizer=tiny_tokenizer, cache=cache, evaluate=False)
    named = trained(tmp_path / "other", tiny_model_path, ROWS, evaluate=False)
    for (name, weight), other in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, other), name
        assert weight.requires_grad == other.requires_grad
        assert weight.dtype == other.dtype
        assert weight.grad is None
    assert [module.training for module in model.modules()] == [module.training for module in before.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert [type(module) for module in model.modules()] == [type(module) for module in before.modules()]
    assert model.config.to_dict() == before.config.to_dict()
    adapters = [(result.path / "adapter_model.safetensors").read_bytes() for result in (loaded, named)]
    assert adapters[0] == adapters[1], "what is trained is what its folder would have been trained to"
    again = trained(tmp_path, model, ROWS, tokenizer=tiny_tokenizer, cache=cache, evaluate=False)
    assert again.path == loaded.path
    model.lm_head.weight.data[0, 0] += 1
    other = trained(tmp_path, model, ROWS, tokenizer=tiny_tokenizer, cache=cache, evaluate=False)
    assert other.stages[0].key != loaded.stages[0].key


def test_a_loaded_classifier_gives_rewards(tmp_path, cache, tiny_model_path, tiny_tokenizer):
    torch.manual_seed(1)
    config = AutoModelForCausalLM.from_pretrained(tiny_model_path).config
    config.num_labels = 1
    classifier = LlamaForSequenceClassification(config)
    settings = {name: value for name, value in SMALL.items() if name not in ("reward", "pair", "sampled")}
    result = preflab.train(
        "rloo",
        model=tiny_model_path,
        dataset=ROWS,
        reward_model=(classifier, tiny_tokenizer),
        output=tmp_path / "run",
        cache=cache,
        evaluate=False,
        rollout_prompts=4,
        **STEPS,
        **settings,
    )
    assert result.cost.sampled_tokens > 0
    [record] = (tmp_path / "run" / "stages").glob("reward-*/stage.json")
    assert "steps" not in json.loads(record.read_text())["record"], "it was put on a scale, and not trained"
    with pytest.raises(UserError, match="needs its tokenizer beside it"):
        preflab.train(
            "rloo", model=tiny_model_path, dataset=ROWS, reward_model=classifier, output=tmp_path / "x", cache=cache
        )
    assert not (tmp_path / "x").exists()


# ---- methods as classes --------------------------------------------------------------------------


def test_a_class_is_compared_by_its_own_name(compared):
    assert set(compared.comparison.methods) == {"sft", "dpo", "MyLoss"}
    assert compared.comparison.methods["MyLoss"].settings["some_field"] == 0.3
    assert compared.comparison.seeds == (0, 1)


def test_a_class_of_the_program_is_refused_where_processes_start_anew(monkeypatch, tmp_path, tiny_model_path):
    import sys

    monkeypatch.setattr(MyLoss, "__module__", "__main__")
    monkeypatch.setattr(MyConfig, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "MyLoss", MyLoss, raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "MyConfig", MyConfig, raising=False)
    given = {"model": tiny_model_path, "dataset": ROWS, "output": tmp_path / "run"}
    with pytest.raises(UserError, match=r"--slurm: __main__:MyLoss is a class of this program.*write it into a file"):
        preflab.compare([MyLoss, "dpo"], slurm="cluster=local", **given)


# ---- results -------------------------------------------------------------------------------------


def test_a_result_prints_its_table_and_its_headline(compared):
    text = str(compared)
    lines = text.splitlines()
    assert compared.comparison.headline in text
    assert [line.split()[0] for line in lines if line.startswith(("sft ", "dpo ", "MyLoss "))] == [
        "sft",
        "dpo",
        "MyLoss",
    ]
    assert max(map(len, lines[:12])) <= 104
    assert repr(compared) == text
    assert "\x1b" not in text


def test_a_result_shows_itself_in_a_notebook(compared):
    html = compared._repr_html_()
    assert "MyLoss" in html
    assert "<table" in html
    assert "<svg" in html
    assert "<script" not in html


def test_a_result_is_frozen_and_on_disk(compared):
    with pytest.raises(dataclasses.FrozenInstanceError):
        compared.comparison = None
    path = compared.folder / "comparison.json"
    assert read_comparison(path) == compared.comparison
    assert compared.to_dict()["headline"] == compared.comparison.headline == json.loads(path.read_text())["headline"]
    assert set(compared.samples) == {"sft", "dpo", "MyLoss"}


def test_a_result_is_a_frame(compared):
    frame = compared.to_pandas()
    assert list(frame.index) == ["sft", "dpo", "MyLoss"]
    figure = compared.comparison.methods["dpo"].figures["kl"]
    assert tuple(frame.loc["dpo", ["kl", "kl_low", "kl_high"]]) == (figure.mean, figure.low, figure.high)
    assert frame.loc["dpo", "steps"] == 2


def test_a_result_writes_its_report(compared, tmp_path):
    page = compared.report(tmp_path / "page")
    assert page == tmp_path / "page" / "report.html"
    assert page.is_file()


def test_what_was_trained_is_loaded_and_evaluated(tmp_path, tiny_model_path):
    result = trained(tmp_path, tiny_model_path, ROWS)
    model = result.model()
    assert type(model).__name__ == "PeftModelForCausalLM"
    assert result.tokenizer().eos_token == "</s>"
    text = str(result)
    assert "dpo trained: 2 steps" in text
    assert str(result.path) in text
    assert result.comparison.headline in text
    assert str(result.path) in result._repr_html_()
    assert result.to_dict()["comparison"]["methods"].keys() == {"start", "dpo"}
    settings = {name: value for name, value in SMALL.items() if name not in ("reward", "sampled", "pair", "sft")}
    evaluated = preflab.evaluate(
        {"mine": result, "again": (model.merge_and_unload(), result.tokenizer())},
        model=tiny_model_path,
        dataset=ROWS,
        output=tmp_path / "evaluated",
        cache=tmp_path / "cache",
        **settings,
    )
    assert set(evaluated.comparison.methods) == {"reference", "mine", "again"}
    assert read_evaluation(tmp_path / "evaluated" / "evaluation.json") == evaluated.comparison


def test_of_several_seeds_one_is_chosen(tmp_path, tiny_model_path):
    result = trained(tmp_path, tiny_model_path, ROWS, seeds=2, evaluate=False)
    assert len(result.paths) == 2
    assert all((path / "adapter_config.json").is_file() for path in result.paths)
    assert result.comparison is None
    with pytest.raises(UserError, match=r"trained with 2 seeds; choose one of its paths: result.paths\[0\]"):
        _ = result.path
