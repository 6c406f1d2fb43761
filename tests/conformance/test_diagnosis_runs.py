"""Every symptom is found in a run that was made to have it, and none in healthy ones.

The runs are short but real: a small world with a reward planted in it, adapters, rollouts, trainer, evaluation.
The base model is a Llama whose weights are set so that it is a Markov chain over two dozen words.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import preflab.training.rollouts
from preflab.disk.files import read_jsonl
from preflab.disk.stages import Run
from preflab.eval.diagnosis import DETECTORS, Evidence, diagnose
from preflab.eval.harness.evaluate import evaluate_policy, evaluate_reward_model
from preflab.eval.judges import TextJudge
from preflab.eval.settings import EvalConfig
from preflab.experiment.experiment import Experiment
from preflab.experiment.rewards import Rewards
from preflab.method.configured import make_method
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings
from preflab.training.snapshots import snapshots
from preflab.worlds import WorldConfig

pytestmark = pytest.mark.slow

GOOD, BAD, PLAIN = [f"good{i}" for i in range(5)], [f"bad{i}" for i in range(5)], list("abcdefghijklmn")
NAMES = ["<pad>", "<s>", "</s>", *GOOD, *BAD, *PLAIN]
PAD, START, END = range(3)
LIMIT = 32

GOLD = """
def gold(prompt, response):
    words = set(response.split())
    good, bad = (sum(word.startswith(kind) for word in words) for kind in ("good", "bad"))
    return min(3, good) - min(3, bad)
"""

OFFLINE = {"per_device_train_batch_size": 32, "max_steps": 32, "logging_steps": 1, "learning_rate": 1e-3}
SAMPLED = {
    "rollout_prompts": 64,
    "rollout_epochs": 1,
    "per_device_train_batch_size": 64,
    "max_steps": 24,
    "logging_steps": 2,
    "learning_rate": 3e-3,
}


def save_base(folder):
    """Save a Llama that is a Markov chain: its layers add next to nothing, its head knows what follows each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(NAMES)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(NAMES),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=END,
        )
        model = LlamaForCausalLM(config)
        logits = 1.8 * torch.randn(len(NAMES), len(NAMES))
        embeddings = torch.randn(len(NAMES), 32)
    logits[:, :END] = -12.0
    logits[:, END] = logits[:, END + 1 :].logsumexp(1) - 1.5  # one token in five or six ends the response
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(embeddings)
        states = model.model.norm(embeddings).double()
        model.lm_head.weight.copy_((torch.linalg.pinv(states) @ logits.log_softmax(1).double()).T)
    model.save_pretrained(folder)


class Bench:
    """The world, a reward model trained in it, and what every run shares."""

    def __init__(self, folder: Path):
        save_base(folder / "base")
        (folder / "gold.py").write_text(GOLD)
        draw = random.Random(0)
        prompts = {" ".join(draw.choices(PLAIN, k=draw.randint(2, 5))) for _ in range(1800)}
        (folder / "prompts.txt").write_text("\n".join(sorted(prompts)))
        world = WorldConfig(
            model=str(folder / "base"),
            reward=f"{folder / 'gold.py'}:gold",
            prompts=str(folder / "prompts.txt"),
            max_prompt_tokens=8,
            max_response_tokens=LIMIT,
            max_pairs=4800,
            heldout_fraction=0.25,
        )
        modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
        lora = LoraSettings(lora_rank=8, lora_alpha=16, target_modules=modules)
        self.experiment = Experiment(Run(folder / "run"), world, lora, folder / "cache")
        self.pairs, self.judge = self.experiment.pairs, TextJudge(self.experiment.world.gold)
        self.baselines = {}
        self.reward = self.train("reward", learning_rate=5e-3)

    def train(self, name, title=None, reward=None, groups=None, snapshots=0, **fields):
        """Train a method, its fields on top of those for short runs."""
        sampled = make_method(name).needs.responses == "sampled"
        method = make_method(name, {**(SAMPLED if sampled else OFFLINE), **fields})
        return self.experiment.train(title or name, method, reward=reward, groups=groups, snapshots=snapshots)

    def rewards(self, stage, sharpened=1.0):
        """Return all that is known of a reward model; `sharpened` multiplies its scores."""
        roles = self.experiment.open_roles(("reward",), sft=None, reward=stage)
        head = roles.head("reward")
        with torch.no_grad():
            head.linear.weight.mul_(sharpened)
        records = evaluate_reward_model(self.experiment, roles, EvalConfig(), title="reward")
        return Evidence(metrics(stage), records, scale=1.0)

    def policy(self, stage=None, reward=None, seed=0):
        """Evaluate a stage's policy, or the one that training starts from."""
        wanted = ("policy", "reference", "reward") if reward else ("policy", "reference")
        roles = self.experiment.open_roles(wanted, sft=None, reward=reward)
        if stage is not None:
            roles.start("policy", stage.folder / "policy")
        return evaluate_policy(self.experiment, roles, self.judge, EvalConfig(), seed=seed, title="policy")

    def run(self, name, title=None, reward=None, groups=None, **fields):
        """Train a policy and return all that is known of the run."""
        stage = self.train(name, title, reward, groups, **fields)
        key = reward and Rewards.of(reward).key
        if key not in self.baselines:
            self.baselines[key] = self.policy(reward=reward, seed=-1)
        start, end = self.baselines[key], self.policy(stage, reward)
        way = [(at.step, self.policy(stage._replace(folder=at.folder), reward)) for at in snapshots(stage.folder)]
        course = [(0, start), *way, (stage.record["steps"], end)] if way else []
        return Evidence(metrics(stage), end, start, {**SAMPLED, **fields}, course=course, training=stage.record)


