"""Every method's optimiser steps on the pretend accelerator; run by `test_placement.py` in a process of its own.

What a run leaves must be what it leaves on the CPU, where the values are computed in either case: a tensor that was
left behind raises, and one that was computed from other numbers makes other weights.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from pretend_device import DEVICE, WAITS, PretendTensor

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.errors import PluginError
from preflab.eval.conformance import workbench
from preflab.method import registry
from preflab.method.configured import Method, make_method
from preflab.sampling.decoding import LOOK_EVERY
from preflab.sampling.sampler import TransformersSampler
from preflab.training.trainer import run_training

EXACT = ("fused", "prompt_once", "plain")
"""The scoring paths of the workbench's model, on both devices (tried by `test_a_batch_left_behind_is_caught`)."""

TOLERANCE = 1e-12  # float64 on one processor both times: sums may be taken in another order


def own_loop(name):
    """Whether a method is trained by the loop of this project, and trained at all."""
    return bool(make_method(name).needs.scores) and not name.startswith("trl-")


NAMES = sorted(filter(own_loop, registry.registered()))


class KilledError(Exception):
    """A run dies, as by a signal."""


def train(method, folder, device=DEVICE, after=None):
    """Train on a device, from the last checkpoint in `folder` if there is one; die after so many micro-batches."""
    roles, algorithm = workbench.roles_for(method).to(device), method.fresh()
    roles.scorer.exact = EXACT
    folder.mkdir(exist_ok=True)
    source = workbench.open_source(method, algorithm, roles)
    if after is not None:
        batches = source.batches

        def dying(start):
            yield from itertools.islice(batches(start), after)
            raise KilledError

        source.batches = dying
    with pytest.MonkeyPatch.context() as patch:
        if device == DEVICE:  # the Trainer's library does not find it by itself
            patch.setenv("ACCELERATE_TORCH_DEVICE", str(DEVICE))
        run_training(roles, algorithm, source, method.train, folder, seed=3, title=method.label)
    return roles


