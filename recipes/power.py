"""Say how many seeds and prompts a comparison takes, from what a pilot shows of how its values vary.

    preflab power --run runs/compare
    preflab power --run runs/compare --difference 0.1
    preflab power --run runs/compare --difference 0.1 --power 0.9 --plan-prompts 256 1024

Of every two methods of the pilot: the deviations over seeds, over prompts and of the rest, and for designs of other
sizes the smallest true difference that they see; in brackets, where seeds vary by the upper limit (80 %) of what so few
leave open. With --difference: how many seeds that takes.
"""

from __future__ import annotations

from preflab.errors.answering import run_recipe
from preflab.eval.pipeline.power import PowerConfig, plan_power
from preflab.settings.command_line import CommandLine
from preflab.settings.fields import merge

CONFIGS: dict[str, type] = {"power": PowerConfig}


def main() -> None:
    """Read the pilot, print a table for each pair."""
    line = CommandLine(__doc__ or "", CONFIGS)
    plan_power(merge(line.classes, line.read()[0], "config")["power"])


if __name__ == "__main__":
    run_recipe(main)