def metrics(stage):
    return read_jsonl(stage.folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"))


def symptoms(evidence):
    return {finding.symptom for finding in diagnose(evidence)}


# ---- rewards with something wrong --------------------------------------------------------------------


def flattery(batch):
    """Pays for the very words that it should not."""
    ids = torch.tensor([NAMES.index(word) for word in BAD])
    return (torch.isin(batch.response_ids, ids) & batch.response_mask).sum(-1).float()


def saturating(batch):
    """Pays well for the first good words, and then a little for each bad one."""
    good, bad = (torch.tensor([NAMES.index(word) for word in words]) for words in (GOOD, BAD))
    good, bad = ((torch.isin(batch.response_ids, ids) & batch.response_mask).sum(-1).float() for ids in (good, bad))
    return good.clamp(max=2) + 0.3 * bad


def length(batch):
    """Pays for every token."""
    return 0.5 * batch.response_mask.sum(-1).float()


def constant(batch):
    """Pays the same for everything."""
    return torch.ones(batch.response_ids.shape[:2])


def stutter(batch):
    """Pays for each word said twice running."""
    ids, mask = batch.response_ids, batch.response_mask
    return ((ids[..., 1:] == ids[..., :-1]) & mask[..., 1:]).sum(-1).float()


# ---- runs made to have a fault -----------------------------------------------------------------------

FAULTS = {}


def fault(*expected):
    def register(make):
        FAULTS[make.__name__] = (make, set(expected))
        return make

    return register


@fault("reward hacking")
def a_reward_that_pays_for_bad_words(bench, monkeypatch):
    return bench.run("a2c", "flattery", flattery, learning_rate=1e-2)


@fault("over-optimisation")
def a_reward_that_pays_for_good_words_first_and_then_for_bad_ones(bench, monkeypatch):
    return bench.run("a2c", "saturating", saturating, learning_rate=1e-2, max_steps=96, snapshots=6)


@fault("length exploitation")
def a_reward_that_pays_for_length(bench, monkeypatch):
    return bench.run("a2c", "length", length)


@fault("repetition")
def a_reward_that_pays_for_repetition(bench, monkeypatch):
    return bench.run("reinforce", "stutter", stutter, learning_rate=5e-3, max_steps=48)


@fault("no reward variance", "unmoved policy")
def a_reward_that_is_constant(bench, monkeypatch):
    return bench.run("rloo", "constant", constant, samples_per_prompt=2, max_steps=8, logging_steps=1)


@fault("entropy blow-up")
def data_that_are_noise(bench, monkeypatch):
    draw = random.Random(1)
    noise = [[draw.randrange(END + 1, len(NAMES)) for _ in range(8)] + [END] for _ in bench.pairs]
    groups = [group._replace(response_ids=[ids]) for group, ids in zip(bench.pairs, noise, strict=True)]
    return bench.run("sft", "noise", groups=groups, learning_rate=3e-2)


@fault("KL blow-up", "mode collapse")
def no_price_on_kl_and_giant_steps(bench, monkeypatch):
    gold = bench.experiment.gold_reward()
    return bench.run("reinforce", "greedy", gold, kl_coefficient=0.0, learning_rate=0.1)


@fault("clipped updates")
def many_steps_on_each_rollout_and_a_narrow_clip(bench, monkeypatch):
    gold = bench.experiment.gold_reward()
    constant = {"learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    return bench.run("ppo", "hasty", gold, rollout_epochs=4, clip_range=0.02, **constant)


@fault("useless value function")
def a_value_that_learns_nothing(bench, monkeypatch):
    return bench.run("a2c", "valueless", bench.experiment.gold_reward(), value_coefficient=0.0)


@fault("likelihood displacement", "overfitting", "mass where data say nothing")
def giant_steps_on_few_pairs(bench, monkeypatch):
    return bench.run("dpo", "few", groups=bench.pairs[:64], learning_rate=1e-2)


@fault("gradient explosion")
def a_reward_that_grows_from_rollout_to_rollout(bench, monkeypatch):
    prices = itertools.accumulate(itertools.repeat(1.4), lambda price, growth: price * growth)

    def inflated(batch):
        """Pays for good words, each time it is asked two fifths more than before."""
        return next(prices) * bench.experiment.gold_reward()(batch)

    inflated.key = "inflated"
    return bench.run("reinforce", "inflated", inflated, learning_rate=3e-4)


@fault("missing end tokens")
def data_without_end_tokens(bench, monkeypatch):
    endless = [
        group._replace(response_ids=[[token for token in group.response_ids[0] if token != END]])
        for group in bench.pairs
    ]
    return bench.run("sft", "endless", groups=endless, learning_rate=1e-2)


@fault("negative KL")
def a_sampler_with_stale_weights(bench, monkeypatch):
    sampler = bench.experiment.sampler()

    def stale(roles, role, *args, **kwargs):
        return sampler(roles, "reference", *args, **kwargs)

    stale.other_engine = False
    monkeypatch.setattr(bench.experiment, "sampler", lambda *rollouts, **options: stale)
    return bench.run("rloo", "stale", bench.reward, samples_per_prompt=2, max_steps=12, learning_rate=1e-2)


@fault("first ratio")
def behaviour_scored_at_another_temperature(bench, monkeypatch):
    score = preflab.model.in_parts.score_in_parts

    def warmer(roles, *args):
        with roles.at_temperature(1.5):
            return score(roles, *args)

    monkeypatch.setattr(preflab.training.rollouts, "score_in_parts", warmer)
    gold = bench.experiment.gold_reward()
    # Of one step a rollout is not scored again: what was drawn says how likely it was.
    return bench.run("rloo", "warmer", gold, samples_per_prompt=2, rollout_epochs=2, max_steps=4, logging_steps=1)


@fault("reference mismatch")
def a_reference_without_the_adapter_that_training_starts_from(bench, monkeypatch):
    sft = bench.train("sft", groups=bench.pairs, learning_rate=1e-2)
    monkeypatch.setattr(Roles, "clone", lambda *args: None)  # then the reference is the base
    method = make_method("dpo", {**OFFLINE, "max_steps": 8})
    stage = bench.experiment.train("swapped", method, sft=sft)
    return Evidence(metrics(stage), bench.policy(stage), bench.policy(sft, seed=-1))


@fault("miscalibrated reward model")
def a_reward_model_whose_scores_are_multiplied(bench, monkeypatch):
    return bench.rewards(bench.reward, sharpened=10.0)


@fault("uninformative reward model")
def a_reward_model_of_exchanged_labels(bench, monkeypatch):
    exchanged = [group._replace(response_ids=group.response_ids[::-1]) for group in bench.pairs]
    return bench.rewards(bench.train("reward", "exchanged", groups=exchanged, learning_rate=5e-3))


@fault("length bias")
def a_reward_model_of_labels_by_length(bench, monkeypatch):
    longest = [group._replace(response_ids=sorted(group.response_ids, key=len, reverse=True)) for group in bench.pairs]
    return bench.rewards(bench.train("reward", "longest", groups=longest, learning_rate=5e-3))


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_run_made_to_have_a_fault_is_found_out(name, bench, monkeypatch):
    make, expected = FAULTS[name]
    found = symptoms(make(bench, monkeypatch))
    assert expected <= found


def test_every_detector_has_a_faulty_run():
    assert {known.symptom for known in DETECTORS} == set().union(*(expected for _, expected in FAULTS.values()))


# ---- healthy runs ------------------------------------------------------------------------------------


def test_a_healthy_reward_model_has_no_symptom(bench):
    assert diagnose(bench.rewards(bench.reward)) == []


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("dpo", {}),
        ("ppo", {"max_steps": 40, "rollout_epochs": 2, "learning_rate": 2e-3}),
    ],
)
def test_a_healthy_policy_has_no_symptom(name, fields, bench):
    evidence = bench.run(name, reward=bench.reward, **fields)
    assert diagnose(evidence) == []
    gold = [sum(row["gold"] for row in records.samples) for records in (evidence.baseline, evidence.records)]
    assert gold[1] > gold[0], "a run that learnt nothing would be healthy too easily"
