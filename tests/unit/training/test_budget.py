"""What training spends is what its passes did; a budget ends it, and an interruption changes neither."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
import torch
from tiny import KilledError, dying_after, make_groups, train
from torch.utils.flop_counter import FlopCounterMode

from algorithms.a2c import A2C, A2CConfig
from algorithms.dpo import DPO, DPOConfig
from algorithms.kto import KTO, KTOConfig
from algorithms.ppo import PPO, PPOConfig
from algorithms.sft import SFT, SFTConfig
from eval.comparison.budgets import QUANTITIES, compare_budgets
from eval.conformance.workbench import PAD, VOCABULARY, counts_good, make_roles
from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.experiment.experiment import Experiment
from preflab.method.configured import make_method
from preflab.model.roles import Roles
from preflab.model.work import ModelShape, Passed, Weights, Work, sampled, scored
from preflab.sampling.sampler import TransformersSampler
from preflab.scoring import lora
from preflab.settings.training import LoraSettings, TrainConfig
from preflab.training import trainer as trainer_module
from preflab.training.budget import Budget, spent_by, trained_on, under_budget
from preflab.training.callbacks import StopAtBudget
from preflab.training.reference import ReferenceLogps
from preflab.training.sources import OfflineSource, RolloutSource
from preflab.training.trainer import run_training
from preflab.worlds import WorldConfig

NEVER = VOCABULARY + 5  # an end token that is never drawn: no response is shorter than another


def even_groups(count=8, size=2, prompt=12, response=8):
    """Rows of one length: nothing is padded, and so the machine's FLOPs are those of real tokens."""
    draw = np.random.default_rng(0)

    def ids(length):
        return draw.integers(3, VOCABULARY, length).tolist()

    return [EncodedGroup(ids(prompt), [ids(response) for _ in range(size)], i) for i in range(count)]


@pytest.fixture(autouse=True)
def _attention_in_the_open(monkeypatch):
    """Make attention plain matrix products, which the counter sees."""

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        weights = query @ key.transpose(2, 3) * (scale or query.shape[-1] ** -0.5)
        if is_causal:
            attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = weights.new_zeros(attn_mask.shape).masked_fill(~attn_mask, torch.finfo(weights.dtype).min)
        if attn_mask is not None:
            weights = weights + attn_mask
        return weights.softmax(-1) @ value

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    # Adapters are counted as if they ran beside their weights.
    monkeypatch.setattr(lora, "folds", lambda layers, rows: False)


def tiny_roles(names=("policy", "reference", "reward", "value")):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(config).requires_grad_(False)
    roles = Roles(model, LoraSettings(lora_rank=4, lora_alpha=8), names, seed=1)
    with torch.no_grad():
        roles(collate(even_groups(), PAD), ("policy",))  # the scorer tries its paths on the first batch
        TransformersSampler(NEVER, PAD, 1)(roles, "policy", [[4]], k=1, temperature=1.0, seed=0)  # and so it does
    return roles


# ---- FLOPs against torch's own counter ---------------------------------------------------------------


def measured(work, run):
    """Return what `work` counted and what torch did."""
    before = work.flops
    with FlopCounterMode(display=False) as counter:
        run()
    return work.flops - before, counter.get_total_flops()


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("path", ["fused", "prompt_once", "plain", "single"])
def test_scoring_is_counted_exactly(path, size):
    roles, batch = tiny_roles(), collate(even_groups(4, size), PAD)
    roles.scorer.exact = () if path == "single" else (path,)
    with torch.no_grad():
        for role in ("policy", "reference"):
            assert roles.scorer.path(batch) == path
            ours, theirs = measured(roles.work, lambda role=role: roles(batch, (role,)))
            assert ours == theirs, role
        for role in ("reward", "value"):
            ours, theirs = measured(roles.work, lambda role=role: roles(batch, (role,)))
            assert ours == pytest.approx(theirs, rel=2e-3), "scalar heads count as part of the adapter"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_the_way_back_is_counted(size, recompute):
    roles, batch = tiny_roles(), collate(even_groups(4, size), PAD)
    roles.learn(("policy",))
    if recompute:
        roles.checkpoint_activations(True)
    ours, theirs = measured(roles.work, lambda: roles(batch, ("policy",)).logps.sum().backward())
    # The first layer's inputs, embeddings, need no gradient; we count one all the same.
    assert theirs <= ours <= 1.03 * theirs


