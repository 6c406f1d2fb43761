"""A run of stages that do nothing: what it shows is the same as of one that trains. Run as a script."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from preflab import progress
from preflab.errors.answering import run_recipe

NAME = "preflab"
STAGED = Path(__file__).resolve()
ROOT = STAGED.parents[3]


def main() -> None:
    """Two stages one after the other, then two side by side as other processes tell of them."""
    how = set(sys.argv[1:])
    progress.say("dpo and ppo: reviews world")
    progress.expect(["sft", "reward", "dpo-seed0", "ppo-seed0", "eval-dpo-seed0"])
    with progress.stage("sft"), progress.progress("sft", 10, "step") as task:
        for _ in range(10):
            time.sleep(0.12)
            task.note({"loss": 0.5})
            task.advance()
    logging.getLogger(NAME).warning("a warning between stages")
    if "fails" in how:
        with progress.stage("reward"), progress.progress("reward", 10, "step") as task:
            time.sleep(0.8)
            task.advance()
            raise KeyError("reward")
    side_by_side()
    print("the result")


def side_by_side() -> None:
    """Show two pieces at a time."""
    dpo = progress.Task("dpo-seed0", 64, "step", 0, time.monotonic(), lambda task: None)
    ppo = progress.Task("ppo-seed0", 16, "step", 0, time.monotonic(), lambda task: None)
    drawn = progress.Task("sampling", 512, "token", 0, time.monotonic() - 10, lambda task: None)
    with progress.at_work(2):
        for name in ("dpo-seed0", "ppo-seed0"):
            progress.begun(name, (name,))
        for step in range(12):
            time.sleep(0.12)
            dpo.done, ppo.done, drawn.done = 5.0 * step, float(step), 40.0 * step
            dpo.figures, ppo.figures = {"loss": 0.65, "accuracy": 0.61}, {"loss": 0.2, "reward": 1.2}
            progress.heard("dpo-seed0", [dpo])
            progress.heard("ppo-seed0", [ppo, drawn])
            if step == 8:
                logging.getLogger(NAME).warning("a warning while something is drawn")
        for name in ("dpo-seed0", "ppo-seed0"):
            progress.ended(name)
            progress.elsewhere(progress.Made(name, 2.4, {"loss": 0.65}))


if __name__ == "__main__":
    run_recipe(main)  # type: ignore[arg-type]
