"""Groups of token ids laid out as batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from preflab.method.contract import Batch, Labels
from preflab.data.encoding import EncodedGroup

logger = logging.getLogger(__name__)


def collate(groups: Sequence[EncodedGroup], pad_id: int) -> Batch[Labels]:
    """Pad groups to one batch: prompts on the left, responses on the right.

    Returns:
        A `Batch` of B groups with K the most responses of any (others get empty ones, masked out). Its
        labels are those that all groups have.

    Raises:
        ValueError: for no groups, or for groups that do not have the same labels.
    """
    import torch

    from preflab.method.contract import Batch, Labels

    if not groups:
        raise ValueError("collate needs at least one group")
    names = groups[0].feedback.keys()
    if others := [group.feedback.keys() for group in groups if group.feedback.keys() != names]:
        raise ValueError(f"groups of one batch must have the same labels, not {sorted(names)} and {sorted(others[0])}")
    size = max(len(group.response_ids) for group in groups)
    nothing: list[list[int]] = [[]] * size
    responses = [ids for group in groups for ids in [*group.response_ids, *nothing][:size]]
    prompt_ids, prompt_mask = padded([group.prompt_ids for group in groups], pad_id, left=True)
    response_ids, response_mask = (x.view(len(groups), size, x.shape[1]) for x in padded(responses, pad_id))
    said = {name: torch.tensor([_row(group.feedback[name], size) for group in groups]) for name in names}
    return Batch(prompt_ids, prompt_mask, response_ids, response_mask, Labels(**said))


def _row(said: float | list[float], size: int) -> float | list[float]:
    """Return what is said of a group, or of each of its responses, the last one's repeated for those it lacks."""
    return [*said, *[said[-1]] * (size - len(said))] if isinstance(said, list) else said


def padded(
    rows: Sequence[Sequence[int]], pad_id: int, *, left: bool = False, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return ids and bool mask ``[rows, longest]`` of token ids of any lengths, padded on one side."""
    import torch

    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    steps = np.arange(max(1, lengths.max(initial=0)))
    mask = steps >= len(steps) - lengths[:, None] if left else steps < lengths[:, None]
    ids = np.full(mask.shape, pad_id)
    # One assignment for all rows: a tensor for each is most of the cost of a batch.
    ids[mask] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
