"""What is measured: workloads, presets of model and lengths, and runs of either side in processes of their own."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.shapes import make_model
from preflab.errors import UserError, near_misses

ROOT = Path(__file__).parents[1]
TRL_1_12 = ROOT / ".venv-trl112" / "bin" / "python"

Side = Literal["native", "trl"]
SIDES: tuple[Side, ...] = ("native", "trl")


class Workload(NamedTuple):
    """What both sides train.

    Attributes:
        method: the native method.
        rival: what TRL's side is: a registered method, or the PPOTrainer of TRL 1.12; None: TRL has no such method.
        values: fields of the method, for both sides.
        accumulation: micro-batches of an optimiser step, which on-policy methods take from one rollout.
        cached: reference log-probabilities are computed beforehand, which does not count.
        ends: responses end before the limit, after a quarter of it on average.
        k: responses per prompt of given data.
    """

    method: str
    rival: str | None
    values: Mapping[str, Any] = {}
    accumulation: int = 1
    cached: bool = False
    ends: bool = False
    k: int = 2


PPO_TRAINER = "TRL 1.12"
PPO = {"rollout_epochs": 4, "samples_per_prompt": 1, "kl_coefficient": 0.05, "temperature": 1.0}
JOINT = {**PPO, "value_trunk": "policy"}
WORKLOADS = {
    "dpo": Workload("dpo", "trl-dpo"),
    "dpo-cached": Workload("dpo", "trl-dpo", cached=True),
    "reward": Workload("reward", "trl-reward"),
    "kto": Workload("kto", "trl-kto"),
    "rloo": Workload("rloo", "trl-rloo", {"samples_per_prompt": 4, "clip_range": 0.2}),
    "grpo": Workload("grpo", "trl-grpo", {"samples_per_prompt": 4}),
    "ppo": Workload("ppo", PPO_TRAINER, PPO, accumulation=4),
    "ppo-joint": Workload("ppo", PPO_TRAINER, JOINT, accumulation=4),
    "ppo-ending": Workload("ppo", PPO_TRAINER, PPO, accumulation=4, ends=True),
    "ppo-joint-ending": Workload("ppo", PPO_TRAINER, JOINT, accumulation=4, ends=True),
    "ranking": Workload("plackett-luce", None, k=4),
}


class Preset(NamedTuple):
    """A model and how it is fed.

    Attributes:
        shape: name of the model's shape.
        lengths: prompt/response, in tokens.
        batch: prompts in a micro-batch.
        bf16: train in bfloat16, on a base in bfloat16.
    """

    shape: str
    lengths: tuple[str, ...]
    batch: int = 8
    bf16: bool = False


ON_CPU, ON_CUDA = ("64/64", "128/64", "256/64", "64/256"), ("512/256", "128/512")
PRESETS = {
    "toy": Preset("toy", ("8/8",), batch=2),
    "toy-bf16": Preset("toy", ("8/8",), batch=2, bf16=True),
    "cpu": Preset("llama-5.6m", ON_CPU),
    "cpu-60m": Preset("llama-60m", ON_CPU),
    "cpu-135m": Preset("smollm2-135m", ("128/128",), batch=4),
    "cuda-0.5b": Preset("qwen2.5-0.5b", ON_CUDA, bf16=True),
    "cuda-1.5b": Preset("qwen2.5-1.5b", ON_CUDA, bf16=True),
    "cuda-7b": Preset("qwen2.5-7b", ON_CUDA, batch=4, bf16=True),
}


class Job(NamedTuple):
    """One run of one side.

    Attributes:
        workload: name of the workload.
        side: whose trainer.
        preset: name of the preset.
        model: folder of the model.
        lengths: prompt/response.
        warm_up: units that are not timed; a unit is an optimiser step, or a rollout with all its steps.
        units: units that are.
        values: fields of the method that differ from the workload's.
        k: responses per prompt of given data, if not the workload's.
    """

    workload: str
    side: Side
    preset: str
    model: str
    lengths: str
    warm_up: int
    units: int
    values: Mapping[str, Any] = {}
    k: int | None = None

    @property
    def what(self) -> Workload:
        """The workload itself."""
        return WORKLOADS[self.workload]

    @property
    def prompt(self) -> int:
        """Tokens of a prompt."""
        return int(self.lengths.split("/")[0])

    @property
    def response(self) -> int:
        """Tokens of the longest response."""
        return int(self.lengths.split("/")[1])

    @property
    def batch(self) -> int:
        """Prompts in a micro-batch."""
        return PRESETS[self.preset].batch

    @property
    def total(self) -> int:
        """Units of the whole run."""
        return self.warm_up + self.units


class Result(NamedTuple):
    """What one run cost.

    Attributes:
        seconds: per unit.
        tokens_per_second: of training passes, a prompt counted once however many responses it has.
        bytes: peak memory: resident on the CPU, allocated on CUDA.
        losses: of each optimiser step.
        first: what the first rollout was like, where responses are sampled.
    """

    seconds: float
    tokens_per_second: float
    bytes: int
    losses: list[float]
    first: dict[str, float]


# ---- processes ---------------------------------------------------------------------------------------


def run_alone(job: Job, module: str | None = None) -> Result | str:
    """Run a job in a fresh process, by its side's own module or another; return its last words where it fails."""
    what = job.what
    runs, python = "benchmarks.bench", sys.executable
    if job.side == "trl" and what.rival == PPO_TRAINER:
        runs, python = "benchmarks.ppo_trl_1_12", str(TRL_1_12)
        if not TRL_1_12.exists():
            return "no environment with TRL 1.12; make trl-1.12"
    # Nothing is to be asked of the hub, and nothing to be reported to it.
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [python, "-W", "ignore", "-m", module or runs, json.dumps(job._asdict())]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **quiet})
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"status {answer.returncode}"]
        return lines[-1][:120]
    return Result(**json.loads(answer.stdout.splitlines()[-1]))


