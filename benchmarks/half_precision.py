"""How far log-probabilities in half precision are from float32: by every path, and by the model's own forward pass.

    python -m benchmarks.half_precision --model FOLDER --dataset FILE [--rows 4] [--dtype bfloat16]

All errors are in nats, against the same weights read as float32: of a token's log-probability; of a response's, which
is their sum; and of a token's log-ratio between an adapter and the bare base, which losses are made of. ``PEFT`` is the
model's own pass with PEFT's layers in place of ours. Seconds are the processor's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from preflab.data.batches import collate
from preflab.disk.stages import Run
from preflab.experiment.experiment import Experiment
from preflab.method.contract import Batch
from preflab.model.roles import Roles
from preflab.scoring.logps import PATHS, single_logps, token_logps
from preflab.scoring.lora import FastLinear
from preflab.scoring.precision import in_float32
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

PUSH = 0.02
"""Standard deviation of the adapter's B: a token's log-ratio is then some tenths of a nat on a model of 0.1B."""


class Said(NamedTuple):
    """What a way of scoring says of every response token, ``[B, K, T]``: with the adapter, without; and its time."""

    policy: Tensor
    reference: Tensor
    seconds: float = 0.0


def opened(model: str, dataset: str, rows: int, dtype: Any) -> tuple[Roles, Batch]:
    """Return a model with an adapter that does something, and a batch of the data's pairs."""
    lora = LoraSettings(dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        config = WorldConfig(model=model, dataset=dataset, max_pairs=max(8, 4 * rows))
        experiment = Experiment(Run(Path(folder) / "run"), config, lora, Path(folder))
        batch = collate(experiment.pairs[:rows], experiment.tokenizer.pad_token_id)
        roles = Roles(experiment.load_base(), lora)
    generator = torch.Generator().manual_seed(0)
    for name, weight in roles.peft.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=PUSH, generator=generator)
    return roles, batch


def said(roles: Roles, score: Callable[[], Tensor]) -> Said:
    """Score with the adapter, and without."""
    found, start = [], time.process_time()
    for role in ("policy", "reference"):
        with roles.active(role):
            found.append(score())
    return Said(*found, seconds=time.process_time() - start)


def ways(roles: Roles, batch: Batch) -> dict[str, Callable[[], Tensor]]:
    """Return the ways of scoring."""
    model = roles.model

    def by(path: Any) -> Callable[[], Tensor]:
        return lambda: token_logps(model, PATHS[path](model.base_model, batch), batch, 1.0)

    return {
        **{path.replace("_", "-"): by(path) for path in ("fused", "prompt_once", "plain")},
        "own, one by one": lambda: single_logps(model, batch, 1.0),
    }


def row(name: str, found: Said, precise: Said, real: Tensor) -> str:
    """Return a line of the table."""
    errors = (found.policy - precise.policy).double()
    token, ratio = errors[real], (errors - (found.reference - precise.reference).double())[real]
    cells = [
        f"{token.pow(2).mean().sqrt():.2g}",
        f"{token.abs().max():.2g}",
        f"{errors.sum(-1).pow(2).mean().sqrt():.2g}",
        f"{ratio.pow(2).mean().sqrt():.2g}",
        f"{found.seconds:.0f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    args = parser.parse_args()
    roles, batch = opened(args.model, args.dataset, args.rows, args.dtype)
    real, scores = batch.response_mask, ways(roles, batch)
    with in_float32(roles.model):
        precise = said(roles, scores["own, one by one"])
    moved = (precise.policy - precise.reference)[real].pow(2).mean().sqrt()
    print(f"{int(real.sum())} response tokens; the adapter moves one by {moved:.2g} nats (root mean square)\n")
    print("| path | token, rms | token, largest | response, rms | log-ratio, rms | processor's s |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, score in scores.items():
        print(row(name, said(roles, score), precise, real), flush=True)
    for layer in roles.model.modules():
        if isinstance(layer, FastLinear):
            layer.__class__ = FastLinear.__base__  # type: ignore[assignment]
    print(row("PEFT, one by one", said(roles, scores["own, one by one"]), precise, real))


if __name__ == "__main__":
    main()
