"""What a stage keeps of trained roles: folders that other programs open, and cards that say what they are."""

from __future__ import annotations

import json
import random
import re

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from preflab.disk.seals import damage
from preflab.disk.stages import Run
from preflab.experiment import saving
from preflab.experiment.cards import SCALAR, Trained, card_of, told_by
from preflab.experiment.experiment import Experiment
from preflab.method import registry
from preflab.method.configured import make_method
from preflab.settings.training import LoraSettings
from preflab.tokens.closing import closed_template
from preflab.worlds import WorldConfig

TRAIN = {"per_device_train_batch_size": 4, "max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2}
ROLLOUTS = {**TRAIN, "rollout_prompts": 4, "rollout_epochs": 1}
TEMPLATE = "{% for m in messages %}word0 {{ m['content'] }} </s> {% endfor %}"
IDS = torch.tensor([[1, 5, 9, 4, 20, 11]])


def pairs(path, count=40):
    draw = random.Random(0)

    def words(low, high):
        return " ".join(f"word{draw.randrange(24)}" for _ in range(draw.randint(low, high)))

    rows = [{"prompt": words(2, 6), "chosen": " " + words(1, 6), "rejected": " " + words(1, 6)} for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def experiment(tiny_model_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    (folder / "template.jinja").write_text(TEMPLATE)
    config = WorldConfig(
        model=str(tiny_model_path),
        dataset=str(pairs(folder / "pairs.jsonl")),
        max_prompt_tokens=32,
        max_response_tokens=8,
        chat_template=str(folder / "template.jinja"),
        dialogues="text",
    )
    run = Run(folder / "run")
    command = [
        "preflab train",
        "dpo",
        "--judge-url",
        "https://me:hunter2hunter2@host/v1?token=verysecret",
        "--x",
        "`|`",
    ]
    manifest = {"command": command, "config": {"world": {"dataset": "owner/preferences"}}}
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    return Experiment(run, config, LoraSettings(lora_rank=4, lora_alpha=8), folder)


@pytest.fixture(scope="module")
def reward(experiment):
    return experiment.train("reward", make_method("reward", TRAIN))


@pytest.fixture(scope="module")
def stages(experiment, reward):
    made = {name: experiment.train(name, make_method(name, TRAIN)) for name in ("dpo", "trl-dpo", "trl-reward")}
    return {**made, "reward": reward, "ppo": experiment.train("ppo", make_method("ppo", ROLLOUTS), reward=reward)}


def front(folder):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", (folder / "README.md").read_text(), re.DOTALL)[1])


ROLES = [("dpo", "policy"), ("trl-dpo", "policy"), ("ppo", "policy"), ("ppo", "value"), ("reward", "reward")]
ROLES += [("trl-reward", "reward")]


@pytest.mark.parametrize(("name", "role"), ROLES)
def test_every_role_has_tokenizer_and_card(name, role, stages, experiment):
    folder = stages[name].folder / role
    assert damage(stages[name].folder) is None, "sealed with all of it"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = closed_template(experiment.tokenizer) if role in SCALAR else TEMPLATE
    assert (tokenizer.chat_template, tokenizer.eos_token, tokenizer.pad_token) == (template, "</s>", "<pad>")
    said, text = front(folder), (folder / "README.md").read_text()
    assert said["library_name"] == "peft"
    assert said["datasets"] == ["owner/preferences"]
    assert {"preflab", name, role, "lora"} <= set(said["tags"])
    assert "base_model" not in said, "a folder of this machine is nobody's base"
    assert "license" not in said
    assert "is not said in its files here" in text
    assert experiment.data["splits"]["pairs"]["fingerprint"] in text
    assert "| `learning_rate` | `0.01` |" in text
    assert ("It is read at the last token that is not padding" in text) == (role != "policy")


def test_the_card_has_loss_paper_and_what_the_method_stands_on(stages, reward):
    dpo, ppo = ((stages[name].folder / "policy" / "README.md").read_text() for name in ("dpo", "ppo"))
    assert "L = −log σ(β [log π/π_ref(chosen) − log π/π_ref(rejected)])." in dpo
    assert "arxiv:2305.18290" in front(stages["dpo"].folder / "policy")["tags"]
    assert "| start | the base as it is |" in dpo
    assert f"| reward | stage `{reward.folder.name}` |" in ppo
    assert "L = −log σ(β" in told_by(registry.load("trl-dpo")), "a method trained by TRL has the native one's loss"


def test_the_command_is_there_without_secrets(stages):
    text = (stages["dpo"].folder / "policy" / "README.md").read_text()
    assert "preflab train dpo --judge-url" in text
    assert "hunter2" not in text
    assert "verysecret" not in text


def test_a_policy_opens_by_itself(stages, experiment):
    folder = stages["dpo"].folder / "policy"
    with torch.no_grad():
        alone = AutoPeftModelForCausalLM.from_pretrained(folder).eval()(input_ids=IDS).logits
        base = AutoModelForCausalLM.from_pretrained(experiment.world.model)
        given = PeftModel.from_pretrained(base, folder).eval()(input_ids=IDS).logits
    assert torch.equal(alone, given)
    assert alone.shape[-1] == len(experiment.tokenizer), "the tokenizer beside it resizes nothing"


def test_a_reward_model_opens_as_its_card_says(stages, experiment, monkeypatch):
    folder = stages["reward"].folder / "reward"
    source = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(folder)
    found = {}
    exec(source.replace("BASE", repr(experiment.world.model)), found)
    with torch.no_grad():
        score = found["model"].eval()(input_ids=IDS).logits
    base = AutoModelForSequenceClassification.from_pretrained(experiment.world.model, num_labels=1, pad_token_id=0)
    with torch.no_grad():
        assert torch.equal(score, PeftModel.from_pretrained(base, folder).eval()(input_ids=IDS).logits)


def test_what_lies_beside_the_weights_decides_no_key(experiment, stages, monkeypatch):
    monkeypatch.setattr(saving, "save_beside", lambda *given: None)
    method = make_method("dpo", TRAIN)
    assert experiment.train("dpo", method).key == stages["dpo"].key
    bare = experiment.train("bare", method)
    assert sorted(path.name for path in (bare.folder / "policy").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    monkeypatch.undo()
    assert experiment.train("bare", method).reused, "a stage of before is taken as it is"


def test_weights_are_kept_where_the_tokenizer_cannot_be_saved(experiment, tmp_path, caplog):
    class Stubborn:
        def save_pretrained(self, folder):
            raise NotImplementedError("no file for me")

    (tmp_path / "policy").mkdir()
    trained = Trained("dpo", "policy", experiment.world.model, {}, {}, tmp_path)
    saving.save_beside(lambda: Stubborn().save_pretrained(tmp_path), trained, tmp_path / "policy")
    assert "no file for me" in caplog.text
    assert (tmp_path / "policy" / "README.md").is_file()


def test_a_base_of_the_hub_is_named_with_its_commit_and_licence(tmp_path):
    folder = tmp_path / "models--owner--Base" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    text = card_of(Trained("dpo", "policy", str(folder), {"method": "dpo"}, {}, tmp_path)).text()
    said = yaml.safe_load(text.split("---")[1])
    assert (said["base_model"], said["base_model_relation"]) == ("owner/Base", "adapter")
    assert said["license"] == "apache-2.0"
    assert f"`owner/Base`, commit `{'0' * 40}`" in text
    assert str(tmp_path) not in text, "no path of this machine"


@pytest.mark.parametrize("wrong", [None, 3, "text", ["x"], {"splits": [1]}, {"splits": {"a": 1}, "world": "`|\n# x"}])
def test_a_stage_written_by_anybody_makes_a_card_all_the_same(wrong, tmp_path):
    inputs = {"method": wrong, "data": wrong, "lora": wrong, "config": wrong, "versions": wrong, "reward": wrong}
    (tmp_path / "manifest.json").write_text(json.dumps({"config": wrong, "command": wrong}))
    text = card_of(Trained("`|\n# x", "reward", "owner/base", inputs, {"steps": wrong}, tmp_path)).text()
    assert [line for line in text.split("\n") if re.match("# ", line)] == ["# `` `| # x ``"]


def test_a_method_whose_config_has_no_defaults_loses_no_weights(tmp_path, caplog):
    class Stubborn:
        kind, training = "loss", {}

        @staticmethod
        def Config():
            raise TypeError("beta is required")

    (tmp_path / "policy").mkdir()
    trained = Trained("mine", "policy", "owner/base", {"method": "mine"}, {}, tmp_path, Stubborn)
    saving.save_beside(lambda: None, trained, tmp_path / "policy")
    assert "its model card could not be made: beta is required" in caplog.text
