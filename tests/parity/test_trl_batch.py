"""One batch: loss and gradients of the native methods and of TRL's own trainers."""

from __future__ import annotations

import math

import pytest
from trl_methods import METHODS
from trl_runs import TOLERANCE, algorithm_of, gradients_of, train_config

from preflab import UserError, unit_mask
from preflab.algorithms.trl_backed import TRLDPO, TRLKTO, TRLReward
from preflab.method import registry
from preflab.training.offline import OfflineSource


def _native_step(task, method, seed=3, **config):
    """Loss and gradients by name of the native method on its first batch."""
    roles, algorithm = task.roles, algorithm_of(registry.load(method), **config)
    roles.learn(algorithm.needs.trains)
    source = OfflineSource(task.groups, task.train, 0, seed, algorithm=algorithm, roles=roles)
    batch = next(source.batches(0))
    values = algorithm.loss(batch, roles(batch, algorithm.needs.scores)).values
    loss = values[unit_mask(batch, algorithm.needs.unit)].mean()
    loss.backward()
    role = algorithm.needs.trains[0]
    gradients = gradients_of(roles.peft, role)
    if role in roles.heads:
        gradients["score"] = roles.head(role).linear.weight.grad
    return loss.item(), gradients


def _trl_step(task, method, **config):
    """The same of TRL's trainer."""
    trainer, _ = algorithm_of(METHODS[method], **config).build(task)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    found = gradients_of(trainer.model, "default")
    return loss.item(), {"score" if ".score." in name else name: gradient for name, gradient in found.items()}


@pytest.mark.parametrize(
    ("method", "start"),
    [
        *(("sft", start) for start in ("fresh", "base")),
        *((method, start) for method in ("dpo", "kto") for start in ("fresh", "sft", "apart", "base")),
        *(("reward", start) for start in ("fresh", "sft")),
    ],
)
def test_loss_and_gradients_of_one_batch(setting, method, start):
    """``apart``: the policy has left its reference; ``base``: it starts off the base, which stays the reference."""
    task = setting.task(method, setting.roles(method, start), train_config(max_steps=1, per_device_train_batch_size=8))
    theirs, their_gradients = _trl_step(task, method)
    ours, our_gradients = _native_step(task, method)

    assert ours == pytest.approx(theirs, abs=TOLERANCE)
    assert our_gradients.keys() == their_gradients.keys()
    assert len(our_gradients) == 2 * 7 * 2 + (method == "reward")  # A and B of 7 linear layers in 2 blocks, head
    for name, gradient in our_gradients.items():
        difference = (gradient - their_gradients[name]).norm()
        assert difference <= 1e-4 * gradient.norm() + 1e-8, name
    assert sum(g.norm() for g in our_gradients.values()) > 1e-3
    reference = {"dpo": math.log(2), "kto": 0.5}.get(method)
    at_reference = reference is not None and math.isclose(ours, reference, abs_tol=TOLERANCE)
    assert at_reference == (method in ("dpo", "kto") and start in ("fresh", "sft"))


@pytest.mark.parametrize(
    ("method", "config", "feedback"),
    [
        ("dpo", {"beta": 0.7}, {}),
        ("dpo", {"length_normalised": True, "beta": 5.0}, {}),
        ("kto", {"desirable_weight": 1.5, "undesirable_weight": 0.4, "beta": 0.5}, {}),
        ("reward", {"centre_coefficient": 0.3}, {"margin": 0.7}),
    ],
)
def test_what_the_config_and_the_data_say_means_the_same(setting, method, config, feedback):
    train = train_config(max_steps=1, per_device_train_batch_size=8)
    task = setting.task(method, setting.roles(method, "apart"), train)
    plain, _ = _native_step(task, method)
    # Not the same number in every row, which a constant would match.
    rows = [
        g._replace(feedback={**g.feedback, **{k: v * (g.row % 3) for k, v in feedback.items()}}) for g in task.groups
    ]
    task = task._replace(groups=rows)
    theirs, their_gradients = _trl_step(task, method, **config)
    task.roles.zero_grad()
    ours, our_gradients = _native_step(task, method, **config)
    assert ours == pytest.approx(theirs, abs=TOLERANCE)
    for name, gradient in our_gradients.items():
        assert (gradient - their_gradients[name]).norm() <= 1e-4 * gradient.norm() + 1e-8, name
    assert abs(ours - plain) > 1000 * TOLERANCE


def test_soft_labels_are_refused(setting):
    task = setting.task("dpo", setting.roles("dpo"), train_config())
    rows = [task.groups[0]._replace(feedback={"preference": 0.7}), *task.groups[1:]]
    with pytest.raises(UserError, match="soft labels"):
        algorithm_of(TRLDPO).build(task._replace(groups=rows))


def test_kto_with_one_response_at_a_time_is_refused(setting):
    task = setting.task("kto", setting.roles("kto"), train_config(per_device_train_batch_size=1))
    with pytest.raises(UserError, match="KTOTrainer of TRL refuses"):
        algorithm_of(TRLKTO).build(task)


@pytest.mark.parametrize("cls", [TRLDPO, TRLReward])
def test_label_smoothing_that_trl_would_ignore_is_refused(cls):
    with pytest.raises(UserError, match="has no label_smoothing"):
        algorithm_of(cls, label_smoothing=0.1)
