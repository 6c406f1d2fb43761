"""``preflab merge``: which model is meant, what is written of it, with its figures, and where it goes."""

from __future__ import annotations

import json
import random
import re
import sys

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from report_fixture import comparison
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from preflab.disk.files import write_json
from preflab.disk.seals import damage, seal
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.eval.pipeline import merging
from preflab.eval.pipeline.merging import MergeConfig, check_push, found_at, merge_model, push_trained
from preflab.experiment.experiment import Experiment
from preflab.experiment.settings import RunConfig
from preflab.method.configured import make_method
from preflab.model.pushing import PushConfig
from preflab.recipes import merge as recipe
from preflab.recipes.train import train_one
from preflab.settings.fields import build
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

TRAIN = {"per_device_train_batch_size": 4, "max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2}
IDS = torch.tensor([[1, 5, 9, 4, 20, 11]])
NOWHERE = PushConfig()


@pytest.fixture(scope="module")
def run(tiny_model_path, tmp_path_factory):
    """A run of a start, a reward model and two seeds of a method, compared."""
    folder, draw = tmp_path_factory.mktemp("exported"), random.Random(0)

    def words():
        return " ".join(f"word{draw.randrange(24)}" for _ in range(draw.randint(1, 6)))

    rows = [{"prompt": words(), "chosen": " " + words(), "rejected": " " + words()} for _ in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = WorldConfig(
        model=str(tiny_model_path),
        dataset=str(folder / "pairs.jsonl"),
        max_prompt_tokens=16,
        max_response_tokens=8,
    )
    experiment = Experiment(Run(folder / "run"), config, LoraSettings(lora_rank=4, lora_alpha=8), folder)
    sft = experiment.train("sft", make_method("sft", TRAIN))
    experiment.train("reward", make_method("reward", TRAIN), sft=sft)
    for seed in (0, 1):
        experiment.train(f"dpo-seed{seed}", make_method("dpo", TRAIN), seed=seed, sft=sft)
    experiment.run.close()
    return folder / "run"


def stage(run, name):
    return next(path for path in (run / "stages").iterdir() if path.name.startswith(name + "-"))


def config(output, **changes):
    return build(MergeConfig, {"output": str(output), **changes}, "merge")


def front(folder):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", (folder / "README.md").read_text(), re.DOTALL)[1])


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


def test_of_several_seeds_it_asks_which(run, tmp_path):
    with pytest.raises(UserError, match=r"holds 2 models; name one of them: .*dpo-seed0-.*, .*dpo-seed1-") as caught:
        merge_model(str(run), config(tmp_path / "merged"), NOWHERE)
    assert "sft" not in str(caught.value), "the start is not what is meant"
    assert not (tmp_path / "merged").exists()


def test_the_only_model_of_a_run_is_meant(run, tmp_path):
    own = tmp_path / "run"
    for name in ("sft", "reward", "dpo-seed1"):
        (own / "stages").mkdir(parents=True, exist_ok=True)
        (own / "stages" / stage(run, name).name).symlink_to(stage(run, name))
    assert found_at(own).adapter.parent.name == stage(run, "dpo-seed1").name
    (own / "stages" / stage(run, "dpo-seed1").name).unlink()
    assert found_at(own).adapter.parent.name == stage(run, "sft").name, "a start by itself"
    (own / "stages" / stage(run, "sft").name).unlink()
    assert found_at(own).trained.role == "reward"
    (own / "stages" / stage(run, "reward").name).unlink()
    with pytest.raises(UserError, match="no model is trained yet"):
        found_at(own)


def test_a_stage_becomes_a_model_by_itself(run, tmp_path, capsys):
    source = stage(run, "dpo-seed1")
    merge_model(str(source), config(tmp_path / "merged"), NOWHERE)
    said = capsys.readouterr().out
    assert re.search(r"Held to the base with its adapter at \d+ places, .* as stored in float32", said)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    beside = AutoPeftModelForCausalLM.from_pretrained(source / "policy")
    torch.testing.assert_close(logits(merged), logits(beside), atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").pad_token == "<pad>"
    assert front(tmp_path / "merged")["library_name"] == "transformers"
    text = (tmp_path / "merged" / "README.md").read_text()
    assert "Held to the base with its adapter" in text
    assert "## Figures" not in text, "nothing has been evaluated"
    assert damage(source) is None
    assert [path.name for path in tmp_path.iterdir()] == ["merged"], "and nothing beside it"


def test_a_reward_model_becomes_a_classifier(run, tmp_path):
    merge_model(str(stage(run, "reward")), config(tmp_path / "merged"), NOWHERE)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert logits(merged).shape == (1, 1)
    assert (tmp_path / "merged" / "normalisation.json").is_file()
    assert "It is read at the last token that is not padding" in (tmp_path / "merged" / "README.md").read_text()


@pytest.fixture
def compared(run):
    """Give the run a comparison whose figures are of its method's settings."""
    made = comparison()
    inputs = json.loads((stage(run, "dpo-seed0") / "stage.json").read_text())["inputs"]
    made["methods"]["dpo"]["settings"] = {**inputs["config"], **inputs["train"], "report_to": []}
    write_json(run / "comparison.json", made)
    yield made
    (run / "comparison.json").unlink()


def test_an_adapter_keeps_its_weights_and_gets_its_figures(run, compared, tmp_path):
    source = stage(run, "dpo-seed0") / "policy"
    merge_model(str(source), config(tmp_path / "adapter", fold=False), NOWHERE)
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json"):
        assert (tmp_path / "adapter" / name).read_bytes() == (source / name).read_bytes()
    text = (tmp_path / "adapter" / "README.md").read_text()
    gold = compared["methods"]["dpo"]["gold_reward"]
    assert f"| gold reward | {gold['mean']:.2f} | [{gold['low']:.2f}, {gold['high']:.2f}] | {gold['n']:,} |" in text
    assert "over training seeds 0, 1, 2" in text
    assert compared["headline"][:60] in text
    assert front(tmp_path / "adapter")["library_name"] == "peft"
    assert "## Figures" not in (source / "README.md").read_text(), "the stage is as it was sealed"


def test_figures_of_other_settings_are_not_its_own(run, compared, tmp_path):
    compared["methods"]["dpo"]["settings"]["beta"] = 0.7
    write_json(run / "comparison.json", compared)
    merge_model(str(stage(run, "dpo-seed0")), config(tmp_path / "adapter", fold=False), NOWHERE)
    assert "## Figures" not in (tmp_path / "adapter" / "README.md").read_text()


def test_a_reward_model_has_the_figures_of_the_one_that_was_maximised(run, compared, tmp_path):
    merge_model(str(stage(run, "reward")), config(tmp_path / "adapter", fold=False), NOWHERE)
    text = (tmp_path / "adapter" / "README.md").read_text()
    accuracy = compared["reward_model"]["heldout_accuracy"]
    assert f"{100 * accuracy['mean']:.1f} %" in text


def test_a_damaged_comparison_is_said(run, tmp_path, caplog):
    (run / "comparison.json").write_text("{")
    try:
        merge_model(str(stage(run, "dpo-seed0")), config(tmp_path / "adapter", fold=False), NOWHERE)
    finally:
        (run / "comparison.json").unlink()
    assert "no figures on the card" in caplog.text


# ---- refused -----------------------------------------------------------------------------------------


def copied(run, name, to, change):
    """Copy a stage with another account of itself."""
    import shutil

    shutil.copytree(stage(run, name), to)
    said = json.loads((to / "stage.json").read_text())
    change(said["inputs"])
    write_json(to / "stage.json", said)
    seal(to)
    return to


def test_what_was_trained_in_bits_is_not_folded_into_the_whole(run, tmp_path):
    own = copied(run, "dpo-seed0", tmp_path / "s-1", lambda inputs: inputs["lora"].update(load_in="4bit"))
    with pytest.raises(UserError, match=r"was trained on its base in 4bit.*--fold false"):
        merge_model(str(own), config(tmp_path / "merged"), NOWHERE)
    merge_model(str(own), config(tmp_path / "adapter", fold=False), NOWHERE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "s-1"]


def test_a_method_that_trains_nothing_is_not_folded(run, tmp_path):
    own = copied(run, "dpo-seed0", tmp_path / "s-1", lambda inputs: inputs.update(method="best-of-n"))
    with pytest.raises(UserError, match="best-of-n trains nothing"):
        merge_model(str(own), config(tmp_path / "merged"), NOWHERE)


def test_no_code_that_a_stage_names_is_run(run, tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    place = f"{tmp_path / 'evil.py'}:Evil"
    own = copied(run, "dpo-seed0", tmp_path / "s-1", lambda inputs: inputs.update(method=place))
    merge_model(str(own), config(tmp_path / "adapter", fold=False), NOWHERE)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_stage_is_refused(run, tmp_path):
    own = copied(run, "dpo-seed0", tmp_path / "s-1", lambda inputs: None)
    with (own / "policy" / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(UserError, match="is damaged"):
        merge_model(str(own), config(tmp_path / "merged"), NOWHERE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": None}, "output names the folder"),
        ({"trust_remote_code": True}, "give base too"),
        ({"fold": False, "dtype": "float16"}, "dtype is of a folded model"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(UserError, match=message):
        build(MergeConfig, {"output": "x", **changes}, "merge")


def test_other_mistakes_are_one_line(run, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is there already"):
        merge_model(str(run), config(tmp_path / "there"), NOWHERE)
    with pytest.raises(UserError, match="holds no adapter"):
        merge_model(str(tmp_path), config(tmp_path / "merged"), NOWHERE)
    with pytest.raises(UserError, match="cannot be loaded"):
        merge_model(str(stage(run, "dpo-seed0")), config(tmp_path / "merged", base=str(tmp_path)), NOWHERE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"], "nothing half-done is left"


# ---- to the hub --------------------------------------------------------------------------------------


@pytest.fixture
def pushed(monkeypatch):
    found = []
    monkeypatch.setattr(merging, "check_destination", lambda given: None)
    monkeypatch.setattr(merging, "push", lambda folder, given: found.append(front(folder)) or "https://hub/me/mine")
    return found


def test_an_adapter_goes_to_the_hub_on_a_base_that_others_have(run, tmp_path, pushed):
    mine, source = PushConfig(push_to_hub="me/mine"), str(stage(run, "dpo-seed0"))
    with pytest.raises(UserError, match="is a folder of this machine; give the base's name on the hub as --base"):
        merge_model(source, config(tmp_path / "adapter", fold=False), mine)
    assert pushed == []
    merge_model(source, config(tmp_path / "adapter", fold=False, base="owner/base"), mine)
    assert [said["base_model"] for said in pushed] == ["owner/base"]
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == "owner/base"


def test_pushing_is_looked_at_before_training(monkeypatch, tiny_model_path, pushed):
    mine, world = PushConfig(push_to_hub="me/mine"), WorldConfig(model=str(tiny_model_path))
    with pytest.raises(UserError, match="--push-to-hub takes one model, and seeds names 2"):
        check_push(RunConfig(seeds=(0, 1)), world, mine)
    with pytest.raises(UserError, match="is a folder of this machine"):
        check_push(RunConfig(), world, mine)
    with pytest.raises(UserError, match="that of the reviews world is a folder"):
        check_push(RunConfig(), WorldConfig(), mine)
    check_push(RunConfig(), WorldConfig(model="owner/base"), mine)
    check_push(RunConfig(seeds=(0, 1)), world, NOWHERE)


def test_training_that_is_to_be_pushed_does_not_begin_where_it_could_not_be(tmp_path, monkeypatch):
    asked = ["--push-to-hub", "me/mine", "--output", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["preflab train dpo", *asked])
    with pytest.raises(UserError, match="--push-to-hub: others open an adapter on its base"):
        train_one("", "dpo")
    assert not (tmp_path / "run").exists()


def test_what_training_made_is_pushed_with_its_figures_if_asked(run, pushed, compared):
    push_trained(stage(run, "dpo-seed0") / "policy", NOWHERE)
    assert pushed == []
    push_trained(stage(run, "dpo-seed0") / "policy", PushConfig(push_to_hub="me/mine"))
    assert pushed[0]["library_name"] == "peft"


def test_the_command_takes_the_model_first(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["preflab merge", "--output", "x"])
    with pytest.raises(UserError, match="name the model first"):
        recipe.main()
    monkeypatch.setattr(sys, "argv", ["preflab merge", "--help"])
    with pytest.raises(SystemExit):
        recipe.main()
    assert "--push-to-hub" in capsys.readouterr().out
    source = str(stage(run, "dpo-seed0"))
    monkeypatch.setattr(sys, "argv", ["preflab merge", source, "--output", str(tmp_path / "to"), "--fold", "false"])
    recipe.main()
    assert (tmp_path / "to" / "README.md").is_file()