def assert_same_weights(method, roles, expected):
    for role in method.needs.trains:
        for mine, theirs in zip(roles.parameters_of(role), expected.parameters_of(role), strict=True):
            assert isinstance(mine, PretendTensor), f"{role} has left the device"
            torch.testing.assert_close(mine.cpu(), theirs.cpu(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_methods_steps_on_the_device_are_those_on_the_cpu(name, tmp_path):
    method = workbench.small(make_method(name), max_steps=2)
    expected = train(method, tmp_path / "cpu", "cpu")
    assert_same_weights(method, train(method, tmp_path / "device"), expected)


@pytest.mark.parametrize("name", ["dpo", "kto", "ppo"])
def test_a_killed_run_goes_on_from_its_checkpoint_on_the_device(name, tmp_path):
    settings = {"per_device_train_batch_size": 8, "max_steps": 4, "save_steps": 2, "lr_scheduler_type": "cosine"}
    method = workbench.small(make_method(name), **settings)
    expected = train(method, tmp_path / "cpu", "cpu")
    with pytest.raises(KilledError):
        train(method, tmp_path / "device", after=3)
    assert list((tmp_path / "device").glob("checkpoint-*")), "nothing to go on from"
    assert_same_weights(method, train(method, tmp_path / "device"), expected)


def test_several_gpus_are_left_alone_by_the_one_process(tmp_path, monkeypatch):
    """The library would put copies of the model on each, and split a batch among them as it sees fit."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    method = workbench.small(make_method("dpo"), max_steps=1)
    assert isinstance(train(method, tmp_path).parameters_of("policy")[0], PretendTensor)


# ---- what the device refuses -------------------------------------------------------------------------


def on_device(*shape):
    return torch.ones(*shape, device=DEVICE)


MIXED = {
    "a layer and its input": lambda: torch.nn.Linear(2, 3, device=DEVICE)(torch.ones(1, 2)),
    "an embedding's ids": lambda: torch.nn.Embedding(4, 2, device=DEVICE)(torch.arange(3)),
    "two terms": lambda: on_device(3) + torch.ones(3),
    "a mask": lambda: on_device(3).masked_fill(torch.ones(3, dtype=torch.bool), 0.0),
    "places to gather from": lambda: on_device(3).gather(0, torch.arange(2)),
    "parts of a whole": lambda: torch.cat([on_device(2), torch.ones(2)]),
    "numbers in a row": lambda: torch.stack([on_device(2).sum(), torch.zeros(())]),
    "what is assigned": lambda: on_device(3).index_put_((torch.arange(2),), torch.ones(2)),
    "indices into the CPU": lambda: torch.ones(3)[torch.arange(2, device=DEVICE)],
    "a generator": lambda: torch.rand(2, device=DEVICE, generator=torch.Generator()),
    "an array of NumPy": lambda: on_device(2).numpy(),
    "a copy to the CPU that nobody waits for": lambda: on_device(2).to("cpu", non_blocking=True),
    "data of a parameter": lambda: setattr(torch.nn.Linear(2, 3, device=DEVICE).weight, "data", torch.ones(3, 2)),
    "a gradient": lambda: setattr(torch.nn.Linear(2, 3, device=DEVICE).weight, "grad", torch.ones(3, 2)),
}


@pytest.mark.parametrize("name", MIXED)
def test_mixing_devices_raises(name):
    with pytest.raises(RuntimeError):
        MIXED[name]()


ALLOWED = {
    "a number of the CPU": (lambda: on_device(2) * torch.tensor(2.0), [2.0, 2.0]),
    "indices of the CPU": (lambda: on_device(3)[torch.arange(2)], [1.0, 1.0]),
    "a number filled in": (lambda: on_device(2).masked_fill(on_device(2) > 0, torch.tensor(3.0)), [3.0, 3.0]),
    "a copy to the device": (lambda: on_device(2).copy_(torch.zeros(2)), [0.0, 0.0]),
    "a copy to the CPU": (lambda: torch.zeros(2).copy_(on_device(2)), [1.0, 1.0]),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_an_accelerator_bears_is_computed(name):
    make, expected = ALLOWED[name]
    assert make().tolist() == expected


def test_a_batch_left_behind_is_caught():
    roles, batch = workbench.make_roles().to(DEVICE), collate(workbench.make_groups(), workbench.PAD)
    assert roles(batch.to(DEVICE), ("policy",)).logps.device == DEVICE
    assert roles.scorer.exact == EXACT, "tried on the first batch, here too"
    with pytest.raises(RuntimeError, match="same device"):
        roles(batch, ("policy",))


def test_a_batch_comes_back_whole():
    batch = collate(workbench.make_groups(), workbench.PAD)
    back = batch.to(DEVICE).to("cpu")
    assert torch.equal(back.response_ids, batch.response_ids)
    assert torch.equal(back.prompt_mask, batch.prompt_mask)


def test_a_loss_that_makes_a_tensor_without_saying_where_is_caught(tmp_path):
    method = make_method("dpo")

    class Misplaced(type(method.algorithm)):
        def loss(self, batch, scores):
            weights = torch.linspace(0.5, 1.5, len(batch.prompt_ids))
            loss = super().loss(batch, scores)
            return loss._replace(values=loss.values * weights)

    with pytest.raises(PluginError, match="same device"):
        train(workbench.small(Method("misplaced", Misplaced, method.config, method.train)), tmp_path)


def test_waits_are_counted():
    WAITS.clear()
    x = on_device(3)
    x.sum().item(), x.cpu(), x.nonzero(), x[x > 0], bool(x.any()), x.tolist()
    assert WAITS == {"_local_scalar_dense": 2, "to the CPU": 2, "nonzero": 1, "index": 1}


# ---- waits for the device ----------------------------------------------------------------------------


def waits(act):
    WAITS.clear()
    act()
    return sum(WAITS.values())


def groups_of(length):
    return [EncodedGroup([5] * 3, [[6] * length + [workbench.END]] * 2, row) for row in range(4)]


def test_scoring_waits_as_often_for_long_responses_as_for_short_ones():
    roles = workbench.make_roles().to(DEVICE)
    short, long = (collate(groups_of(length), workbench.PAD).to(DEVICE) for length in (3, 12))
    roles(short, ("policy",))  # the paths are tried on the first batch
    assert 0 < waits(lambda: roles(long, ("policy",))) == waits(lambda: roles(short, ("policy",)))


def test_sampling_waits_once_in_several_tokens():
    roles, never = workbench.make_roles().to(DEVICE), workbench.VOCABULARY + 1

    def draw(limit):
        sampler = TransformersSampler(never, workbench.PAD, limit)
        sampler(roles, "policy", [[5, 6], [7]], k=2, temperature=1.0, seed=0)

    draw(4)  # ways of feeding the model are tried on the first prompts
    short, long = (waits(lambda limit=limit: draw(limit)) for limit in (8, 8 + 5 * LOOK_EVERY))
    assert long - short == 5
