"""Look at preference data before anything is trained: what a run would read, drop, split and give the model.

    preflab data check pairs.csv                                 without a model: texts, lengths in characters
    preflab data check pairs.jsonl --model MODEL                 in its tokens, by its chat template
    preflab data check owner/name --model MODEL --rows 5         a data set of the hub, more rows shown
    preflab data check a.jsonl --columns prompt=question,chosen=good,rejected=bad

The options are those of a run, which does the same by the same code (--config run.yaml reads a run's file). Status 2
says that a run would not begin. docs/data_check.md has an example.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Sequence
from typing import Any

from preflab.errors import UserError, speaking
from preflab.errors.answering import run_recipe
from preflab.eval.pipeline.checking import CheckConfig, CheckedConfig, check_data
from preflab.eval.pipeline.data_page import page
from preflab.eval.pipeline.defaults import layers_under
from preflab.eval.pipeline.session import SHARED
from preflab.experiment.sections import MethodSections
from preflab.progress import listed
from preflab.settings.command_line import CommandLine
from preflab.settings.fields import as_dict, merge
from preflab.settings.speaking import SPEAKING

logger = logging.getLogger(__name__)

CONFIGS: dict[str, type] = {"world": CheckedConfig, "check": CheckConfig, **SPEAKING}


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, then the data; print what there is to say."""
    configs = settings(sys.argv[1:] if argv is None else argv)
    configs["what is said"].begin()
    report = check_data(configs["world"], configs["check"].rows)
    content = dataclasses.asdict(report)
    content["doubts"] = [doubt._asdict() for doubt in report.doubts]
    speaking.result(content)
    if not speaking.answers_in_json():
        print(page(report))
    return 2 if report.refused else 0


def settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the configs, with the defaults that a run of this model and data would have."""
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--dataset", *arguments]
    classes = {**SHARED, **CONFIGS}
    given = CommandLine(__doc__ or "", classes, sections=MethodSections()).read(arguments)
    own = {field.name for cls in CONFIGS.values() for field in dataclasses.fields(cls)}
    if unread := sorted({*given.values, *given.sections} - own):
        logger.warning("nothing here depends on %s", listed(unread))
    values = dict(given.values)
    config = merge(classes, values, "config")
    world = config["world"]
    if world.kind != "real":
        raise UserError("name the preference data: preflab data check FILE")
    if world.model is not None:
        below = {name: value for name, value in values.items() if name in as_dict(world)}
        for layer in layers_under(below, SHARED):
            values = {**layer.values, **values}
        config = merge(classes, values, "config")
    return config


if __name__ == "__main__":
    run_recipe(main)
