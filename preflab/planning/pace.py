"""How fast a machine is at a model: one micro-step and a few drawn tokens, on random weights of a few of its layers."""

from __future__ import annotations

import copy
import time
from typing import Any, NamedTuple

import torch

from preflab.method.contract import Batch, Role
from preflab.model.base import loaded_dtype, without_dropout
from preflab.model.devices import default_device
from preflab.model.roles import Roles
from preflab.planning.footprint import FEW, Sketch
from preflab.sampling.sampler import TransformersSampler
from preflab.seeds import seeded

DRAWN = 8
"""Tokens that are drawn to see how long one takes."""

BEHIND = 4
"""Tokens of the prompts that they are drawn behind: few, since prompts run fast, and drawing is what is measured."""

ENOUGH = 2048
"""Tokens of a micro-batch that tell how fast one runs."""


class Pace(NamedTuple):
    """FLOPs a second.

    Attributes:
        training: of passes there and back.
        scoring: of passes without a way back.
        drawing: of responses drawn token by token.
    """

    training: float
    scoring: float
    drawing: float


def measured(sketch: Sketch, batch: Batch[Any], rows: int, *, seed: int = 0) -> Pace:
    """Measure on the device that training would run on.

    Args:
        sketch: the model.
        batch: a micro-batch, of which a stretch is run there and back.
        rows: responses that are drawn together.
        seed: of the random weights.
    """
    device = torch.device(default_device())
    role: Role = "policy"
    roles = _random(sketch, seed).to(device)
    tokens = int(batch.prompt_mask.sum() + batch.response_mask.sum()) // len(batch.prompt_ids)
    batch = batch.rows(slice(0, max(1, ENOUGH // max(1, tokens)))).to(device)
    roles.learn((role,))

    def there_and_back() -> None:
        found = roles(batch, (role,)).of(role)
        assert found is not None
        found.sum().backward()

    def there() -> None:
        with torch.no_grad():
            roles(batch, (role,))

    there_and_back()  # the paths are tried, and kernels chosen
    known = roles.work.flops
    seconds = _seconds(there_and_back, device)
    flops, known = roles.work.flops - known, roles.work.flops
    scoring = _seconds(there, device)
    return Pace(flops / seconds, (roles.work.flops - known) / scoring, _drawing(roles, rows))


def _drawing(roles: Roles, rows: int) -> float:
    """Return FLOPs a second of so many responses drawn together."""
    sampler = TransformersSampler(roles.model.config.get_text_config().vocab_size, 0, DRAWN)  # none ever ends

    def draw() -> None:
        sampler(roles, "policy", [[1] * BEHIND] * rows, k=1, temperature=1.0, seed=0)

    draw()  # the loop is tried
    known = roles.work.flops
    seconds = _seconds(draw, roles.device)
    return (roles.work.flops - known) / seconds


def _random(sketch: Sketch, seed: int) -> Roles:
    """Return all roles on few layers of random weights."""
    import transformers

    config = copy.deepcopy(sketch.config)
    text = config.get_text_config()
    text.num_hidden_layers = min(FEW[0], text.num_hidden_layers)
    if kinds := vars(text).get("layer_types"):
        text.layer_types = kinds[: FEW[0]]
    with seeded(seed, "pace"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=loaded_dtype(sketch.lora.dtype, sketch.device)
        )
    without_dropout(model.requires_grad_(False))
    return Roles(model, sketch.lora, ("policy",))


def _seconds(work: Any, device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