def test_sampling_is_counted():
    roles = tiny_roles()
    prompts = [group.prompt_ids for group in even_groups(4)]
    sampler = TransformersSampler(NEVER, PAD, 8)
    ours, theirs = measured(roles.work, lambda: sampler(roles, "policy", prompts, k=2, temperature=1.0, seed=0))
    # Folding the adapters in is left out.
    assert 0.95 * theirs <= ours <= theirs


def dpo_source(roles, settings):
    return OfflineSource(even_groups(), settings, PAD, 5, algorithm=DPO(DPOConfig()), roles=roles)


def a2c_source(roles, settings):
    algorithm = A2C(A2CConfig(rollout_prompts=4, samples_per_prompt=2))
    prompts = [group.prompt_ids for group in even_groups()]
    return RolloutSource(algorithm, A2C.needs, roles, TransformersSampler(NEVER, PAD, 4), prompts, settings, 5)


@pytest.mark.parametrize(
    ("algorithm", "open_source"),
    [
        (DPO(DPOConfig()), dpo_source),
        (A2C(A2CConfig(rollout_prompts=4, samples_per_prompt=2)), a2c_source),
    ],
    ids=["dpo", "a2c"],
)
def test_a_whole_step_is_counted(algorithm, open_source, tmp_path):
    roles = tiny_roles()
    settings = TrainConfig(per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1)
    source = open_source(roles, settings)
    with FlopCounterMode(display=False) as counter:
        record = run_training(roles, algorithm, source, settings, tmp_path, seed=3, title="test")
    assert record.flops == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "qwen3", "gemma3_text", "mamba"])
def test_shapes_of_other_architectures(name):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 31}
    if name != "mamba":
        sizes["num_attention_heads"] = 2
    if name in ("qwen3", "gemma3_text"):
        sizes["head_dim"] = 8
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes))
    shape = ModelShape.of(model)
    assert shape.head == 31 * 16
    assert shape.attention == (0 if name == "mamba" else 4 * 2 * 2 * 8)
    lookups = sum(m.weight.numel() for m in model.base_model.modules() if isinstance(m, torch.nn.Embedding))
    assert 0 < shape.body <= sum(p.numel() for p in model.base_model.parameters()) - lookups


def test_a_reward_function_costs_nothing():
    roles, batch = tiny_roles(), collate(even_groups(2), PAD)
    roles.reward_function = counts_good
    before = roles.work.flops
    roles(batch, ("reward",))
    assert roles.work.flops == before


def test_an_ensemble_costs_a_pass_for_each_member():
    roles, batch = tiny_roles(), collate(even_groups(2), PAD)
    roles.add("reward_2")
    with torch.no_grad():
        one, _ = measured(roles.work, lambda: roles(batch, ("reward",)))
        roles._members = ["reward", "reward_2"]
        assert measured(roles.work, lambda: roles(batch, ("reward",)))[0] == 2 * one


def test_a_role_without_adapter_is_the_base_alone():
    roles, batch = tiny_roles(("policy",)), collate(even_groups(2), PAD)
    with torch.no_grad():
        policy, _ = measured(roles.work, lambda: roles(batch, ("policy",)))
        bare, theirs = measured(roles.work, lambda: roles(batch, ("reference",)))
    assert bare == theirs < policy


# ---- what passes see, by loops -----------------------------------------------------------------------


def ragged():
    """Two prompts of 3 and 5 tokens with responses of 2 and 4, and of 1 and none; junk is masked on both sides."""
    batch = collate([EncodedGroup([5] * 3, [[6] * 2, [7] * 4], 0), EncodedGroup([5] * 5, [[6]], 1)], PAD)
    pad = torch.nn.functional.pad
    return batch._replace(
        prompt_ids=pad(batch.prompt_ids, (2, 0), value=9),
        prompt_mask=pad(batch.prompt_mask, (2, 0), value=False),
        response_ids=pad(batch.response_ids, (0, 3), value=9),
        response_mask=pad(batch.response_mask, (0, 3), value=False),
    )


