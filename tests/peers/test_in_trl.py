"""TRL trains on our pairs, and its trainers are rewarded with our reward model's scores."""

from __future__ import annotations

import json

import pytest
import torch
from datasets import load_dataset
from peers import LORA, export, read_lines, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup, Encoder
from preflab.errors import UserError
from preflab.eval.exports.as_read import Opened
from preflab.eval.exports.trl import reward_function
from preflab.model.base import load_base
from preflab.model.roles import Roles

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module", autouse=True)
def _no_telemetry():
    from preflab.training.trl import _trl

    _trl()


def arguments(folder, **more):
    # TRL's default is bfloat16, which rounds rewards to three digits.
    common = {"use_cpu": True, "bf16": False, "report_to": [], "max_steps": 1, "save_strategy": "no"}
    return {"output_dir": str(folder), **common, **more}


@pytest.mark.parametrize("form", ["plain", "conversational"])
@pytest.mark.parametrize("name", ["DPO", "Reward"])
def test_exported_pairs_train(kind, form, name, tmp_path):
    import trl

    if form == "conversational" and kind.name == "text":
        pytest.skip("has no template")
    source = kind.pairs
    if form == "conversational":
        rows = read_lines(source)
        source = write_lines(tmp_path / "messages.jsonl", [
            {"prompt": [{"role": "user", "content": row["prompt"]}],
             "chosen": [{"role": "assistant", "content": row["chosen"]}],
             "rejected": [{"role": "assistant", "content": row["rejected"]}]} for row in rows])  # fmt: skip
    export(source, "--trl", "pairs.jsonl", cwd=tmp_path)
    data = load_dataset("json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    assert isinstance(data[0]["prompt"], str) == (form == "plain")
    tokenizer = AutoTokenizer.from_pretrained(kind.reward)
    sizes = {"per_device_train_batch_size": 4, "max_length": 256}
    if name == "Reward":
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(
            kind.base, num_labels=1, pad_token_id=tokenizer.pad_token_id
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(kind.base)
    config = getattr(trl, f"{name}Config")(**arguments(tmp_path / "out", **sizes))
    trainer = getattr(trl, f"{name}Trainer")(model, args=config, train_dataset=data, processing_class=tokenizer)
    assert trainer.train().training_loss > 0
    assert len(trainer.train_dataset) == len(read_lines(kind.pairs))


# ---- rewards -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    export(kind.reward, "--classifier", folder / "classifier", cwd=folder)
    return folder / "classifier"


@pytest.fixture(scope="module")
def asked(kind):
    """Prompts and completions as TRL has them, messages where there is a template; and our scores, raw and scaled."""
    rows = read_lines(kind.pairs)[:12]
    texts = [(row["prompt"], row["chosen"]) for row in rows]
    roles = Roles(load_base(str(kind.base), LORA, device="cpu"), LORA, ("reward",))
    roles.start("reward", kind.reward)
    tokenizer = Opened.of(str(kind.reward)).tokenizer
    if kind.name == "text":
        prompts, completions = map(list, zip(*texts, strict=True))
        encoder, written = Encoder(tokenizer, 10**6, 10**6), texts
    else:
        prompts = [[{"role": "user", "content": prompt.strip()}] for prompt, _ in texts]
        completions = [[{"role": "assistant", "content": text.strip()}] for _, text in texts]
        encoder, written = Encoder(tokenizer, 10**6, 10**6, chat=True), []
        for prompt, completion in zip(prompts, completions, strict=True):
            before = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
            written.append((before, completion[0]["content"]))
    groups = [EncodedGroup(encoder.prompt(p), [encoder.response(p, r)], i) for i, (p, r) in enumerate(written)]
    with torch.no_grad():
        raw = torch.cat([roles.raw_rewards(collate([group], 0)).flatten() for group in groups])
    assert raw.std() > 0.1
    return prompts, completions, groups, raw, (raw - 0.3) / 2.0


def trainers(kind, rewards, tmp_path, prompts, **processing):
    """Make every trainer of TRL's that is rewarded with these."""
    import trl
    from datasets import Dataset
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    data = Dataset.from_list([{"prompt": prompt} for prompt in prompts])
    tokenizer = AutoTokenizer.from_pretrained(kind.reward)
    tokenizer.padding_side = "left"
    for trainer, config, more in (
        (trl.GRPOTrainer, trl.GRPOConfig, {"num_generations": 2, "max_completion_length": 4}),
        (trl.RLOOTrainer, trl.RLOOConfig, {"num_generations": 2, "max_completion_length": 4}),
        (OnlineDPOTrainer, OnlineDPOConfig, {"max_new_tokens": 4}),
    ):
        model = AutoModelForCausalLM.from_pretrained(kind.base)
        settings = config(**arguments(tmp_path / trainer.__name__, per_device_train_batch_size=2, **more))
        yield trainer(
            model=model,
            reward_funcs=rewards,
            args=settings,
            train_dataset=data,
            processing_class=tokenizer,
            **processing,
        )


def rewarded(trainer, prompts, completions, ids):
    """Return what a trainer computes of prompts and completions."""
    if hasattr(trainer, "_calculate_rewards_from_functions"):
        return trainer._calculate_rewards_from_functions(prompts, completions, ids).flatten().cpu()
    inputs = [{"prompt": prompt} for prompt in prompts]
    return trainer._calculate_rewards(inputs, prompts, completions, ids).flatten().cpu()


@pytest.mark.parametrize("own_tokens", [False, True])
def test_as_a_reward_function(kind, asked, own_tokens, tmp_path):
    prompts, completions, groups, _, normalised = asked
    function = reward_function(kind.reward, own_tokens=own_tokens)
    ids = [group.response_ids[0] for group in groups]
    for trainer in trainers(kind, function, tmp_path, prompts):
        torch.testing.assert_close(rewarded(trainer, prompts, completions, ids), normalised.float(), **CLOSE)


def test_the_classifier_as_a_model(kind, asked, classifier, tmp_path):
    """Messages end where ours do; texts get no end token from TRL, and other scores."""
    prompts, completions, groups, raw, _ = asked
    ids = [group.response_ids[0] for group in groups]
    for trainer in trainers(kind, str(classifier), tmp_path, prompts):
        found = rewarded(trainer, prompts, completions, ids)
        if kind.name != "text":
            torch.testing.assert_close(found, raw.float(), **CLOSE)
        else:
            assert (found - raw).abs().max() > 0.01


def test_trained_for_a_step(kind, asked, tmp_path):
    prompts, *_ = asked
    for trainer in trainers(kind, reward_function(kind.reward), tmp_path, prompts):
        trainer.train()
        assert trainer.state.global_step == 1
        assert json.dumps(trainer.state.log_history)


def test_the_function_of_a_classifier_in_parts_and_what_it_refuses(kind, asked, classifier):
    prompts, completions, _, raw, normalised = asked
    found = reward_function(classifier)(prompts, completions)
    torch.testing.assert_close(torch.tensor(found), raw.float(), **CLOSE)
    function = reward_function(str(kind.reward), batch_size=5)
    found = function(prompts=prompts, completions=completions, trainer_state=None)
    torch.testing.assert_close(torch.tensor(found), normalised.float(), **CLOSE)
    user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    with pytest.raises(UserError, match="2 messages; the reward model reads one"):
        function([[user]], [[answer, answer]])
    with pytest.raises(UserError, match="reward model"):
        reward_function(kind.base)


def test_a_completion_that_was_cut_has_no_end_token(kind, asked):
    """By the policy's own tokens, as in training by preflab; by its text it is read as one that ended."""
    prompts, completions, groups, raw, _ = asked
    cut = [group.response_ids[0][:-1] for group in groups]
    own, texts = (reward_function(kind.reward, normalised=False, own_tokens=own) for own in (True, False))
    torch.testing.assert_close(torch.tensor(texts(prompts, completions, cut)), raw.float(), **CLOSE)
    if kind.name != "chatml":  # which is read before the end token in either case
        assert (torch.tensor(own(prompts, completions, cut)) - raw).abs().max() > 0.01
