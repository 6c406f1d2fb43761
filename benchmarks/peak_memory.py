"""Peak memory of PPO against DPO: same model, LoRA, micro-batch and lengths, each in a process of its own.

    python -m benchmarks.peak_memory [--prompt 128] [--response 64] [--batch 8] [--steps 4]

DPO's micro-batch holds B pairs; PPO's holds B prompts with two samples each, which never end early (random
weights seldom choose the end token): the longest case.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def measure(method: str, model: Path, prompt: int, response: int, batch: int, steps: int) -> dict[str, float]:
    """Train a few steps in this process and return its peak memory and seconds."""
    from benchmarks.shapes import make_groups
    from preflab.data.encoding import load_tokenizer
    from preflab.method.configured import make_method
    from preflab.model.base import load_base
    from preflab.model.roles import Roles
    from preflab.sampling.sampler import TransformersSampler
    from preflab.settings.training import LoraSettings
    from preflab.training.offline import OfflineSource
    from preflab.training.rollouts import RolloutSource
    from preflab.training.trainer import run_training

    values = {"per_device_train_batch_size": batch, "max_steps": steps}
    if method == "ppo":
        values |= {"rollout_prompts": batch * 2, "samples_per_prompt": 2, "rollout_epochs": 1}
    chosen = make_method(method, values)
    tokenizer, settings = load_tokenizer(str(model)), LoraSettings()
    roles = Roles(load_base(str(model), settings), settings, ("policy",))
    groups = make_groups(batch * 4, prompt, response)
    if method == "ppo":
        roles.add("reward")
        roles.clone("reward", "value")
        sampler = TransformersSampler(tokenizer.eos_token_id, tokenizer.pad_token_id, response)
        prompts = [group.prompt_ids for group in groups]
        source = RolloutSource(chosen.algorithm, chosen.needs, roles, sampler, prompts, chosen.train, 0)
    else:
        source = OfflineSource(groups, chosen.train, tokenizer.pad_token_id, 0)
    with tempfile.TemporaryDirectory() as folder:
        record = run_training(roles, chosen.algorithm, source, chosen.train, Path(folder), seed=0, title=method)
    return {"bytes": record.peak_memory_bytes, "seconds": record.seconds}


def main() -> None:
    """Measure both, alternately, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompt", 128), ("response", 64), ("batch", 8), ("steps", 4), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--method")
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    if args.method:
        print(json.dumps(measure(args.method, args.model, args.prompt, args.response, args.batch, args.steps)))
        return
    from benchmarks.shapes import make_model

    found: dict[str, list[float]] = {"dpo": [], "ppo": []}
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        for _ in range(args.repeats):
            for method, peaks in found.items():
                sizes = [f"--{n}={getattr(args, n)}" for n in ("prompt", "response", "batch", "steps")]
                command = [sys.executable, "-m", "benchmarks.peak_memory", f"--method={method}", f"--model={model}"]
                answer = subprocess.run([*command, *sizes], capture_output=True, text=True, check=True)
                peaks.append(json.loads(answer.stdout.splitlines()[-1])["bytes"])
    middle = {method: sorted(peaks)[len(peaks) // 2] for method, peaks in found.items()}
    for method, peak in middle.items():
        print(f"{method}: {peak / 2**20:.0f} MiB peak (median of {args.repeats})")
    print(f"ppo / dpo: {middle['ppo'] / middle['dpo']:.2f}")


if __name__ == "__main__":
    main()
