"""Tables of values, and intervals of what is computed from their means.

Everything on the frontier is a smooth function of means over prompts and seeds: a ratio, a curve read between two
settings, fitted coefficients. Its interval is that of its *contributions*: a table ``[S, N]`` that says by how much
each value, with all that was measured on its prompt, moves the function (the delta method, or infinitesimal
jackknife; Efron 1982). Prompts and seeds of such a table are then treated as everywhere in `eval.statistics`, which
a bootstrap of two or three seeds could not do (docs/calibration.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from preflab.eval.statistics import Estimate, interval

Array = NDArray[np.float64]


def as_table(values: ArrayLike, name: str, prompts: int | None = None) -> Array:
    """Return `values` as float64 ``[S, N]``; ``[N]`` is one seed.

    Raises:
        ValueError: if the shape is another, a value is not finite, or N is not `prompts`.
    """
    found = np.asarray(values, dtype=np.float64)
    found = found[None] if found.ndim == 1 else found
    if found.ndim != 2 or found.size == 0:
        raise ValueError(f"{name} has shape {np.shape(values)}; expected [S, N] (seeds x prompts) or [N], not empty")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} holds a value that is not finite")
    if prompts is not None and found.shape[1] != prompts:
        raise ValueError(f"{name} has {found.shape[1]} prompts, others {prompts}; all must answer the same prompts")
    return found


def estimate(value: float, contributions: Array) -> Estimate:
    """Return a value with the 95 % interval of its contributions ``[S, N]``, whatever their mean."""
    return interval(contributions - contributions.mean() + value, rate=False)