LENGTHS = [(3, 2), (3, 4), (5, 1)]


def test_what_scoring_sees():
    # Prompts once: 3 + 5 tokens; of responses all tokens but the last: 1 + 3 + 0.
    once = Passed(8 + 4, (9 + 25) + 1 * (3 + 1) + 3 * (3 + 3), 2 + 4 + 1)
    assert scored(ragged(), "prompt_once", last=False, head=True) == once
    fed_whole = Passed(8 + 7, (9 + 25) + 2 * (3 + 2) + 4 * (3 + 4) + 1 * (5 + 1), 0)
    assert scored(ragged(), "prompt_once", last=True, head=False) == fed_whole
    # Fused, the last layer is asked for 7 tokens, held against 3 + 1, 3 + 3 and 5 keys; or for the ends of three.
    spared = (12 - 7, once.pairs - 2 * (3 + 1) - 4 * (3 + 3) - 1 * 5)
    assert scored(ragged(), "fused", last=False, head=True) == once._replace(spared=spared[0], spared_pairs=spared[1])
    found = scored(ragged(), "fused", last=True, head=False)
    assert (found.spared, found.spared_pairs) == (15 - 4, fed_whole.pairs - (3 + 2) - (3 + 4) - (5 + 1) - 5)
    rows = [p + t for p, t in LENGTHS]
    assert scored(ragged(), "plain", last=False, head=True) == Passed(sum(rows), sum(n * n for n in rows), 7)
    # The model's own pass gives logits after the last token too, and none of prompts.
    assert scored(ragged(), "single", last=False, head=True).head == sum(t + 1 for _, t in LENGTHS)


def test_what_sampling_sees():
    body = pairs = 0
    for prompt, response in LENGTHS:
        for drawn in range(1, response):  # fed to draw the next one
            body, pairs = body + 1, pairs + prompt + drawn
    # Two of the three responses are to the same prompt, of three tokens.
    assert sampled(ragged()) == Passed(body + 3 + 5, pairs + 9 + 25, 7)
    assert sampled(ragged(), prompt_once=False) == Passed(body + 3 + 3 + 5, pairs + 9 + 9 + 25, 7)
    assert sampled(ragged().emptied()) == Passed(0, 0, 0)


def test_what_a_loss_is_given():
    counts = {"tokens": 8 + 7, "trained_tokens": 7, "prompts": 2, "responses": 3, "pairs": 1}
    assert trained_on(ragged(), "prompt") == counts
    assert trained_on(ragged(), "token") == {**counts, "pairs": 0}
    assert trained_on(ragged().emptied(), "prompt") == {**dict.fromkeys(counts, 0), "tokens": 8}


def test_work_by_hand():
    work = Work(None)
    work._shape = ModelShape(body=100, head=10, attention=7)
    work.add(Passed(body=3, pairs=5, head=2), Weights(4))
    forward = 2 * (100 + 4) * 3 + 7 * 5 + 2 * 10 * 2
    assert work.flops == forward
    work.add(Passed(body=3, pairs=5, head=2), Weights(4), learns=True)
    backward = 2 * 100 * 3 + 4 * 4 * 3 + 2 * 7 * 5 + 2 * 10 * 2
    assert work.flops == forward + forward + backward


def test_work_of_a_fused_pass_by_hand():
    work = Work(None)
    work._shape = ModelShape(body=100, head=10, attention=7, late=30, late_attention=2)
    work.add(Passed(body=3, pairs=5, head=2, spared=1, spared_pairs=4), Weights(4, 1))
    forward = 2 * 104 * 3 - 2 * (30 + 1) * 1 + 7 * 5 - 2 * 4 + 2 * 10 * 2
    assert work.flops == forward
    work.add(Passed(body=3, pairs=5, head=2, spared=1, spared_pairs=4), Weights(4, 1), learns=True)
    backward = 2 * (100 * 3 - 30) + 4 * (4 * 3 - 1) + 2 * (7 * 5 - 2 * 4) + 2 * 10 * 2
    assert work.flops == forward + forward + backward


