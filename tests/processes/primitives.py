"""What two processes do together, held to what one would do; run by torchrun, and silent where all is right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from preflab import ranks
from preflab.method.configured import make_method
from preflab.method.contract import Batch
from preflab.model.base import load_base
from preflab.model.roles import Roles
from preflab.sampling.sampler import TransformersSampler
from preflab.settings.training import LoraSettings
from preflab.training.arguments import training_arguments
from preflab.training.fitting import Fitting
from preflab.training.gradients import average_gradients, check_alike
from preflab.training.trainer import PreferenceTrainer

LORA = LoraSettings(lora_rank=4, lora_alpha=8)


def check_what_all_know(own: int) -> None:
    assert (ranks.ranks(), ranks.first()) == (2, own == 0)
    assert ranks.gathered(own) == [0, 1]
    assert ranks.from_first(own + 7) == 7
    asked: list[int] = []

    def answer() -> torch.Tensor:
        asked.append(own)
        assert ranks.ranks() == 1, "the first is alone meanwhile"
        return torch.tensor(3.0)

    assert ranks.once(answer) == 3
    assert asked == [0] * (own == 0)
    done: list[int] = []
    assert ranks.spread(range(5), lambda x: done.append(x) or (x * x, torch.tensor(x)))[3] == (9, 3)
    assert done == list(range(own, 5, 2))
    assert ranks.spread([], abs) == []


def check_gradients(own: int) -> None:
    weights = [nn.Parameter(torch.ones(3)) for _ in range(4)]
    weights[3].requires_grad_(False)
    weights[0].grad = torch.full((3,), float(own + 1))
    if own:
        weights[1].grad = torch.full((3,), 4.0)
    average_gradients(weights)
    assert torch.equal(weights[0].grad, torch.full((3,), 1.5))
    assert torch.equal(weights[1].grad, torch.full((3,), 2.0))
    assert weights[2].grad is None
    assert weights[3].grad is None
    check_alike(weights, "same")
    weights[0].data += own * 1e-7
    with pytest.raises(RuntimeError, match="different weights"):
        check_alike(weights, "other")


def roles_on(model: str) -> Roles:
    roles, draw = Roles(load_base(model, LORA, "cpu"), LORA), torch.Generator().manual_seed(1)
    for weight in roles.parameters_of("policy"):
        weight.data += 0.05 * torch.randn(weight.shape, generator=draw)
    roles.clone("policy", "reference")
    roles.clone("policy", "value")
    roles.learn(("policy", "value"))
    return roles


def batch_of(seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, 20, shape, generator=draw) for shape in ((4, 5), (4, 2, 6))]
    return Batch(ids[0], ids[0] > 0, ids[1], ids[1] > 0)


def gradients(roles: Roles, batch: Batch) -> torch.Tensor:
    scores = roles(batch, ("policy", "reference"))
    scores.logps.sum().backward()
    roles(batch, ("value",)).values.sum().backward()
    return scores.logps.detach()


def held(roles: Roles) -> int:
    """Return how many weights of a cut base this process holds now."""
    layers = roles.model.base_model.layers.named_parameters()
    return sum(w.to_local().numel() if isinstance(w, DTensor) else w.numel() for n, w in layers if "lora_" not in n)


def check_pieces(own: int, model: str, *, recomputes: bool) -> None:
    """A base in pieces scores, learns and samples as one that is whole, on rows that differ from process to process."""
    one, two, batch = roles_on(model), roles_on(model), batch_of(own)
    frozen = sum(w.numel() for n, w in one.model.base_model.layers.named_parameters() if "lora_" not in n)
    for roles in (one, two):
        roles.checkpoint_activations(recomputes)
    two.shard_base()
    assert two.is_sharded
    assert not one.is_sharded
    assert held(two) < 0.6 * frozen
    two(batch, ("policy",))
    assert held(two) < 0.6 * frozen, "kept until the way back"
    assert torch.equal(gradients(one, batch), gradients(two, batch))
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        assert (left.grad is None) == (right.grad is None)
        assert left.grad is None or torch.equal(left.grad, right.grad)
    sampler, prompts = TransformersSampler(1, 0, 6), [[5, 6, 7], [8, 9]][: 2 - own]
    with two.whole(), ranks.alone():
        drawn = [sampler(roles, "policy", prompts, k=1, temperature=1.0, seed=1) for roles in (one, two)]
    assert torch.equal(drawn[0].batch.response_ids, drawn[1].batch.response_ids)
    assert torch.equal(*(roles(batch, ("policy",)).logps for roles in (one, two))), "left merged"


class Rows:
    """One micro-batch a step; on the second process without a token where it is `empty`."""

    moves, sampled_tokens, steps_per_epoch = (), 0, 1

    def __init__(self, own: int, train: object, empty: tuple[bool, bool]) -> None:
        self.fitting, self.batch = Fitting(train), batch_of(own)  # type: ignore[arg-type]
        self.batch = self.batch.emptied() if empty[own] else self.batch

    def batches(self, start_step: int):
        while True:
            yield self.batch

    def take_metrics(self) -> dict:
        return {}

    def observe(self, metrics: object) -> None: ...


def check_nothing_to_learn(own: int, model: str, folder: Path) -> None:
    """A process without a token hangs nobody, nor moves anything; where none has one, nothing moves at all."""
    settings = {"per_device_train_batch_size": 8, "learning_rate": 1e-2, "logging_steps": 1, "max_steps": 2}
    found = {}
    for empty in ((False, False), (False, True), (True, True)):
        for sharded in (False, True):
            method = make_method("dpo", settings)
            roles = roles_on(model)
            roles.learn(("policy",))
            if sharded:
                roles.shard_base()
            args = training_arguments(method.train, 2, folder / str(own), 0, roles.device)
            PreferenceTrainer(roles, method.fresh(), Rows(own, method.train, empty), args).train()
            found[empty, sharded] = torch.cat([w.detach().flatten() for w in roles.parameters_of("policy")])
    start = torch.cat([w.detach().flatten() for w in roles_on(model).parameters_of("policy")])
    for empty, moves in (((False, False), True), ((False, True), True), ((True, True), False)):
        assert torch.equal(found[empty, False], found[empty, True]), empty
        assert torch.equal(found[empty, False], start) != moves, empty


if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks.start()
    base = sys.argv[1]
    check_what_all_know(ranks.rank())
    check_gradients(ranks.rank())
    for again in (False, True):
        check_pieces(ranks.rank(), base, recomputes=again)
    check_nothing_to_learn(ranks.rank(), base, Path(sys.argv[2]))
