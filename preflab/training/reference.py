"""Reference log-probabilities of a data set: computed once, kept on disk, shared by methods, seeds and β."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from preflab import ranks
from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.method.contract import Batch
from preflab.model.roles import Roles
from preflab.progress import tracked
from preflab.scoring.batching import rows_at_once

FILE = "reference_logps.safetensors"
MOST = 32
"""Rows scored together where they are short."""


class ReferenceLogps:
    """log π_ref of every response token of some groups, one after another.

    Args:
        flat: ``[tokens]``, in the order of groups, responses and tokens.
        groups: whose tokens they are.
    """

    def __init__(self, flat: Tensor, groups: Sequence[EncodedGroup]) -> None:
        sizes = torch.tensor([0, *(sum(map(len, group.response_ids)) for group in groups)])
        self.flat, self._starts = flat, sizes.cumsum(0).tolist()
        if self._starts[-1] != len(flat):
            raise ValueError(f"{len(flat)} reference log-probabilities for {self._starts[-1]} tokens")

    def spread(self, rows: Sequence[int], batch: Batch) -> Tensor:
        """Return those of some groups, which `batch` was collated from, as ``[B, K, T]``; 0 on padding."""
        spread = torch.zeros(batch.response_mask.shape)
        spread[batch.response_mask] = torch.cat([self.flat[self._starts[r] : self._starts[r + 1]] for r in rows])
        return spread

    @classmethod
    @torch.no_grad()
    def compute(
        cls, roles: Roles, groups: Sequence[EncodedGroup], pad_id: int, title: str, batch_size: int | None = None
    ) -> ReferenceLogps:
        """Score all groups by the role ``reference``, those of like length together.

        Memory follows `batch_size`, that of training, as `rows_at_once` has it.
        """
        lengths = [len(group.prompt_ids) + sum(map(len, group.response_ids)) for group in groups]
        order = sorted(range(len(groups)), key=lengths.__getitem__)
        size = rows_at_once(MOST, max(lengths, default=0), batch_size)
        parts = [order[at : at + size] for at in range(0, len(order), size)]

        def scored(part: Sequence[int]) -> list[Tensor]:
            batch = collate([groups[i] for i in part], pad_id).to(roles.device)
            logps = roles(batch, ("reference",)).reference_logps
            return [values[mask].float().cpu() for values, mask in zip(logps, batch.response_mask, strict=True)]

        scores = ranks.spread(parts, scored, partial(tracked, title=title, unit="batch"))
        found = dict(zip(chain(*parts), chain(*scores), strict=True))
        return cls(torch.cat([found[i] for i in range(len(groups))]), groups)

    def save(self, folder: Path) -> None:
        """Write them as safetensors."""
        save_file({"logps": self.flat}, folder / FILE)

    @classmethod
    def load(cls, folder: Path, groups: Sequence[EncodedGroup]) -> ReferenceLogps:
        """Read what `save` wrote for the same groups."""
        return cls(load_file(folder / FILE)["logps"], groups)
