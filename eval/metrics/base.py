"""What all metric modules share: a thin layer over `evaluate.Metric`.

Metric files import this module, not the class in it: `evaluate.load` takes the first `Metric` it
finds in a file's namespace for the metric that the file defines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, Value
from numpy.typing import ArrayLike, NDArray

from preflab.eval.metrics.measures import Measure, Of, Whole

ROWS: dict[Of, str] = {
    "games": "prompts",
    "samples": "responses",
    "heldout": "pairs",
    "scores": "pairs",
    "logits": "pairs",
}
"""What the values of a metric are counted in."""


class PromptMetric(evaluate.Metric):
    """A metric, declared: a mean over prompts, and figures beside it. The docstring of a subclass is its description.

    A figure that is no mean (an area, a share of types) is written as one: its `per_prompt` values have that
    figure as their mean, and as their spread its sampling error to first order (see `linearised`), so that one
    interval over prompts and seeds serves all.

    Values are held in memory: evaluate's default is a file in a shared cache folder, where two
    evaluations at once would collide. `evaluate.load` passes ``keep_in_memory=False`` explicitly, so
    the argument is overruled; only distributed use (``num_process > 1``) needs the files.

    Attributes:
        of: which rows it is of.
        order: its place among the metrics, in files, tables and pages; later ones come last.
        measures: what it gives, each by its name in ``comparison.json``.
        main: which of them `compute` gives with an interval.
        details: what stands beside the measures, and not again where these are repeated.
        version: changes whenever the same inputs would give other results.
        inputs: name to (type, explanation), one value per prompt each.
        beyond: what `beside` returns more than measures, name to explanation.
        source: BibTeX of where the metric comes from.
        outputs: name to explanation, of all that `compute` returns; made from the measures.
        higher_is_better: that of the main measure.
    """

    of: ClassVar[Of]
    order: ClassVar[int] = 1000
    measures: ClassVar[tuple[Measure, ...]]
    main: ClassVar[int] = 0
    details: ClassVar[tuple[Whole, ...]] = ()
    version: ClassVar[str]
    inputs: ClassVar[Mapping[str, tuple[str, str]]]
    beyond: ClassVar[Mapping[str, str]] = {}
    source: ClassVar[str]
    outputs: ClassVar[Mapping[str, str]]
    higher_is_better: ClassVar[bool | None]

    def __init_subclass__(cls) -> None:
        main = cls.measures[cls.main]
        cls.higher_is_better = main.higher_is_better
        cls.outputs = {
            main.name: main.what,
            "low, high": "its confidence interval",
            "n": f"number of {ROWS[cls.of]}",
            **{measure.name: measure.what for measure in cls.measures if measure is not main},
            **cls.beyond,
        }

    def __init__(self, *args: Any, num_process: int = 1, **options: Any) -> None:
        options["keep_in_memory"] = num_process == 1
        super().__init__(*args, num_process=num_process, **options)

    def _build_data_dir(self) -> str:
        if not self.keep_in_memory:
            return str(super()._build_data_dir())
        # Same place as evaluate's, without creating it: nothing will be written there.
        return str(Path(self._data_dir_root) / self.name / self.config_name)

    def _info(self) -> evaluate.MetricInfo:
        lines = [f"    {name}: {text}" for name, (_, text) in self.inputs.items()]
        results = [f"    {name}: {text}" for name, text in self.outputs.items()]
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").strip(),
            citation=self.source,
            inputs_description="\n".join(["\nArgs:", *lines, _OPTIONS, "Returns:", *results]),
            features=Features({name: Value(kind) for name, (kind, _) in self.inputs.items()}),
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **inputs: Any) -> None:
        """Add one value per prompt for each input."""
        unused = {"predictions": predictions, "references": references}
        given = {name: value for name, value in (inputs | unused).items() if value is not None}
        if set(given) != set(self.inputs):
            raise ValueError(f"{self.name} got inputs {sorted(given)}; it needs exactly {sorted(self.inputs)}")
        lengths = {name: len(value) for name, value in given.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{self.name}: inputs differ in length: {lengths}; give one value per prompt")
        super().add_batch(**given)

    def _compute(self, *, level: float = 0.95, groups: ArrayLike | None = None, **inputs: Any) -> dict[str, Any]:
        columns, main = self.columns(**inputs), self.measures[self.main]
        estimate = main.estimate(main.values(*main.given(columns)), level=level, groups=groups)
        found = {main.name: estimate.mean, "low": estimate.low, "high": estimate.high, "n": estimate.n}
        for measure in self.measures:
            if measure is not main:
                with np.errstate(over="ignore" if measure.overflows else "warn"):
                    mean = float(np.mean(measure.values(*measure.given(columns))))
                found |= {measure.name: mean} if np.isfinite(mean) or not measure.overflows else {}
        return found | self.beside(**inputs)

    def columns(self, **inputs: Any) -> dict[str, Any]:
        """Return what the measures read, by column, from the inputs; these are such columns unless a metric differs."""
        return inputs

    def beside(self, **inputs: Any) -> dict[str, Any]:
        """Return what stands beside the measures, see `beyond`; nothing unless a metric has more to say."""
        return {}

    def _finalize(self) -> None:
        if len(self) == 0 and self.keep_in_memory:
            self.writer = self.buf_writer = None
            raise ValueError(f"{self.name}: no values; give at least one prompt's {list(self.inputs)}")
        super()._finalize()


_OPTIONS = (
    "    level: of the confidence interval, 0.95 by default, see `eval.statistics.interval`.\n"
    "    groups: which prompt each value is of, where several values share one."
)


PAIR_SCORES = {
    "chosen_score": ("float64", "score of each pair's chosen response"),
    "rejected_score": ("float64", "score of each pair's rejected response"),
}
PAIR_LOGITS = {
    "logit": ("float64", "log-odds that the chosen response is preferred: scale · (chosen − rejected score)"),
    "preference": ("float64", "share of labels for the chosen response; 1 where it was simply chosen"),
}
RESPONSES = {"response": ("string", "the model's response to each prompt, as text")}
"""Inputs that several metrics have."""


def vectors(**named: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    """Return the named inputs as float64 vectors of one common length.

    Raises:
        ValueError: if one is empty, has not one dimension, is not finite or differs in length.
    """
    arrays = []
    for name, values in named.items():
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1 or array.size == 0:
            raise ValueError(f"{name} has shape {array.shape}; expected [N] with at least one value")
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(f"{name}[{row}] is {array[row]}; all values must be finite")
        arrays.append(array)
    if len({len(array) for array in arrays}) > 1:
        lengths = {name: len(array) for name, array in zip(named, arrays, strict=True)}
        raise ValueError(f"inputs differ in length: {lengths}; give one value per prompt")
    return tuple(arrays)


def share_above(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[N]``: 1 where `first` is larger, 0.5 on ties, 0 where it is smaller."""
    return 0.5 * (1.0 + np.sign(first - second))


def texts(**named: Sequence[str | None]) -> list[str]:
    """Return the one named input as texts.

    Raises:
        ValueError: if there are none, or one is not text.
    """
    ((name, values),) = named.items()
    if not len(values):
        raise ValueError(f"{name} is empty; expected at least one text")
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{name}[{row}] is {value}; each must be text, empty at the least")
    return [str(value) for value in values]


def linearised(whole: float, without: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[N]`` values with mean `whole` and the spread of the jackknife (Efron and Stein 1981).

    Single values may lie outside the range of the statistic; only mean and spread are meant. The jackknife's
    variance is, in expectation, never too small for a statistic that does not depend on the order of prompts.

    Args:
        whole: the statistic of all prompts.
        without: ``[N]``, the statistic where prompt i is left out.
    """
    return np.asarray(whole + (len(without) - 1) * (without.mean() - without), dtype=np.float64)