# ---- a run's record ----------------------------------------------------------------------------------


def test_record_of_an_offline_run(tmp_path):
    groups = make_groups()
    _, record, _ = train(DPO(DPOConfig()), tmp_path, groups=groups, per_device_train_batch_size=4, max_steps=8)
    responses = sum(len(ids) for group in groups for ids in group.response_ids)
    prompts = sum(len(group.prompt_ids) for group in groups)
    assert (record.trained_tokens, record.tokens) == (2 * responses, 2 * (responses + prompts)), "two epochs"
    assert (record.prompts, record.pairs, record.responses, record.sampled_tokens) == (32, 32, 64, 0)


@pytest.mark.parametrize(
    ("algorithm", "responses"), [(SFT(SFTConfig()), 16), (KTO(KTOConfig()), 16)], ids=["sft", "kto"]
)
def test_what_makes_no_pairs(algorithm, responses, tmp_path):
    groups = [g._replace(feedback={"desirable": float(g.row % 2)}) for g in make_groups(size=1)]
    _, record, _ = train(algorithm, tmp_path, groups=groups, per_device_train_batch_size=4, max_steps=4)
    assert (record.prompts, record.responses, record.pairs) == (16, responses, 0)


def test_record_of_an_on_policy_run(tmp_path):
    algorithm = PPO(PPOConfig(rollout_prompts=8, samples_per_prompt=2, rollout_epochs=2))
    _, record, _ = train(algorithm, tmp_path, per_device_train_batch_size=4, max_steps=8)
    assert record.trained_tokens == 2 * record.sampled_tokens, "two passes over each rollout"
    assert (record.prompts, record.responses, record.pairs) == (32, 64, 0)


def test_kept_reference_scores_cost_what_making_them_cost_and_only_once(tmp_path):
    groups, roles = make_groups(12), make_roles()
    before = roles.work.flops
    kept = ReferenceLogps.compute(roles, groups, PAD, "test")
    price = roles.work.flops - before
    assert price > 0

    def spent(start_step, steps, reference):
        settings = TrainConfig(per_device_train_batch_size=4, gradient_accumulation_steps=2)
        source = OfflineSource(groups, settings, PAD, 5, reference=reference, roles=roles)
        before = roles.work.flops
        list(itertools.islice(source.batches(start_step), 2 * steps))
        return roles.work.flops - before

    assert spent(0, 4, kept) == price, "read twice, paid once"
    assert 0 < spent(1, 4, kept) < price, "an interrupted run goes on paying where it stopped"
    assert spent(0, 1, kept) + spent(1, 1, kept) == price
    assert spent(2, 4, kept) == spent(0, 4, None) == 0


# ---- budgets -----------------------------------------------------------------------------------------

RUNS = {
    "dpo": (lambda: DPO(DPOConfig()), {}),
    "ppo": (lambda: PPO(PPOConfig(rollout_prompts=4, rollout_epochs=2)), {}),
}
OPTIONS = {"per_device_train_batch_size": 4, "lr_scheduler_type": "cosine"}


@pytest.mark.parametrize("kind", ["tokens", "flops"])
@pytest.mark.parametrize("name", RUNS)
def test_training_stops_after_the_step_that_spends_the_budget(name, kind, tmp_path):
    make, _ = RUNS[name]
    # Steps so small that none changes what is sampled: a schedule by steps and one by budget are not quite the same.
    small = {**OPTIONS, "learning_rate": 1e-6}
    free = getattr(train(make(), tmp_path / "free", **small, max_steps=3)[1], kind)

    def under(amount):
        options = {**small, "budget": float(amount), "budget_kind": kind, "max_steps": 1}
        return train(make(), tmp_path / f"budget-{amount}", **options)[1:]

    record, lines = under(free)
    assert (record.steps, getattr(record, kind)) == (3, free)
    spent = [round(line["budget"] * free) for line in lines]
    assert len(spent) == 3
    assert spent == sorted(set(spent))
    record, lines = under(spent[1] + 1)
    assert (record.steps, getattr(record, kind)) == (3, free), "two steps fall short by one"
    assert lines[-1]["budget"] == pytest.approx(free / (spent[1] + 1))
    record, lines = under(spent[0])
    assert (record.steps, getattr(record, kind), len(lines)) == (1, spent[0], 1)


