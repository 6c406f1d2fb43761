"""The command `preflab`: every recipe of this folder under one name.

preflab compare --model MODEL --dataset pairs.csv
preflab train dpo --help
python recipes/compare.py …                         a clone's scripts are the same code
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from preflab.errors import UserError, near_misses
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import one_line, shown


class Command(NamedTuple):
    """What a word after ``preflab`` does: the module of this folder whose ``main`` is run, and in a line, why."""

    recipe: str
    about: str
    session: bool = False  # whether it takes the settings of a session, and sections of methods


COMMANDS = {
    "compare": Command("compare", "compare methods on one model and one preference data set", True),
    "train": Command("train", "train one method, and judge it against the policy it started from", True),
    "evaluate": Command("evaluate", "judge any policies, reward models and files of answers on the same rows", True),
    "report": Command("report", "print and draw a finished run again, or put several side by side"),
    "data check": Command(
        "data_check", "say what a run would read of preference data, drop, split and give the model", True
    ),
    "plan": Command("plan", "say what compare, or train METHOD, would take: memory, time, disk", True),
    "power": Command("power", "say how many seeds and prompts would have seen a difference"),
    "methods": Command("methods", "list the methods that there are, or show one"),
    "annotate": Command("annotate", "ask people which answer is better, blind"),
    "conformance": Command("conformance", "hold methods to the optimum that they should reach", True),
    "merge": Command("merge", "fold a trained adapter into its base, with a model card; push it if asked"),
    "export": Command("export", "write samples and scores as other tools read them"),
    "completion": Command("completion", "print what makes a shell complete these commands: bash, zsh or fish"),
}

EXAMPLES = (
    ("preflab compare --quick", "a first look, in a minute, with nothing to download"),
    ("preflab compare --model MODEL --dataset pairs.csv", "PPO or DPO, by how much, on your model and data"),
    ("preflab train dpo --model MODEL --dataset pairs.csv", "an adapter, and whether it is better than its start"),
)


def main() -> int | None:
    """Run the recipe that the first word names.

    Raises:
        UserError: for a command that there is not.
    """
    words = sys.argv[1:]
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help", *words[2:]]
    if not words or words[0] in ("-h", "--help"):
        return print(overview())
    if words[0] == "--version":
        from preflab import __version__

        return print(f"preflab {__version__}")
    name, rest = taken(words)
    if name is None:
        raise UserError(unknown(words[0]))
    sys.argv = [f"preflab {name}", *rest]
    status: int | None = importlib.import_module(f"preflab.recipes.{COMMANDS[name].recipe}").main()
    return status


def taken(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the command that words begin with, some of which are two words, and what follows it."""
    name = next((name for name in COMMANDS if list(words[: len(name.split())]) == name.split()), None)
    return name, list(words[len(name.split()) :] if name else words)


def unknown(name: str) -> str:
    """Return what is wrong with a command that there is not."""
    from preflab.method import registry

    if name.startswith("-"):
        return f"name a command before the options, as in `preflab compare {shown(name)}`; known: {', '.join(COMMANDS)}"
    method = registry.named(name)
    if ":" in name or method in registry.registered():
        return f"{shown(name)} is a method, and no command: write `preflab train {one_line(method)}`"
    return f"there is no command {shown(name)}{near_misses(name, COMMANDS)}; known: {', '.join(COMMANDS)}"


def overview() -> str:
    """Return what there is, in a screen."""
    width = max(map(len, (line for line, _ in EXAMPLES)))
    commands = [f"  {name:12} {command.about}" for name, command in COMMANDS.items()]
    examples = [f"  {line:{width}}  {about}" for line, about in EXAMPLES]
    parts = (
        "PPO or DPO, by how much, and can it be believed? Language models trained on human preferences, compared.",
        "\n".join(["usage: preflab COMMAND [options]", "", *commands]),
        "\n".join(["examples:", *examples]),
        "preflab COMMAND --help says what a command takes; --help all, everything; --help METHOD, a method's settings.",
    )
    return "\n\n".join(parts)


def run() -> None:
    """Run the command, and leave with its status."""
    run_recipe(main)


if __name__ == "__main__":
    run()
