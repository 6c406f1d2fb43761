"""A batch scored without gradients whatever memory there is: all at once, or in halves where it runs out."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import release_memory
from torch import Tensor

from preflab.errors.answering import is_out_of_memory
from preflab.method.contract import Batch

logger = logging.getLogger(__name__)


def in_halves(score: Callable[..., Mapping[str, Tensor]], batch: Batch, *rest: Any) -> dict[str, Tensor]:
    """Return what `score` says of a batch and the rest, each half of its prompts asked alone where memory runs out.

    Raises:
        Exception: what `score` raises, also of a single prompt for which there is no memory.
    """
    count = len(batch.prompt_ids)
    try:
        return dict(score(batch, *rest))
    except Exception as error:
        if count == 1 or not is_out_of_memory(error):
            raise
    # Here, where the exception no longer holds on to what the attempt had in memory.
    release_memory()
    _say(count)
    halves = [in_halves(score, batch.rows(part), *rest) for part in (slice(count // 2), slice(count // 2, None))]
    width = batch.response_ids.shape[-1]
    return {name: joined([half[name] for half in halves], width) for name in halves[0]}


def joined(parts: Sequence[Tensor], width: int) -> Tensor:
    """Return scores of several batches, ``[b, K]`` or ``[b, K, t]``, as those of one with responses of `width`."""
    if parts[0].ndim == 3:
        parts = [torch.nn.functional.pad(x, (0, width - x.shape[-1])) for x in parts]
    return torch.cat(list(parts))


@functools.cache
def _say(count: int) -> None:
    logger.warning(
        "memory ran out for %s prompts at a time, which are scored in halves; lower per_device_train_batch_size or "
        "eval_batch_size to save the attempts",
        count,
    )
