"""Every offline loss that TRL has, against TRL's: one batch, and twenty steps."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from trl_runs import TOLERANCE, apart, gradients_of, lines_of, shake, train_config

from preflab.algorithms.dpo import DPOConfig
from preflab.algorithms.trl_backed import TRLDPO
from preflab.data.encoding import EncodedGroup
from preflab.method import registry
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings
from preflab.training.offline import OfflineSource
from preflab.training.task import Task
from preflab.training.trainer import run_training
from preflab.training.trl import Backing, TRLBacked

LORA = LoraSettings(4, 8, ("q_proj", "down_proj"))
BETA = 0.3
TRAJECTORY = 1e-4


def by_dpo_trainer(loss_type, fields=lambda config: {}):
    """Return a backing by TRL's DPOTrainer with this loss."""

    def all_fields(config, task):
        return {**TRLDPO.backing.fields(DPOConfig(config.beta), task), "loss_type": loss_type, **fields(config)}

    return dataclasses.replace(TRLDPO.backing, fields=all_fields, only={}, metrics=lambda config: {})


def columns(group):
    """Return what the `tokenize_row` of the experimental trainers makes of a row."""
    found = {"prompt": "", "chosen": "", "rejected": ""}
    for name, ids in zip(("chosen", "rejected"), group.response_ids, strict=True):
        found[f"{name}_input_ids"] = group.prompt_ids + ids
        found[f"{name}_attention_mask"] = [1] * len(group.prompt_ids + ids)
        found[f"{name}_labels"] = [-100] * len(group.prompt_ids) + ids
    return found


def by_experimental(name, fields):
    """Return a backing by one of `trl.experimental`'s trainers."""
    shared = {"max_length": 64, "disable_dropout": True}
    return Backing(f"{name}Trainer", f"{name}Config", columns, lambda config, task: {**shared, **fields(config)})


def smoothed(field):
    return lambda config: {"label_smoothing": getattr(config, field)}


