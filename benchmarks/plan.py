"""Peak memory as planned before a weight is loaded, beside the peak that training then has.

    python -m benchmarks.plan [--cases N] [--write]

Each case trains two optimiser steps (or one rollout with its steps) in a process of its own, on random weights, whose
responses end at the length limit. `--write` puts the table into docs/planning.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "planning.md"
BEGIN, END = "<!-- planned: python -m benchmarks.plan --write -->", "<!-- /planned -->"


class Case(NamedTuple):
    """What is trained.

    Attributes:
        shape: of the model, as `benchmarks.shapes` names it.
        method: that trains.
        micro: prompts in a pass.
        prompt: tokens of a prompt.
        response: tokens of the longest response.
        recomputes: whether activations are.
    """

    shape: str
    method: str
    micro: int
    prompt: int
    response: int
    recomputes: bool = False


CASES = (
    Case("llama-60m", "dpo", 8, 128, 64),
    Case("llama-60m", "dpo", 16, 64, 64),
    Case("llama-60m", "dpo", 16, 256, 128, True),
    Case("llama-60m", "ppo", 8, 128, 64),
    Case("llama-60m", "rloo", 8, 128, 64),
    Case("smollm2-135m", "dpo", 4, 128, 64),
    Case("smollm2-135m", "dpo", 4, 512, 128),
    Case("smollm2-135m", "dpo", 8, 256, 64, True),
    Case("smollm2-135m", "ppo", 4, 128, 64),
    Case("smollm2-135m", "rloo", 4, 128, 64),
    Case("smollm2-135m", "reward", 8, 128, 64),
)


def settings(case: Case) -> Any:
    """Return the method of a case."""
    from preflab.method.configured import make_method

    values: dict[str, Any] = {
        "per_device_train_batch_size": case.micro,
        "gradient_checkpointing": case.recomputes,
        "max_steps": 2,
    }
    if case.method in ("ppo", "rloo"):
        many = {"ppo": 2, "rloo": 4}[case.method]
        values |= {"rollout_prompts": 2 * case.micro, "samples_per_prompt": many, "rollout_epochs": 1}
    return make_method(case.method, values)


def measured(case: Case, model: str) -> dict[str, int]:
    """Train in this process; return its peak, and what it held before a model was loaded."""
    from benchmarks.shapes import make_groups
    from preflab.data.encoding import load_tokenizer
    from preflab.model.base import load_base
    from preflab.model.roles import Roles
    from preflab.planning.footprint import resident_memory
    from preflab.sampling.sampler import TransformersSampler
    from preflab.settings.training import LoraSettings
    from preflab.training.offline import OfflineSource
    from preflab.training.rollouts import RolloutSource
    from preflab.training.trainer import run_training

    method, lora, tokenizer = settings(case), LoraSettings(), load_tokenizer(model)
    groups = make_groups(4 * case.micro, case.prompt, case.response)
    held = resident_memory("cpu")
    roles = Roles(load_base(model, lora), lora, ("policy", *method.needs.trains))
    source: Any
    if method.needs.responses == "sampled":
        roles.add("reward")
        if method.needs.uses("value"):
            roles.clone("reward", "value")
        sampler = TransformersSampler(len(tokenizer), 0, case.response, batch_size=case.micro)
        prompts = [group.prompt_ids for group in groups]
        source = RolloutSource(method.algorithm, method.needs, roles, sampler, prompts, method.train, 0)
    else:
        source = OfflineSource(groups, method.train, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        record = run_training(roles, method.algorithm, source, method.train, Path(folder), seed=0, title="case")
    return {"peak": record.peak_memory_bytes, "held": held}


def planned(case: Case, model: str) -> int:
    """Return the peak beside what the process holds anyway."""
    from benchmarks.shapes import make_groups
    from preflab.eval.pipeline.stage_costs import Costing
    from preflab.planning.footprint import sketched
    from preflab.settings.training import LoraSettings

    method, costing = settings(case), Costing(sketched(model, LoraSettings()), case.response, cloned_reference=False)
    groups = make_groups(4 * case.micro, case.prompt, case.response)
    if method.needs.responses == "sampled":
        cost = costing.on_policy(method, groups, case.response, reward_models=1)
    else:
        cost = costing.offline(method, groups, 0)
    assert cost.peak is not None
    return cost.peak


def row(case: Case, model: str) -> tuple[str, float]:
    """Return a case's line of the table, and planned over measured."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.plan",
        f"--case={json.dumps(case)}",
        f"--model={model}",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout.splitlines()[-1])
    told = found["held"] + planned(case, model)
    ratio = told / found["peak"]
    sizes = f"{case.micro} × {case.prompt}/{case.response}{', recomputed' if case.recomputes else ''}"
    figures = f"{told / 2**20:,.0f} | {found['peak'] / 2**20:,.0f} | {ratio:.2f}"
    return f"| {case.shape} | {case.method} | {sizes} | {figures} |", ratio


HEADER = "| model | method | micro-batch × lengths | planned, MiB | measured, MiB | ratio |\n|---|---|---|---|---|---|"


def main() -> None:
    """Plan and measure each case, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=len(CASES), help="how many of them")
    parser.add_argument("--write", action="store_true", help="put the table into docs/planning.md")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measured(Case(*json.loads(args.case)), args.model)))
        return
    from benchmarks.shapes import make_model

    lines = [HEADER]
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        models = {shape: make_model(Path(folder) / shape, shape) for shape in {case.shape for case in CASES}}
        for case in CASES[: args.cases]:
            lines.append(row(case, str(models[case.shape]))[0])
            print(lines[-1], flush=True)
    if args.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
