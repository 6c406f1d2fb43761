"""What a person brings along: starts of every LoRA shape, reward models of others, on texts of their own."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from preflab.data.batches import collate
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.eval.subjects import open_subject
from preflab.experiment.adopted import adopted_start, given_rewards
from preflab.experiment.experiment import Experiment
from preflab.experiment.foundation import Foundation
from preflab.experiment.given_rewards import GivenReward
from preflab.experiment.rewards import Rewards
from preflab.experiment.settings import RewardSettings
from preflab.method.configured import make_method
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

TRAIN = {"per_device_train_batch_size": 4, "max_steps": 1, "logging_steps": 1, "learning_rate": 1e-2}
ROLLOUTS = {**TRAIN, "rollout_prompts": 4, "rollout_epochs": 1}
OURS = (
    "{% for m in messages %}word0 {{ m['content'] }} </s> {% endfor %}{% if add_generation_prompt %}word1 {% endif %}"
)
THEIRS = (
    "{% for m in messages %}{{ 'word2' if m['role'] == 'user' else 'word3' }} {{ m['content'] }} word4 {% endfor %}"
)


def dialogues(count=40):
    draw = random.Random(0)

    def said(role, most):
        return [
            {"role": role, "content": " ".join(f"word{draw.randrange(5, 24)}" for _ in range(draw.randint(1, most)))}
        ]

    return [
        {"prompt": said("user", 6), "chosen": said("assistant", 5), "rejected": said("assistant", 5)}
        for _ in range(count)
    ]


def instructed(model, tokenizer, folder, template=OURS):
    """Save a model with a tokenizer that has a chat template."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    written = AutoTokenizer.from_pretrained(folder)
    written.chat_template = template
    written.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tiny_model_path, tiny_tokenizer, tmp_path_factory):
    """An instruct model."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    return instructed(base, tiny_tokenizer, tmp_path_factory.mktemp("instruct") / "base")


def experiment_on(model, folder, **world):
    folder.mkdir(exist_ok=True)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dialogues()))
    config = WorldConfig(
        model=str(model),
        dataset=str(folder / "pairs.jsonl"),
        **{"max_prompt_tokens": 24, "max_response_tokens": 8, **world},
    )
    return Experiment(Run(folder / "run"), config, LoraSettings(lora_rank=4, lora_alpha=8), folder)


@pytest.fixture
def experiment(model, tmp_path):
    return experiment_on(model, tmp_path)


def shaken(model, scale=0.2):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "score" in name:
                parameter.add_(scale * torch.randn_like(parameter))
    return model


def start_adapter(model, folder, **fields):
    """Save a policy adapter that says something."""
    config = LoraConfig(
        **{"r": 3, "lora_alpha": 9, "target_modules": ["q_proj", "up_proj"], **fields}, task_type="CAUSAL_LM"
    )
    shaken(get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)).save_pretrained(folder)
    return folder


# ---- starts ------------------------------------------------------------------------------------------


def test_policies_go_on_training_an_adapter_in_its_own_shape(experiment, model, tmp_path, caplog):
    folder = start_adapter(model, tmp_path / "dora", use_dora=True, use_rslora=True)
    start = adopted_start(experiment, folder)
    assert [m for m in caplog.messages if "rank 3, alpha 9 (rsLoRA) (DoRA); the settings' rank 4" in m]
    roles = experiment.open_roles(("policy", "reference"), sft=start, reward=None)
    batch = collate(experiment.pairs[:3], 0)
    with torch.no_grad():
        scores = roles(batch, ("policy", "reference"))
        assert torch.equal(scores.logps, scores.reference_logps)
        beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder).eval()
        ids = batch.prompt_ids[:1][batch.prompt_mask[:1]][None]
        with roles.active("reference"):
            torch.testing.assert_close(roles.model(input_ids=ids).logits, beside(input_ids=ids).logits)
    for name, fields in (("dpo", TRAIN), ("rloo", {**ROLLOUTS, "samples_per_prompt": 2})):
        reward = experiment.train("reward", make_method("reward", TRAIN), sft=start)
        stage = experiment.train(name, make_method(name, fields), sft=start, reward=reward)
        config = json.loads((stage.folder / "policy" / "adapter_config.json").read_text())
        assert (config["r"], config["use_dora"], config["use_rslora"]) == (3, True, True)
        assert open_subject(str(stage.folder)).start == str(start.folder / "policy"), "whoever evaluates finds it"


def test_a_start_that_cannot_be_read_is_refused_with_what_to_do(experiment, model, tmp_path):
    folder = start_adapter(model, tmp_path / "whole", modules_to_save=["lm_head"])
    with pytest.raises(UserError, match=r"--sft: .*lm_head.*merge_and_unload.*--model"):
        adopted_start(experiment, folder)
    assert list(experiment.run.stages.glob("start-*")) == []


def foundation(experiment, begin, **settings):
    methods = make_method("sft", TRAIN), make_method("reward", TRAIN)
    return Foundation(experiment, *methods, RewardSettings(**settings), begin)


def test_a_model_with_a_template_of_its_own_is_the_start_and_another_is_trained_first(
    model, tiny_model_path, tmp_path, caplog
):
    own = foundation(experiment_on(model, tmp_path / "own"), "auto").resolved()
    assert (own.begin, own.start_label, own.sft()) == ("none", "start", None)
    assert [m for m in caplog.messages if "policies start from it as it is" in m]
    (tmp_path / "t.jinja").write_text(OURS)
    lent = foundation(
        experiment_on(tiny_model_path, tmp_path / "lent", chat_template=str(tmp_path / "t.jinja")), "auto"
    )
    assert (lent.resolved().begin, lent.resolved().start_label) == ("train", "sft")


# ---- reward models -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(model, tmp_path_factory):
    """A classifier that TRL's trainer made, which has a chat template of its own."""
    from trl import RewardConfig, RewardTrainer

    folder = tmp_path_factory.mktemp("trl")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = THEIRS
    torch.manual_seed(0)
    made = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    arguments = RewardConfig(
        str(folder / "work"), max_steps=2, learning_rate=1e-2, report_to="none", use_cpu=True, disable_tqdm=True
    )
    RewardTrainer(made, arguments, train_dataset=Dataset.from_list(dialogues()), processing_class=tokenizer).train()
    made.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def own_scores(model, tokenizer, rows, responses):
    """Return what a classifier's own forward says of messages in its own template."""
    found = []
    for row, response in zip(rows, responses, strict=True):
        said = [*row["prompt"], {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(said, return_dict=True, return_tensors="pt")
        with torch.no_grad():
            found.append(float(model(**text).logits[0, 0]))
    return found


def asked_by(experiment):
    """Return rows of the data, and their prompts as the policy reads them."""
    rows = dialogues()[:6]
    prompts = [
        experiment.tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for row in rows
    ]
    assert set(prompts) <= set(experiment.world.asked)
    return rows, prompts, [row["chosen"][0]["content"] for row in rows]


def test_a_classifier_of_trl_scores_as_its_own_forward_does_and_trains_a_policy(experiment, classifier):
    rows, prompts, responses = asked_by(experiment)
    given = GivenReward(str(classifier), adapter=False)
    expected = own_scores(
        *(kind.from_pretrained(classifier) for kind in (AutoModelForSequenceClassification, AutoTokenizer)),
        rows,
        responses,
    )
    assert given.texts(experiment)(prompts, responses) == pytest.approx(expected, abs=1e-5)
    rewards = given_rewards(experiment, [given], None, pool="mean", batch_size=4)
    (stage,) = experiment.run.stages.glob("reward-*")
    scale = json.loads((stage / "normalisation.json").read_text())
    scaled = rewards.function.gold(prompts, responses)
    assert scaled == pytest.approx([(x - scale["mean"]) / scale["std"] for x in expected], abs=1e-4)
    ppo = experiment.train("ppo", make_method("ppo", ROLLOUTS), reward=rewards)
    line = json.loads((ppo.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert line["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert abs(line["reward"]) < 5, "on the scale of the start's own samples"


def adapted_classifier(base, folder, tokenizer=None, **fields):
    """Save a reward adapter as PEFT does; return its model."""
    torch.manual_seed(2)
    config = LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": ["v_proj"], **fields}, task_type="SEQ_CLS")
    made = shaken(get_peft_model(AutoModelForSequenceClassification.from_pretrained(base, num_labels=1), config).eval())
    made.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return made


def test_an_adapter_on_a_base_of_its_own_is_read_on_that(experiment, tiny_model_path, tiny_tokenizer, tmp_path):
    torch.manual_seed(5)
    other = AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(tiny_model_path).config)
    base = instructed(other, tiny_tokenizer, tmp_path / "other", THEIRS)
    made = adapted_classifier(base, tmp_path / "reward", use_dora=True)
    rows, prompts, responses = asked_by(experiment)
    given = GivenReward(str(tmp_path / "reward"))
    assert not given.on_base(experiment)
    expected = own_scores(made, AutoTokenizer.from_pretrained(base), rows, responses)
    assert given.texts(experiment)(prompts, responses) == pytest.approx(expected, abs=1e-5)


def test_another_base_of_the_same_name_is_another_base_and_counts_in_the_key(
    experiment, model, tiny_tokenizer, tmp_path
):
    torch.manual_seed(6)
    fresh = AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(model).config)
    base = instructed(fresh, tiny_tokenizer, tmp_path / model.name, THEIRS)
    adapted_classifier(base, tmp_path / "reward")
    given = GivenReward(str(tmp_path / "reward"))
    assert base != model
    assert given.base(experiment) == str(base)
    before = given.key_in(experiment)
    assert before != given.key
    for weight in fresh.parameters():
        weight.data += 1
    fresh.save_pretrained(base)
    assert GivenReward(given.source).key_in(experiment) != before


def test_where_there_are_held_out_prompts_alone_scores_are_scaled_on_those(experiment, classifier):
    other = copy.copy(experiment)
    other.__dict__ |= {"prompts": [], "prompt_groups": []}
    given_rewards(other, [GivenReward(str(classifier), adapter=False)], None, pool="mean", batch_size=4, name="heldout")
    assert len(list(experiment.run.stages.glob("heldout-*"))) == 1


def test_prompts_that_are_one_as_tokens_are_named(experiment, caplog):
    other = copy.copy(experiment)
    first, *rest = experiment.eval_prompts
    other.__dict__["eval_prompts"] = [first._replace(prompt_ids=rest[0].prompt_ids), *rest]
    other.rewards_of_texts(lambda prompts, responses: [], "k")
    assert "1 prompts are, as tokens, the same as others" in caplog.text
    caplog.clear()
    experiment.rewards_of_texts(lambda prompts, responses: [], "k")
    assert not caplog.text


def test_an_adapter_with_a_template_beside_it_reads_its_own_texts(experiment, model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = THEIRS
    made = adapted_classifier(model, tmp_path / "reward", tokenizer)
    rows, prompts, responses = asked_by(experiment)
    given = GivenReward(str(tmp_path / "reward"))
    assert not given.on_base(experiment)
    expected = own_scores(made, tokenizer, rows, responses)
    assert given.texts(experiment)(prompts, responses) == pytest.approx(expected, abs=1e-5)


def test_an_adapter_on_the_base_is_read_there_in_its_shape_and_gets_a_scale(experiment, model, tmp_path):
    made = adapted_classifier(model, tmp_path / "reward", use_rslora=True)
    given = GivenReward(str(tmp_path / "reward"))
    assert given.on_base(experiment)
    rewards = given_rewards(experiment, [given], None, pool="mean", batch_size=4)
    (stage,) = rewards.stages
    scale = json.loads((stage.folder / "reward" / "normalisation.json").read_text())
    roles = experiment.open_roles(("policy", "reward"), sft=None, reward=rewards)
    batch = collate(experiment.pairs[:3], 0)
    ids = torch.cat([batch.prompt_ids[0][batch.prompt_mask[0]], batch.response_ids[0, 0][batch.response_mask[0, 0]]])
    with torch.no_grad():
        expected = (float(made(input_ids=ids[None]).logits[0, 0]) - scale["mean"]) / scale["std"]
        assert float(roles(batch, ("reward",)).rewards[0, 0]) == pytest.approx(expected, abs=1e-4)
    again = given_rewards(experiment, [GivenReward(str(stage.folder / "reward"))], None, pool="mean", batch_size=4)
    assert json.loads((again.stages[0].folder / "reward" / "normalisation.json").read_text()) == scale, "its own stays"


def test_reward_models_of_several_kinds_are_pooled(experiment, model, classifier, tmp_path):
    adapted_classifier(model, tmp_path / "reward")
    given = [GivenReward(str(classifier), adapter=False), GivenReward(str(tmp_path / "reward"))]
    _, prompts, responses = asked_by(experiment)
    each = [given_rewards(experiment, [one], None, pool="mean", batch_size=4) for one in given]
    first, second = each[0].function.gold(prompts, responses), None
    pooled = {pool: given_rewards(experiment, given, None, pool=pool, batch_size=4) for pool in ("mean", "worst")}
    mean, worst = (pooled[pool].function.gold(prompts, responses) for pool in ("mean", "worst"))
    second = [2 * m - f for m, f in zip(mean, first, strict=True)]
    assert worst == pytest.approx([min(pair) for pair in zip(first, second, strict=True)], abs=1e-4)
    assert len({pooled["mean"].key, pooled["worst"].key, *(one.key for one in each)}) == 4
    assert isinstance(each[1], Rewards)


def test_a_reward_model_that_reads_less_than_a_text_is_refused(experiment, classifier, tmp_path):
    short = AutoModelForSequenceClassification.from_pretrained(classifier)
    short.config.max_position_embeddings = 4
    short.save_pretrained(tmp_path / "short")
    AutoTokenizer.from_pretrained(classifier).save_pretrained(tmp_path / "short")
    _, prompts, responses = asked_by(experiment)
    with pytest.raises(UserError, match=r"reads 4 tokens, and .* takes \d+"):
        GivenReward(str(tmp_path / "short"), adapter=False).texts(experiment)(prompts, responses)