# Method, its fields, the backing. DPO itself and KTO are in test_trl.py; with label smoothing DPO has no counterpart,
# for TRL 1.16 reads that field in other losses (robust, exo_pair, aot) and leaves it out of "sigmoid".
CASES = {
    "dpo-normalised": ("dpo", {"length_normalised": True}, by_dpo_trainer(["sigmoid_norm"])),
    "robust-dpo": ("robust-dpo", {"flip_rate": 0.1}, by_dpo_trainer(["robust"], smoothed("flip_rate"))),
    "slic": ("slic", {}, by_dpo_trainer(["hinge"])),
    "ipo": ("ipo", {"length_normalised": True}, by_dpo_trainer(["ipo"])),
    "sppo": ("sppo", {}, by_dpo_trainer(["sppo_hard"])),
    "exo": ("exo", {"label_smoothing": 0.01}, by_dpo_trainer(["exo_pair"], smoothed("label_smoothing"))),
    "nca": ("nca", {}, by_dpo_trainer(["nca_pair"])),
    "apo-zero": ("apo", {"variant": "zero"}, by_dpo_trainer(["apo_zero"])),
    "apo-down": ("apo", {"variant": "down"}, by_dpo_trainer(["apo_down"])),
    "discopop": ("discopop", {"tau": 0.2}, by_dpo_trainer(["discopop"], lambda c: {"discopop_tau": c.tau})),
    "rpo": ("rpo", {"alpha": 0.7}, by_dpo_trainer(["sigmoid", "sft"], lambda c: {"loss_weights": [1.0, c.alpha]})),
    "simpo": (
        "simpo",
        {"gamma": 0.4},
        by_experimental(
            "CPO", lambda c: {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": c.beta, "simpo_gamma": c.gamma}
        ),
    ),
    "cpo": ("cpo", {"alpha": 0.7}, by_experimental("CPO", lambda c: {"beta": c.beta, "cpo_alpha": c.alpha})),
    "orpo": ("orpo", {"odds_weight": 0.7}, by_experimental("ORPO", lambda c: {"beta": c.odds_weight})),
}
# TRL averages the likelihood of chosen over the tokens of a micro-batch, we over those of each response and then over
# responses; ORPO's counts the prompt's tokens besides. Both are the same where chosen responses are equally long
# and prompts hold the start token alone.
LIKELIHOOD = {"rpo", "cpo", "orpo"}


@pytest.fixture(autouse=True)
def _experimental(monkeypatch):
    """Put the experimental trainers where the others are, their tokenisation bypassed."""
    trl = pytest.importorskip("trl")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    for trainer, config in ((CPOTrainer, CPOConfig), (ORPOTrainer, ORPOConfig)):
        bypassed = {"tokenize_row": lambda self, row, **_: row, "_metrics": {"train": {}}}
        monkeypatch.setattr(trl, trainer.__name__, type("Bypassed", (trainer,), bypassed), raising=False)
        padded = dataclasses.make_dataclass("Padded", [("pad_to_multiple_of", object, None)], bases=(config,))
        monkeypatch.setattr(trl, config.__name__, padded, raising=False)


@pytest.fixture(scope="module")
def base(tiny_model_path):
    return load_base(str(tiny_model_path), LORA)


def make_groups(case, tokens):
    """Ragged prompts and responses, or (see `LIKELIHOOD`) prompts of one token and chosen responses of six."""
    rng = np.random.default_rng(0)

    def words(low, high):
        return rng.integers(4, tokens, rng.integers(low, high)).tolist()

    def group(row):
        if case in LIKELIHOOD:
            return EncodedGroup([1], [[*words(5, 6), 2], [*words(1, 12), 2]], row)
        return EncodedGroup([1, *words(1, 9)], [[*words(1, 12), 2], [*words(1, 12), 2]], row)

    return [group(row) for row in range(30)]


@pytest.fixture
def setting(base, tiny_tokenizer, tmp_path):
    """Makes, for a case, two tasks with equal roles of their own: one for us, one for TRL."""

    def make(case, train):
        name, fields, backing = CASES[case]
        native = registry.load(name)
        beta = {"beta": BETA} if "beta" in native.Config.__dataclass_fields__ else {}
        config = native.Config(**{**beta, **fields})
        backed = type("Backed", (TRLBacked,), {"native": native, "backing": backing})
        tasks = []
        for side in ("ours", "theirs"):
            # The policy starts off the base, and away from its reference.
            roles = Roles(copy.deepcopy(base), LORA, ("policy",), seed=7)
            shake(roles.parameters_of("policy"), 1)
            if native.needs.uses("reference"):
                roles.clone("policy", "reference")
            shake(roles.parameters_of("policy"), 2)
            (tmp_path / side).mkdir()
            groups = make_groups(case, len(tiny_tokenizer))
            tasks.append(Task(roles, groups, train, tiny_tokenizer, tmp_path / side, 3, "test"))
        return native(config), backed(config), *tasks

    return make


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_of_one_batch(setting, case):
    train = train_config(max_steps=1, per_device_train_batch_size=8)
    native, backed, our_task, their_task = setting(case, train)
    trainer, _ = backed.build(their_task)
    trainer.model.train()
    theirs = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    theirs.backward()
    their_gradients = gradients_of(trainer.model, "default")

    roles = our_task.roles
    roles.learn(native.needs.trains)
    batch = next(OfflineSource(our_task.groups, train, 0, our_task.seed).batches(0))
    ours = native.loss(batch, roles(batch, native.needs.scores)).values.mean()
    ours.backward()
    our_gradients = gradients_of(roles.peft, "policy")

    assert ours.item() == pytest.approx(theirs.item(), rel=TOLERANCE, abs=TOLERANCE)
    assert our_gradients.keys() == their_gradients.keys()
    assert len(our_gradients) == 2 * 2 * 2  # A and B of 2 linear layers in 2 blocks
    for name, gradient in our_gradients.items():
        assert (gradient - their_gradients[name]).norm() <= 1e-4 * gradient.norm() + 1e-8, name
    assert sum(gradient.norm() for gradient in our_gradients.values()) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_go_the_same_way(setting, case):
    native, backed, our_task, their_task = setting(case, train_config())
    backed.fit(their_task)
    theirs = lines_of(their_task.folder)
    source = OfflineSource(our_task.groups, our_task.train, 0, our_task.seed)
    run_training(our_task.roles, native, source, our_task.train, our_task.folder, seed=our_task.seed, title="native")
    ours = lines_of(our_task.folder)

    losses = [line["loss"] for line in ours]
    assert len(losses) == 20
    # What follows could not hold by standing still.
    assert max(losses) - min(losses) > 100 * TRAJECTORY * max(map(abs, losses))
    assert apart(ours, theirs) < TRAJECTORY
    assert apart(ours, theirs, "grad_norm") < 1e-2