@contextmanager
def models(preset: str, workloads: Sequence[str], lengths: Sequence[str]) -> Iterator[dict[tuple[str, str], str]]:
    """Make the models that workloads need, and yield their folders by workload and lengths."""
    with tempfile.TemporaryDirectory() as temporary:
        found: dict[tuple[str, str], str] = {}
        for name, length in itertools.product(workloads, lengths):
            ends = WORKLOADS[name].ends
            folder = Path(temporary) / (f"ends-{length.replace('/', '-')}" if ends else "model")
            if not folder.exists():
                make_model(folder, PRESETS[preset].shape, 4 / int(length.split("/")[1]) if ends else None)
            found[name, length] = str(folder)
        yield found


def choices(
    parser: argparse.ArgumentParser, default: Sequence[str], argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Add the options that all commands share, and read the command line.

    Raises:
        UserError: for an unknown preset or workload, or lengths that are none.
    """
    parser.add_argument("--preset", default="cpu", help=f"model and precision: {', '.join(PRESETS)}")
    parser.add_argument(
        "--workloads", default="", help=f"some of {', '.join(WORKLOADS)} [default: {','.join(default)}]"
    )
    parser.add_argument("--lengths", default="", help="prompt/response, such as 64/64,128/64; default: the preset's")
    parser.add_argument("--warm-up", type=int, default=2, help="steps, or rollouts, that are not timed")
    parser.add_argument("--steps", type=int, default=5, help="steps, or rollouts, that are")
    parser.add_argument("--write", action="store_true", help="put the rows into docs/benchmarks.md")
    args = parser.parse_args(argv)
    args.workloads = args.workloads.split(",") if args.workloads else list(default)
    for name, known in ((args.preset, PRESETS), *((name, WORKLOADS) for name in args.workloads)):
        if name not in known:
            raise UserError(f"unknown preset or workload {name!r}{near_misses(name, known)}; see --help")
    args.lengths = args.lengths.split(",") if args.lengths else list(PRESETS[args.preset].lengths)
    for length in args.lengths:
        if not all(part.isdigit() and int(part) > 1 for part in length.split("/")) or length.count("/") != 1:
            raise UserError(f"lengths {length!r} are not two numbers above 1, such as 128/64")
    if args.warm_up < 1 or args.steps < 1:
        raise UserError("--warm-up and --steps must be at least 1")
    return args