def test_a_budget_of_time(tmp_path, monkeypatch):
    clock = itertools.count()  # each look at the clock takes a second
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: float(next(clock)))
    _, record, lines = train(DPO(DPOConfig()), tmp_path, **OPTIONS, budget=20.0, budget_kind="time")
    assert record.seconds >= 20
    assert 1 < len(lines) == record.steps < 20
    assert lines[-3]["budget"] < 1  # logged by a later look than the one that stops


def test_the_last_line_is_logged_whenever_the_budget_ends(tmp_path):
    _, record, lines = train(DPO(DPOConfig()), tmp_path, **OPTIONS, budget=200.0, logging_steps=100)
    assert [line["step"] for line in lines] == [record.steps]
    assert record.final["step"] == record.steps


def test_learning_rate_decays_over_the_budget(tmp_path):
    _, plain, _ = train(DPO(DPOConfig()), tmp_path / "plain", **OPTIONS, max_steps=10)
    options = {**OPTIONS, "budget": float(plain.flops), "budget_kind": "flops"}
    _, record, lines = train(DPO(DPOConfig()), tmp_path / "cosine", **options)
    assert record.steps == 10
    rates = [line["learning_rate"] for line in lines]
    # The rate of a step is set after the step before, from what was spent by then.
    shares = [0.0, *(line["budget"] for line in lines[:-1])]
    assert rates == pytest.approx([1e-2 * (1 + np.cos(np.pi * share)) / 2 for share in shares], rel=1e-4)
    assert rates[0] == 1e-2
    assert rates[-1] < 0.1 * rates[0]


def test_warm_up_counts_steps_and_constant_rates_stay_so(tmp_path):
    fixed = {"budget": 600.0, "per_device_train_batch_size": 4}
    _, _, lines = train(DPO(DPOConfig()), tmp_path / "warm", **fixed, lr_scheduler_type="linear", warmup_steps=4)
    rates = [line["learning_rate"] for line in lines]
    assert rates[:4] == pytest.approx([0.0, 0.25e-2, 0.5e-2, 0.75e-2])
    shares = [line["budget"] for line in lines]
    assert rates[4:] == pytest.approx([1e-2 * (1 - share) for share in shares[3:-1]], rel=1e-4)
    assert len(rates) > 6
    for schedule in ("constant", "constant_with_warmup"):
        _, _, lines = train(DPO(DPOConfig()), tmp_path / schedule, **fixed, lr_scheduler_type=schedule)
        assert {line["learning_rate"] for line in lines} == {1e-2}


@pytest.mark.parametrize("kind", ["tokens", "flops"])
@pytest.mark.parametrize(("name", "killed_at"), [("dpo", 3), ("dpo", 5), ("ppo", 4)])
def test_interrupted_training_spends_and_ends_the_same(name, killed_at, kind, tmp_path):
    make, _ = RUNS[name]
    six = train(make(), tmp_path / "six", **OPTIONS, max_steps=6)[1]
    options = {**OPTIONS, "budget": float(getattr(six, kind)), "budget_kind": kind, "save_steps": 2}
    whole, record, lines = train(make(), tmp_path / "whole", **options)
    assert record.steps == 6

    with pytest.raises(KilledError):
        train(make(), tmp_path / "broken", wrap=dying_after(killed_at), **options)
    assert list((tmp_path / "broken").glob("checkpoint-*"))
    again, resumed, other = train(make(), tmp_path / "broken", **options)
    assert costs(resumed) == costs(record)
    assert [(line["loss"], line["learning_rate"], line["budget"]) for line in other] == [
        (line["loss"], line["learning_rate"], line["budget"]) for line in lines
    ]
    for mine, theirs in zip(whole.parameters_of("policy"), again.parameters_of("policy"), strict=True):
        assert torch.equal(mine, theirs)


