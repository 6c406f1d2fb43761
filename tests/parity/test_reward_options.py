"""Options of the reward model against TRL's RewardTrainer: one batch, loss and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from preflab import TrainConfig, UserError
from preflab.algorithms.reward import Reward
from preflab.algorithms.trl_backed import TRLReward
from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.settings.training import LoraSettings
from preflab.training.task import Task

LORA = LoraSettings(lora_rank=4, lora_alpha=8)
TOLERANCE = 1e-5  # two float32 programs of the same sums differ by some 1e-7 here
PAIRS = 8


def groups(tokenizer, feedback):
    """Ragged pairs; each takes its own of the lists in `feedback`."""
    rng = np.random.default_rng(0)

    def words(low, high):
        return rng.integers(4, len(tokenizer), rng.integers(low, high)).tolist()

    def said(row):
        return {name: values[row] for name, values in feedback.items()}

    return [
        EncodedGroup([1, *words(1, 9)], [[*words(1, 12), 2], [*words(1, 12), 2]], row, said(row))
        for row in range(PAIRS)
    ]


@pytest.fixture
def task(tiny_model_path, tiny_tokenizer, tmp_path):
    """Makes the task of training a reward model on pairs with this feedback."""

    def make(**feedback):
        roles = Roles(load_base(str(tiny_model_path), LORA), LORA, ("reward",), seed=7)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in roles.parameters_of("reward"):  # off its start, where B = 0 hides half of it
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        train = TrainConfig(max_steps=1, per_device_train_batch_size=PAIRS)
        return Task(roles, groups(tiny_tokenizer, feedback), train, tiny_tokenizer, tmp_path, 3, "test")

    return make


def native_step(task, config, rows):
    """Loss and gradients of the native method."""
    roles = task.roles
    roles.learn(("reward",))
    batch = collate(rows, 0)
    loss = Reward(config).loss(batch, roles(batch, ("reward",))).values.mean()
    loss.backward()
    found = {n.replace(".reward.", "."): p.grad for n, p in roles.peft.named_parameters() if p.grad is not None}
    return loss.item(), {**found, "score": roles.head("reward").linear.weight.grad}


def trl_step(task, config):
    """The same by TRL, and the rows of its batch."""
    trainer, rows = TRLReward(config).build(task)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    loss.backward()
    found = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    return (
        loss.item(),
        {"score" if ".score." in n else n.replace(".default.", "."): gradient for n, gradient in found.items()},
        rows,
    )


MARGIN = np.random.default_rng(1).exponential(size=PAIRS).tolist()


@pytest.mark.parametrize(
    ("fields", "feedback"),
    [({"centre_coefficient": 0.3}, {}), ({}, {"margin": MARGIN}), ({"centre_coefficient": 0.3}, {"margin": MARGIN})],
    ids=["centring", "margin", "both"],
)
def test_options_are_trls(task, fields, feedback):
    config = Reward.Config(**fields)
    given = task(**feedback)
    theirs, their_gradients, rows = trl_step(given, config)
    ours, our_gradients = native_step(given, config, rows)
    assert ours == pytest.approx(theirs, abs=TOLERANCE)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in our_gradients.items():
        assert (gradient - their_gradients[name]).norm() <= 1e-4 * gradient.norm() + 1e-8, name
    # The options are at work: without them the loss is another.
    plain, _ = native_step(task(), Reward.Config(), [row._replace(feedback={}) for row in rows])
    assert abs(plain - theirs) > 1000 * TOLERANCE


def test_what_trl_lacks_is_refused(task):
    with pytest.raises(UserError, match="label_smoothing"):
        TRLReward(Reward.Config(label_smoothing=0.1))
    with pytest.raises(UserError, match="soft labels"):
        TRLReward(Reward.Config()).build(task(preference=[0.7] * PAIRS))
