"""What is compared: methods at settings, each under a budget, checked before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from preflab.disk.stages import Stage
from preflab.errors import UserError
from preflab.eval.pipeline.session import Session
from preflab.experiment.foundation import AUTO, DATA, START, TRAIN
from preflab.experiment.sweep import Sweep, not_one_objective
from preflab.method.configured import Method
from preflab.settings.fields import option
from preflab.settings.training import MOST_STEPS
from preflab.tokens.templates import has_template
from preflab.training.budget import MEASURES, Budget, spent_by, under_budget

logger = logging.getLogger(__name__)

SOURCES = ("method", "reward", "start", DATA)
"""What a seed may draw anew, each standing on the next."""

USUAL = SOURCES[:3]
"""What it does draw anew, if nothing is said."""


@dataclass(frozen=True)
class CompareConfig:
    """What is compared."""

    algorithms: tuple[str, ...] = option(
        (),
        "methods, by name or as package.module:Class or file.py:Class; 'list' names them",
        methods=True,
        brief="methods; 'list' names them",
    )
    redraw: tuple[str, ...] = option(
        (),
        "what each seed draws anew: method (its training and samples), reward (the reward models trained for it), "
        "start (where policies start, if that is trained), data (the preferences, drawn again by their groups with "
        "replacement); default: all but data",
        means="sources",
    )
    max_steps: int | None = option(
        None,
        "optimiser steps of every stage, unless its own max_steps is lower",
        minimum=1,
        maximum=MOST_STEPS,
        brief="optimiser steps of every stage, at most",
    )
    sweep: str | None = option(
        None,
        "train every method at these values of a setting too, as field=value,value; beta stands for kl_coefficient "
        "in methods that sample, whose unit is another",
        brief="every method at these values too, as beta=0.03,0.1",
    )
    match: Literal["none", "tokens", "flops", "time"] = option(
        "none",
        "stop every method at an equal budget: what the first one named spends, or budget",
        brief="stop every method at an equal budget",
    )
    charge: Literal["own", "all"] = option(
        "own",
        "what match counts; own: each method's own training, all: with the start and the reward model trained for it",
    )
    budget: float | None = option(None, "how many tokens, FLOPs or seconds (see match)", minimum=1e-9, maximum=1e30)
    primary: Literal["gold", "win-rate", "equal-kl"] | None = option(
        None,
        "the endpoint that the answer is about, fixed in the manifest before anything is trained, all else being "
        "exploratory: gold (mean gold reward), win-rate (games won), equal-kl (mean gold reward over the KLs that two "
        "methods both reach); default: gold where the judge scores, win-rate where it compares",
    )
    report: bool = option(True, "write report/report.html with figures and tables")

    def __post_init__(self) -> None:
        check_redraw(self.sources)
        if self.budget is not None and self.match == "none":
            raise ValueError("budget says how much, and match of what: tokens, flops or time")
        if self.charge == "all" and self.match == "none":
            raise ValueError("charge says what match counts, and match is none: set it to tokens, flops or time")

    @property
    def sources(self) -> tuple[str, ...]:
        """What each seed draws anew, named or not."""
        return self.redraw or USUAL

    @property
    def given_budget(self) -> Budget | None:
        """The budget that the user names."""
        return None if self.match == "none" or self.budget is None else Budget(self.match, self.budget)


def check_redraw(redraw: Sequence[str]) -> None:
    """Refuse sources that there are none of, or that leave out what stands on them.

    Raises:
        ValueError: naming them.
    """
    if unknown := set(redraw) - set(SOURCES):
        raise ValueError(f"redraw names {min(unknown)!r}; it takes {', '.join(SOURCES)}")
    above = SOURCES[: max(map(SOURCES.index, redraw), default=0) + 1]
    if set(redraw) != set(above):
        raise ValueError(f"redraw: what stands on a stage is drawn anew with it; name {','.join(above)}")


def check_sampled(config: CompareConfig, seeds: Sequence[int]) -> None:
    """Refuse a bootstrap sample of the preferences for one seed: it shows no spread, and is less than was brought.

    Raises:
        UserError: saying what to do.
    """
    if DATA in config.sources and len(seeds) < 2:
        raise UserError(
            "--redraw data draws the preferences anew for every seed, and one seed shows no spread: it would only "
            "learn from fewer; give two --seeds or more, or leave data out"
        )


class Entry(NamedTuple):
    """A method at one setting; `varied` holds what a sweep changed, and is empty for the configured one."""

    method: Method
    varied: dict[str, Any]


def check_entries(session: Session) -> list[Entry]:
    """Build every method at every setting, and those of the stages, before anything is trained.

    Raises:
        UserError: for anything in them that could not finish.
    """
    config = session.config(CompareConfig)
    names = config.algorithms
    if not names:
        raise UserError("algorithms is empty; name at least one, or 'list' to see them")
    session.layers.check(names)
    methods = [session.method(name) for name in names]
    start = session.stage_methods()[0].label
    check_labels([method.label for method in methods], start if trains_start(session) else START)
    check_budget(config, methods)
    entries = [Entry(method, {}) for method in methods]
    return entries if config.sweep is None else [*entries, *swept(session, config.sweep, methods)]


def as_compared(session: Session, name: str) -> Method:
    """Build a method as a comparison trains it: with its steps capped and, if it is compared, under the named budget.

    Raises:
        UserError: for anything in its settings that could not finish.
    """
    config = session.config(CompareConfig)
    budget = config.given_budget if name in config.algorithms else None
    return under(budget, session.capped(config.max_steps).method(name))


def trains_start(session: Session) -> bool:
    """Whether the policy that methods start from is trained here, as far as files alone say."""
    if session.run.sft != AUTO:
        return session.run.sft == TRAIN
    folder = None if session.world.model is None else Path(session.world.model).expanduser()
    return folder is None or (folder.is_dir() and not has_template(folder))


def check_labels(labels: Sequence[str], start: str) -> None:
    """Refuse a method that is named twice, or that trains what is compared anyway.

    Args:
        labels: of the methods.
        start: what the policy that they start from is called.

    Raises:
        UserError: naming them.
    """
    if len({*labels, start}) != len(labels) + 1:
        raise UserError(
            f"--algorithms names {', '.join(labels)}: each method goes once, and {start} is compared anyway; leave it "
            "out"
        )


def check_budget(config: CompareConfig, methods: list[Method]) -> None:
    """Refuse a budget that a method cannot be held to, or that the first method cannot set.

    Raises:
        UserError: naming the method.
    """
    if config.match == "none":
        return
    if config.given_budget is None and methods[0].algorithm.kind == "decoder":
        raise UserError(
            f"--match {config.match} takes its budget from the first method, and {methods[0].label} trains nothing; "
            "name another first, or give --budget"
        )
    for method in methods:
        under(config.given_budget or Budget(config.match, 1.0), method)


def swept(session: Session, text: str, methods: list[Method]) -> list[Entry]:
    """Return every method at every other value of a sweep that it has the setting of; say so if units differ.

    Raises:
        UserError: if none has it.
    """
    sweep = Sweep.parse(text)
    sweep.check(methods)
    logger.warning("--sweep gives each method's curve of reward against KL: policies are not interpolated besides")
    if said := not_one_objective(sweep.named(methods)):
        logger.warning("--sweep: %s", said)
    return [
        Entry(changed, varied)
        for method in methods
        for varied in sweep.settings(method)
        if (changed := session.method(method.name, varied)).identity() != method.identity()
    ]


def spent(config: CompareConfig, stage: Stage, below: float = 0.0) -> Budget | None:
    """Return what the first method spent, where the others are to spend as much; `below` is what it stands on."""
    if config.match == "none":
        return None
    own = spent_by(stage.record, config.match, stage.name)
    return own._replace(amount=own.amount + below)


def left(budget: Budget | None, method: Method, below: float) -> Budget | None:
    """Return what of a budget is left to train a method by, where what it stands on is charged to it.

    Raises:
        UserError: if nothing is.
    """
    if budget is None or not below:
        return budget
    if below >= budget.amount:
        raise UserError(
            f"--charge all: what {method.label} stands on took {below:.3g} {MEASURES[budget.kind]}, and the budget is "
            f"{budget.amount:.3g}: nothing is left to train it by; give a larger --budget, or name a costlier method "
            "first"
        )
    return budget._replace(amount=budget.amount - below)


def under(budget: Budget | None, method: Method) -> Method:
    """Return the method under a budget, if there is one; a method that trains nothing spends none."""
    if budget is None or method.algorithm.kind == "decoder":
        return method
    return under_budget(method, budget)