def costs(record):
    names = ("steps", "tokens", "sampled_tokens", "trained_tokens", "prompts", "responses", "pairs", "flops")
    return {name: getattr(record, name) for name in names}


def test_no_checkpoint_is_left_at_the_step_that_spends_the_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "remove_checkpoints", lambda folder: None)  # a kill just before the end
    options = {**OPTIONS, "budget": 120.0, "save_steps": 1}
    _, record, _ = train(DPO(DPOConfig()), tmp_path, **options)
    kept = sorted(int(path.name.rpartition("-")[2]) for path in tmp_path.glob("checkpoint-*"))
    assert kept == list(range(1, record.steps))
    assert costs(train(DPO(DPOConfig()), tmp_path, **options)[1]) == costs(record)


def test_a_budget_that_nothing_is_spent_of_is_a_users_error():
    stop = StopAtBudget(lambda: 0.5)
    control = type("Control", (), {"should_training_stop": False})()
    for _ in range(1000):
        stop.on_step_end(None, None, control)
    with pytest.raises(UserError, match="1000 steps spent nothing"):
        stop.on_step_end(None, None, control)
    assert not control.should_training_stop


# ---- choosing one ------------------------------------------------------------------------------------


def test_a_budget_is_what_another_run_spent():
    record = {"tokens": 70, "flops": None, "seconds": 2.5, "sampled_tokens": 0}
    assert spent_by(record, "tokens", "dpo") == Budget("tokens", 70.0)
    assert spent_by(record, "time", "dpo") == Budget("time", 2.5)
    with pytest.raises(UserError, match=r"dpo, whose flops are not known"):
        spent_by(record, "flops", "dpo")
    with pytest.raises(UserError, match=r"best-of-n, whose tokens are zero"):
        spent_by({"tokens": 0}, "tokens", "best-of-n")


def test_a_budget_is_part_of_what_decides_a_method():
    method = make_method("dpo", {"max_steps": 7, "beta": 0.3})
    under = under_budget(method, Budget("flops", 5e9))
    assert Budget.of(under.train) == Budget("flops", 5e9)
    assert Budget.of(method.train) is None
    assert (under.name, under.config, under.train.max_steps) == ("dpo", method.config, 7)
    keys = [m.identity() for m in (method, under, under_budget(method, Budget("flops", 6e9)))]
    assert keys[0] != keys[1] != keys[2]
    assert under_budget(method, Budget("tokens", 5e9)).identity() != keys[1]


# ---- through an experiment, TRL included -------------------------------------------------------------

