"""What a call gives: typed and frozen, text where it is printed, a page's first lines where a notebook shows it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.errors import UserError
from preflab.errors.terminal import one_line

if TYPE_CHECKING:
    import pandas
    from rich.console import RenderableType

    from preflab.disk.stages import Stage
    from preflab.eval.records.comparison import Comparison
    from preflab.eval.records.figures import Cost, Figure
    from preflab.eval.records.records import Rows

WIDTH = 104
"""Columns of a table that is text."""


@dataclass(frozen=True, repr=False)
class ComparisonResult:
    """Methods, or models, compared.

    Attributes:
        comparison: what ``comparison.json`` holds (docs/report.md), or, as an `Evaluation`, ``evaluation.json``.
        samples: the answers, by method and training seed: rows of ``samples.jsonl``.
        folder: the run's.
        stages: what was trained, one a seed, where one method was; each holds a folder for each role.
    """

    comparison: Comparison
    samples: Mapping[str, Mapping[str, Rows]]
    folder: Path
    stages: tuple[Stage, ...] = ()

    def __str__(self) -> str:
        """Return the table and the headline, with what is to be known of the judge, as a recipe prints them."""
        from preflab.eval.pipeline.showing import judge_lines
        from preflab.eval.report.table import comparison_table

        said = [self.comparison.headline, *judge_lines(self.comparison.judge)]
        return "\n".join([printed(comparison_table(self.comparison)), *map(one_line, said)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from preflab.eval.report.notebook import comparison_html

        return comparison_html(self.comparison)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``comparison.json`` holds, as plain values."""
        from preflab.eval.records.typed import to_json

        found: dict[str, Any] = to_json(self.comparison)
        return found

    def to_pandas(self) -> pandas.DataFrame:
        """Return a frame with a row for each method: every figure as three columns, NAME, NAME_low and NAME_high.

        What training cost stands in columns of its own (``steps``, ``seconds``, ``tokens``, …). A figure that a method
        does not have is NaN.

        Raises:
            UserError: where pandas is not installed.
        """
        rows = {
            name: {**_columns(method.figures), **(vars(method.train) if method.train else {})}
            for name, method in self.comparison.methods.items()
        }
        return frame(list(rows.values()), index=list(rows), name="method")

    def report(self, folder: str | Path | None = None) -> Path:
        """Write the report (docs/report.md) and return its page.

        Args:
            folder: where; None: ``report`` in the run folder, where the recipe has it.

        Raises:
            UserError: where matplotlib is not installed, or the folder cannot be written.
        """
        from preflab.eval.pipeline.showing import check_report
        from preflab.eval.report import write_report

        check_report(True)
        place = self.folder / "report" if folder is None else Path(folder).expanduser()
        return write_report(self.comparison, self.samples, place)[0]


@dataclass(frozen=True, repr=False)
class TrainingResult:
    """A method trained.

    Attributes:
        method: its name.
        role: what it trained: ``policy`` or ``reward``.
        stages: one a training seed; each holds a folder for each role.
        folder: the run's.
        compared: the method beside where it started; None where it was not evaluated.
    """

    method: str
    role: str
    stages: tuple[Stage, ...]
    folder: Path
    compared: ComparisonResult | None = field(default=None)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folders of the weights, one a seed: PEFT adapters of the base."""
        return tuple(stage.folder / self.role for stage in self.stages)

    @property
    def path(self) -> Path:
        """The folder of the weights.

        Raises:
            UserError: where several seeds were trained, of which one is to be chosen (`paths`).
        """
        if len(self.stages) > 1:
            raise UserError(
                f"{self.method} was trained with {len(self.stages)} seeds; choose one of its paths: result.paths[0]"
            )
        return self.paths[0]

    @property
    def comparison(self) -> Comparison | None:
        """What ``comparison.json`` would hold, if it was evaluated."""
        return None if self.compared is None else self.compared.comparison

    @property
    def cost(self) -> Cost:
        """What training cost: means over seeds, null what nobody counted, and the largest peak of memory."""
        from preflab.eval.comparison.record import summarise_training

        return summarise_training([stage.record for stage in self.stages])

    def model(self, **options: Any) -> Any:
        """Load the base and put the adapter on it, as PEFT does: a `PeftModel` of a policy or of a classifier.

        Args:
            options: for the base's `from_pretrained`, such as ``dtype`` and ``device_map``.

        Raises:
            UserError: as `path` does.
        """
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        if self.role == "reward":  # which finds the end of a text by its padding
            options = {"num_labels": 1, "pad_token_id": self.tokenizer().pad_token_id, **options}
            return PeftModel.from_pretrained(
                AutoModelForSequenceClassification.from_pretrained(self._base, **options), str(self.path)
            )
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(self._base, **options), str(self.path))

    def tokenizer(self) -> Any:
        """Load the tokenizer that goes with `model`.

        Raises:
            UserError: as `path` does.
        """
        from preflab.data.encoding import load_tokenizer

        beside = (self.path / "tokenizer_config.json").is_file()
        return load_tokenizer(str(self.path) if beside else self._base)

    @property
    def _base(self) -> str:
        from preflab.model.adapter_config import read_config

        return str(read_config(self.path)["base_model_name_or_path"])

    def lines(self) -> list[str]:
        """Return what was trained, what it cost, and where it lies."""
        from preflab.eval.report.table import cost_texts

        steps = self.cost.steps
        counted = [] if steps is None else [f"{steps:,.0f} steps"]
        seeds = f" with {len(self.stages)} seeds" if len(self.stages) > 1 else ""
        return [
            f"{self.method} trained{seeds}: {', '.join([*counted, *cost_texts(self.cost)])}",
            *(f"{self.role}: {path}" for path in self.paths),
        ]

    def __str__(self) -> str:
        """Return what was trained, what it cost and where it lies, below how it compares with its start."""
        return "\n".join([*([str(self.compared)] if self.compared else []), *map(one_line, self.lines())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from preflab.eval.report.notebook import comparison_html, lines_html

        return (comparison_html(self.compared.comparison) if self.compared else "") + lines_html(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """Return what was trained, its cost and its paths as plain values, and the comparison where there is one."""
        said = {"method": self.method, "role": self.role, "paths": [str(path) for path in self.paths]}
        return {**said, "cost": vars(self.cost), "comparison": self.compared and self.compared.to_dict()}


def printed(table: RenderableType) -> str:
    """Return a table as text."""
    from rich.console import Console

    page = io.StringIO()
    # In a notebook it would show the table, and write nothing.
    how: dict[str, Any] = {"force_jupyter": False, "color_system": None}
    Console(file=page, width=WIDTH, highlight=False, markup=False, emoji=False, **how).print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().rstrip("\n").splitlines())


def frame(rows: Sequence[Mapping[str, Any]], *, index: Sequence[Any] | None = None, name: str | None = None) -> Any:
    """Return rows as a frame.

    Raises:
        UserError: where pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UserError("to_pandas needs pandas; pip install pandas, or take to_dict") from None
    found = pandas.DataFrame(list(rows), index=index)
    found.index.name = name
    return found


def _columns(figures: Mapping[str, Figure | None]) -> dict[str, float]:
    """Return figures as columns, each with the ends of its interval."""
    known = {name: figure for name, figure in figures.items() if figure is not None}
    return {
        column: value
        for name, figure in known.items()
        for column, value in ((name, figure.mean), (f"{name}_low", figure.low), (f"{name}_high", figure.high))
    }
