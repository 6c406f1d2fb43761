"""List the methods that there are, or show one: its loss, what it learns from, every field.

    preflab methods
    preflab methods ppo
    preflab methods my_loss.py:MyLoss

The settings of its training too, as they would be used: preflab train ppo --help all.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any

from preflab.errors import UserError
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import printable
from preflab.experiment.sections import in_a_line
from preflab.method import registry
from preflab.method.configured import make_method
from preflab.method.contract import Needs
from preflab.settings.helping import as_written

LEARNT_FROM = {
    "demonstration": "from demonstrations",
    "single": "from single responses",
    "pair": "from pairs",
    "ranking": "from rankings",
    "sampled": "from its own samples",
}
"""What a method learns from, by what it needs; in the order in which methods are listed."""


def main() -> None:
    """Print the list, or one method."""
    words = sys.argv[1:]
    if words[:1] in (["-h"], ["--help"]):
        return print(__doc__)
    if len(words) > 1:
        raise UserError(f"methods takes the name of one method; {len(words)} words are given")
    return show_method(registry.named(words[0])) if words else list_methods()


def list_methods() -> None:
    """Print every registered method with what it is in a line, by what it learns from."""
    found: dict[str, list[str]] = {}
    for name in registry.registered():
        try:
            learns, about = LEARNT_FROM[needs_of(name).responses], in_a_line(name)
        except UserError as error:
            learns, about = "cannot be used", str(error)
        found.setdefault(learns, []).append(f"  {name:18} {about}")
    for learns in sorted(found, key=[*LEARNT_FROM.values(), *found].index):
        print(printable("\n".join([f"{learns}:", *found[learns]])))


def needs_of(name: str) -> Needs:
    """Return what a method asks of the loop, with the settings that it has by itself."""
    return make_method(name, {}).needs


def show_method(name: str) -> None:
    """Print one method: what it is, what it takes, every field of its own with its default and bounds.

    Raises:
        UserError: for a method that there is not.
    """
    algorithm, needs = registry.load(name), needs_of(name)
    roles = dict.fromkeys((*needs.scores, *needs.rollout, *needs.trains))
    lines = [
        f"{name}: {in_a_line(name)}",
        "",
        inspect.getdoc(algorithm) or "",
        "",
        f"learns {LEARNT_FROM[needs.responses]}; trains {', '.join(needs.trains)}; reads {', '.join(roles)}",
        "",
        f"fields (--FIELD of `preflab train {name}`, --{name}.FIELD of `preflab compare`):",
        *map(field_line, dataclasses.fields(algorithm.Config)),
        f"`preflab train {name} --help` has all the settings of its training too, as they would be used.",
    ]
    print(printable("\n".join(lines)))


def field_line(field: dataclasses.Field[Any]) -> str:
    """Return a field as an option, with its help and default."""
    default = as_written(field.default if field.default is not dataclasses.MISSING else None)
    return f"  --{field.name.replace('_', '-'):24} {field.metadata.get('help', '')} [{default}]"


if __name__ == "__main__":
    run_recipe(main)
