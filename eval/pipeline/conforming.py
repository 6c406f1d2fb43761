"""Methods held to the optimum that they should reach, and to the contract that they should keep."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab import ranks
from preflab.errors import UserError, crash, speaking
from preflab.errors.terminal import console, say
from preflab.eval.pipeline.results import write_manifest
from preflab.eval.pipeline.session import Session
from preflab.method import registry
from preflab.method.plugins import brought_files
from preflab.settings.fields import option
from preflab.settings.training import LoraSettings

if TYPE_CHECKING:
    from preflab.eval.conformance.figures import Suite
    from preflab.method.configured import Method

BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"


@dataclass(frozen=True)
class ConformanceConfig:
    """What is held to its optimum, and how much data it gets."""

    algorithms: tuple[str, ...] = option(
        (),
        "methods, by name or as package.module:Class or file.py:Class; default: every registered one",
        methods=True,
        brief="methods; none: every registered one",
    )
    groups: int = option(153600, "rows of offline data that each method learns from", minimum=64, maximum=10**8)
    coverage: float = option(
        0.0,
        "share of the offline responses that are drawn evenly from all there are, in place of the reference",
        minimum=0.0,
        maximum=1.0,
        brief="share of responses drawn evenly from all there are",
    )
    checks: bool = option(True, "run the contract's checks besides")
    docs: str | None = option(
        None,
        "folder whose conformance.md and conformance.json are to hold the result",
        brief="folder whose conformance.md is to hold the table",
    )


CONFORM: dict[str, type] = {"conformance": ConformanceConfig}
"""The configs of a session that `conform` takes."""


def conform(session: Session) -> list[str]:
    """Train each method in the exact world, measure it, run the contract's checks; print and write one table.

    Args:
        session: made with the configs `CONFORM`.

    Returns:
        A line for whatever a method did not do as asked.

    Raises:
        UserError: for whatever could not finish, before anything is trained.
    """
    config = session.config(ConformanceConfig)
    if ranks.ranks() > 1:
        raise UserError(
            f"a launcher has started {ranks.ranks()} processes, and methods are measured by one; start with python"
        )
    if config.docs is not None and BEGIN not in _page(config.docs):
        raise UserError(f"--docs {config.docs} holds no conformance.md with the lines {BEGIN.strip()} and {END}")
    names = config.algorithms or tuple(registry.registered())
    session.layers.check(names)
    methods = [session.method(name) for name in names]
    if len({method.label for method in methods}) < len(methods):
        raise UserError(f"--algorithms names a method twice: {', '.join(method.label for method in methods)}")
    folder = Path(session.run.output)
    rows, complaints = measure_all(session, config, methods, folder / "conformance.json")
    show(rows, complaints, folder, config.docs)
    return complaints


def _page(docs: str) -> str:
    page = Path(docs) / "conformance.md"
    return page.read_text(encoding="utf-8") if page.is_file() else ""


def measure_all(
    session: Session, config: ConformanceConfig, methods: Sequence[Method], path: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return every method's rows, which are in a file as soon as they are known, and what is wrong with it."""
    with session.opened(methods, doing=[method.label for method in methods]) as experiment:
        from preflab.disk.files import write_result
        from preflab.eval.conformance.figures import Suite
        from preflab.experiment.experiment import Experiment

        write_manifest(session, experiment)
        lora = replace(session.lora, target_modules=LoraSettings().target_modules)
        plain = Experiment(experiment.run, session.world, lora, Path(session.run.cache))
        suite = Suite(experiment, plain, groups=config.groups, coverage=config.coverage)
        rows: list[dict[str, Any]] = []
        complaints: list[str] = []
        for method in methods:
            found, wrong = measured(suite, method, session.run.seeds, config.checks)
            rows, complaints = rows + found, complaints + wrong
            write_result(path, rows)
        return rows, complaints


def measured(
    suite: Suite, method: Method, seeds: tuple[int, ...], checks: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a method's rows, and a line for whatever is wrong with it."""
    passed, complaints = check(method) if checks else (None, [])
    rows = []
    for labels in suite.labels(method):
        try:
            figures = suite.measure(method, labels, seeds)
        except UserError as error:
            complaints.append(f"{method.label}: cannot be trained here: {error}")
            continue
        rows.append({**figures.as_dict(), "checks": passed})
        if not figures.met:
            complaints.append(f"{method.label}, {labels} labels: {figures.target} is missed")
    return rows, complaints


def check(method: Method) -> tuple[str, list[str]]:
    """Return how many of the contract's checks hold, and a line for each that does not."""
    from preflab.eval.conformance.checks import CHECKS, NotApplicableError

    held, complaints = 0, []
    for name, checked in CHECKS.items():
        try:
            wrong = checked(method)
        except NotApplicableError:
            continue
        except Exception as error:
            brought = brought_files(type(method.algorithm))
            if not brought:
                raise
            wrong = f"raised {crash.described(error)} ({crash.at(error, brought) or crash.at(error)})"
        held += wrong is None
        if wrong is not None:
            complaints.append(f"{method.label}: {name}: {wrong}")
    return f"{held}/{held + len(complaints)}", complaints


def show(rows: list[dict[str, Any]], complaints: list[str], folder: Path, docs: str | None) -> None:
    """Print the table and what is wrong; write both files."""
    from preflab.disk.files import json_ready, write_json, write_text
    from preflab.eval.conformance.table import markdown_table, terminal_table

    write_text(folder / "conformance.md", markdown_table(rows))
    if docs is not None:
        page = Path(docs) / "conformance.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        write_text(page, before + BEGIN + markdown_table(rows) + END + rest.partition(END)[2])
        write_json(Path(docs) / "conformance.json", rows)
    speaking.result(json_ready({"methods": rows, "complaints": complaints})[0])
    if not speaking.answers_in_json():
        console(None if sys.stdout.isatty() else 140).print(terminal_table(rows))
    for line in complaints:
        say(line)
    say(f"written to {folder / 'conformance.json'}")
