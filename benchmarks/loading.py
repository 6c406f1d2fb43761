"""What opening a large preference file costs: CPU seconds of each step, and the process's peak memory.

    python -m benchmarks.loading --model MODEL [--rows 200000]

The rows are short and made by a seed: 20,000 questions with ten pairs each, as JSON lines. Opening is all that a recipe
does before it trains: reading, cleaning, splitting and encoding them, and every fingerprint that a stage's key needs.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = ["Lily", "Tom", "the", "a", "park", "house", "happy", "sad", "was", "went", "and", "had", "fun", "dog", "big"]


def write_rows(path: Path, count: int, seed: int = 0) -> None:
    """Write so many rows with a prompt of about eight words and two answers of about six."""
    draw = random.Random(seed)

    def text(words: int) -> str:
        return " ".join(draw.choices(WORDS, k=words))

    prompts = [f"Human: {text(7)} {i}?\n\nAssistant:" for i in range(max(1, count // 10))]
    with path.open("w") as file:
        for i in range(count):
            row = {"prompt": prompts[i % len(prompts)], "chosen": f" {text(5)} {i}.", "rejected": f" {text(6)}!"}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Print a line for each step."""
    parser = argparse.ArgumentParser("python -m benchmarks.loading", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="hub name or local folder")
    parser.add_argument("--rows", type=int, default=200_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        write_rows(path, asked.rows)
        _measure(asked.model, path, Path(folder))


def _measure(model: str, path: Path, folder: Path) -> None:
    started, total = time.process_time(), 0.0

    def step(title: str, work: Callable[[], Any]) -> Any:
        nonlocal started, total
        found = work()
        spent, started = time.process_time() - started, time.process_time()
        total += spent
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{title:<36} {spent:7.1f} s CPU   peak {peak:6.0f} MiB", flush=True)
        return found

    def imports() -> tuple[Any, ...]:
        from preflab.disk.stages import Run
        from preflab.experiment.experiment import Experiment
        from preflab.settings.training import LoraSettings
        from preflab.worlds import WorldConfig

        return Experiment, Run, LoraSettings, WorldConfig

    Experiment, Run, LoraSettings, WorldConfig = step("imports", imports)  # noqa: N806
    config = WorldConfig(model=model, dataset=str(path))
    ground = step("open the world", lambda: Experiment(Run(folder / "run"), config, LoraSettings(), folder / "cache"))
    step("keys of stages", ground.identity)
    for split in ("demonstrations", "pairs", "prompts", "gold_pairs", "heldout", "eval_prompts"):
        step(f"encoded {split} ({len(getattr(ground.world, split))})", lambda name=split: getattr(ground, name))
    print(f"{'in all':<36} {total:7.1f} s CPU")


if __name__ == "__main__":
    main()
