"""What a policy's sampled responses are like: the figures of ``comparison.json`` that need no baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from preflab.eval.metrics import measures_of
from preflab.eval.metrics.measures import summarise
from preflab.eval.records.columns import Rows, check_aligned, column, kl_to_reference

KEYS: dict[str, str] = {measure.key: measure.what for measure in measures_of("samples")}
"""The keys of a summary, each an `Estimate` or null."""


def summarise_generations(seeds: Sequence[Rows]) -> dict[str, Any]:
    """Return the estimates of one policy's responses over its training seeds, by the names in `KEYS`.

    Args:
        seeds: for each training seed the rows ``prompt, response, length, ended, log_ratio, kl, entropy, gold,
            proxy`` (`eval.harness.evaluate.Records.samples`), the same prompts in the same order. Columns may be absent
            or all null; no rows at all (a reward model) give nothing but nulls.

    Raises:
        UserError: if a value is missing where others are there, or is not finite; with seed and row.
        ValueError: if seeds answered different prompts.
    """
    if not any(len(rows) for rows in seeds):
        return summarise(measures_of("samples"), {})
    check_aligned(seeds, "prompt")
    names = dict.fromkeys(name for measure in measures_of("samples") for name in measure.reads)
    read = {name: READERS[name](seeds) if name in READERS else column(seeds, name) for name in names}
    return summarise(measures_of("samples"), {name: values for name, values in read.items() if values is not None})


def _texts(seeds: Sequence[Rows]) -> Any:
    texts = [[row.get("response") for row in rows] for rows in seeds]
    return None if all(text is None for rows in texts for text in rows) else texts


READERS: dict[str, Callable[[Sequence[Rows]], Any]] = {"response": _texts, "kl": kl_to_reference}
"""How columns are read that are no plain numbers of one name."""
