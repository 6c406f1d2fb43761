"""Runs as trackers know them: each stage one, told apart by name, group and tags, and one for the result."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from preflab import ranks
from preflab.disk.stages import content_hash
from preflab.errors import UserError, crash, near_misses
from preflab.errors.terminal import shown
from preflab.method.configured import Method
from preflab.settings.fields import as_dict
from preflab.tracking.trackers import PROJECT, TRACKERS, Outcome, Run, beginning

logger = logging.getLogger(__name__)

NONE = "none"
OTHERS = ("azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "neptune", "swanlab")
"""Trackers that transformers knows besides: they get what the loop logs, and go by their own names for runs."""


class Tracking(NamedTuple):
    """Where the metrics of a run's stages go, beside what each method's ``report_to`` says.

    Attributes:
        trackers: their names.
        group: what the runs of one comparison have in common.
        folder: the run's.
    """

    trackers: tuple[str, ...] = ()
    group: str = ""
    folder: Path = Path()

    @contextmanager
    def following(self, name: str, method: Method, about: Mapping[str, Any]) -> Iterator[Method]:
        """Have a run open at each tracker while a stage trains, and close it behind, whatever happens.

        Args:
            name: of the stage.
            method: what trains.
            about: what decides the stage's result.

        Yields:
            The method, with a loop that logs to all of them.
        """
        names = asked(self.trackers, method.train.report_to)
        if not names or method.algorithm.kind == "decoder":
            yield method
            return
        followed = copy.copy(method)
        # The names by which trackers that are not asked for a run of ours file the one that they make.
        called = {"run_name": name, "project": os.environ.get("TRACKIO_PROJECT", PROJECT)}
        followed.train = dataclasses.replace(method.train, report_to=names, extra={**called, **method.train.extra})
        seed = about.get("seed", 0)
        config = {**as_dict(method.config), **as_dict(method.train), "seed": seed, "data": about.get("data")}
        tags = (method.label, f"seed{seed}", self.folder.name)
        with open_at(names, Run(name, self.group, tags, crash.struck(config), self.folder)):
            yield followed


def group_of(folder: Path, *configs: Any) -> str:
    """Return what the runs of one comparison have in common: its folder's name, and a key of what all of them share."""
    return f"{folder.resolve().name}-{content_hash([as_dict(config) for config in configs])[:6]}"


def asked(*lists: Iterable[str]) -> tuple[str, ...]:
    """Return the trackers that some lists name, each once; ``none`` is none of them."""
    return tuple(dict.fromkeys(name for names in lists for name in names if name != NONE))


@contextmanager
def open_at(names: Iterable[str], run: Run) -> Iterator[None]:
    """Have a run open at some trackers; of several processes, the first has."""
    with ExitStack() as opened:
        if ranks.first():
            for name in names:
                if name in TRACKERS:
                    with beginning(name, run):
                        opened.enter_context(TRACKERS[name].following(run))
        yield


def report(names: Iterable[str], run: Run, outcome: Outcome) -> list[str]:
    """Log what a comparison has found, as a run of its own, at some trackers; one that fails costs no result.

    Returns:
        Those that took it.
    """
    took = []
    for name in names:
        if name not in TRACKERS:
            logger.warning("%s gets what training logs, and no final figures", name)
            continue
        try:
            TRACKERS[name].report(run, outcome)
            took.append(name)
        except Exception as error:  # of a library and a network, with everything else done
            logger.warning("%s did not take the result: %s", name, crash.without_secrets(crash.described(error)))
    return took


def check_trackers(names: Iterable[str]) -> None:
    """See that trackers are known, installed and ready to be logged to.

    Raises:
        UserError: for the first that is not, with what to do.
    """
    for name in asked(names):
        if name == "all":
            raise UserError("report_to all would log to whatever is installed; name the trackers")
        if name in OTHERS:
            continue
        if name not in TRACKERS:
            known = (*TRACKERS, *OTHERS)
            raise UserError(f"there is no tracker {shown(name)}{near_misses(name, known)}; known: {', '.join(known)}")
        if trouble := TRACKERS[name].missing():
            raise UserError(f"{name}: {trouble}")