TRAIN = {"per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-3}


@pytest.fixture
def experiment(tiny_model_path, tmp_path):
    draw = random.Random(0)

    def words(low, high):
        return " ".join(f"word{draw.randrange(24)}" for _ in range(draw.randint(low, high)))

    rows = [{"prompt": words(2, 6), "chosen": " " + words(1, 6), "rejected": " " + words(1, 6)} for _ in range(40)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = WorldConfig(model=str(tiny_model_path), dataset=str(path), max_prompt_tokens=16, max_response_tokens=8)
    return Experiment(Run(tmp_path / "run"), config, LoraSettings(lora_rank=4, lora_alpha=8), tmp_path)


def test_methods_matched_in_flops(experiment):
    first = experiment.train("dpo", make_method("dpo", {**TRAIN, "max_steps": 12}))
    budget = spent_by(first.record, "flops", "dpo")
    sft = make_method("sft", {**TRAIN, "max_steps": 1})
    matched = experiment.train("sft", under_budget(sft, budget), groups=experiment.pairs)
    step = matched.record["flops"] / matched.record["steps"]
    assert budget.amount <= matched.record["flops"] < budget.amount + 1.5 * step
    assert matched.record["steps"] > 12, "a step without a reference costs less"


def test_trl_is_matched_in_given_tokens(experiment):
    method = {**TRAIN, "max_steps": 3}
    native = experiment.train("dpo", make_method("dpo", method))
    budget = spent_by(native.record, "tokens", "dpo")
    theirs = experiment.train("trl", under_budget(make_method("trl-dpo", {**TRAIN, "max_steps": 1}), budget))
    names = ("steps", "tokens", "trained_tokens", "prompts", "responses", "pairs", "sampled_tokens")
    assert {n: theirs.record[n] for n in names} == {n: native.record[n] for n in names}
    assert theirs.record["flops"] is None
    for name, kind in (("trl-dpo", "time"), ("trl-dpo", "flops"), ("trl-grpo", "tokens")):
        with pytest.raises(UserError, match=f"no budget of {kind}"):
            under_budget(make_method(name, method), Budget(kind, 1.0))
    with pytest.raises(UserError, match="no budget of time"):
        experiment.train("trl", make_method("trl-dpo", {**method, "budget": 1.0, "budget_kind": "time"}))


# ---- what was equal ----------------------------------------------------------------------------------


def budget_record(**changes):
    usual = dict.fromkeys(QUANTITIES, 1000)
    return {**usual, "final": {}, **changes}


def test_what_was_equal_and_what_was_not():
    methods = {
        "dpo": [budget_record(flops=1010, seconds=10.0, sampled_tokens=0), budget_record(flops=990, sampled_tokens=0)],
        "ppo": [budget_record(flops=1019, pairs=0), budget_record(flops=1021, seconds=2000.0, pairs=0)],
    }
    found = compare_budgets(methods, "flops", tried={"dpo": 3, "sft": 7})
    assert (found.matched, found.unknown, found.untrained) == ("flops", (), ())
    assert set(found.unequal) == {"compared pairs", "sampled tokens", "wall time", "settings tried"}
    assert "FLOPs" in found.equal, "1000 and 1020 on average"
    assert set(found.equal) | set(found.unequal) == {*QUANTITIES.values(), "settings tried"}
    assert found.sentence.startswith("Budgets of 2 methods: matched in FLOPs; equal within 2%: ")
    assert "wall time (up to 2.97 times)" in found.sentence
    assert "compared pairs (none for some)" in found.sentence
    assert "settings tried: 3 of dpo, 1 of ppo" in found.sentence


def test_two_percent_is_the_limit():
    for flops, kind in ((1020, "equal"), (1021, "unequal")):
        found = compare_budgets({"a": [budget_record()], "b": [budget_record(flops=flops)]}, "flops")
        assert "FLOPs" in vars(found)[kind]
        said = "meant to be matched in FLOPs, which differ by more than 2%"
        assert (said in found.sentence) == (kind == "unequal")


@pytest.mark.parametrize(
    ("flops", "apart"), [(1025, "2.5 % more"), (1020.1, "2.1 % more"), (1099, "9.9 % more"), (1100, "1.1 times")]
)
def test_a_small_excess_does_not_read_as_the_one_allowed(flops, apart):
    sentence = compare_budgets({"a": [budget_record()], "b": [budget_record(flops=flops)]}, "flops").sentence
    assert f"FLOPs (up to {apart})" in sentence


def test_what_a_method_does_not_count_is_not_compared():
    methods = {"a": [budget_record()], "b": [budget_record(flops=None), budget_record()], "n": [{"steps": 0}]}
    found = compare_budgets(methods)
    assert (found.unknown, found.untrained) == (("FLOPs",), ("n",))
    assert found.unequal == ()
    assert "not counted by every method: FLOPs" in found.sentence
    assert "not trained: n" in found.sentence
    assert "matched" not in found.sentence
    assert "in FLOPs, which not every method counted" in compare_budgets(methods, "flops").sentence


@pytest.mark.parametrize("count", [0, 1])
def test_one_method_is_compared_with_none(count):
    methods = {"dpo": [budget_record()]} if count else {}
    assert "no budgets to compare" in compare_budgets(methods, "tokens").sentence
