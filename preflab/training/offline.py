"""Micro-batches of a data set: the rows of each optimiser step, by seed and step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.method.contract import (
    Batch,
    LossMethod,
    Mean,
    Role,
    Rollout,
)
from preflab.method.plugins import answering
from preflab.method.validation import check_prepared
from preflab.model.in_parts import score_in_parts
from preflab.model.roles import Roles
from preflab.model.work import scored
from preflab.settings.training import TrainConfig
from preflab.training.fitting import Fitting
from preflab.training.reference import ReferenceLogps
from preflab.training.sources import Shuffled


class OfflineSource:
    """Demonstrations, single responses, pairs or rankings, shuffled anew each epoch.

    Args:
        groups: encoded rows.
        train: batch sizes.
        pad_id: what padding is filled with.
        seed: decides the order.
        reference: log-probabilities of the groups under the reference; None: its role computes them.
        algorithm: where it names roles in `Needs.rollout`, its `prepare` sees each optimiser batch whole.
        roles: what scores the batch for `prepare`.
    """

    moves: tuple[Role, ...] = ()

    def __init__(
        self,
        groups: Sequence[EncodedGroup],
        train: TrainConfig,
        pad_id: int,
        seed: int,
        *,
        reference: ReferenceLogps | None = None,
        algorithm: LossMethod | None = None,
        roles: Roles | None = None,
    ) -> None:
        self.groups, self.train, self.pad_id, self.fitting = groups, train, pad_id, Fitting(train)
        self.reference, self.roles = reference, roles
        self.algorithm = algorithm if algorithm is not None and algorithm.needs.rollout else None
        self.mismatched = algorithm is not None and algorithm.needs.responses == "single"
        self.order = Shuffled(len(groups), seed)
        self.sampled_tokens = 0
        self.steps_per_epoch = math.ceil(len(groups) / train.optimiser_batch)

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Yield micro-batches from optimiser step `start_step` on."""
        step, size, own = start_step, self.fitting.batch, self.fitting.own
        while True:
            micro, whole = self.fitting.size, self.fitting.whole
            rows, new = self.order.take(step * size, size), self.order.new(step * size, size) - own.start
            if self.algorithm is None:
                for at in range(0, whole, micro):
                    batch = self._collate(rows[own][at : at + micro])
                    self._charge_reference(batch, min(micro, new - at))
                    yield batch
            else:
                prepared = self._prepared(self._collate(rows)).rows(own)
                for at in range(0, whole, micro):
                    yield prepared.rows(slice(at, at + micro))
            step += 1

    def once(self) -> Iterator[Batch]:
        """Yield micro-batches of all rows in their order, each row once."""
        micro, size, count = self.fitting.size, self.train.optimiser_batch, len(self.groups)
        # A last row alone goes with those before it: on its own it would hold no other prompt's response.
        starts = [at for at in range(0, count, size) if at == 0 or count - at > 1]
        for at, end in zip(starts, [*starts[1:], count], strict=True):
            batch = self._collate(range(at, end))
            batch = batch if self.algorithm is None else self._prepared(batch)
            for part in range(0, end - at, micro):
                yield batch.rows(slice(part, part + micro))

    def _collate(self, rows: Sequence[int]) -> Batch:
        groups = [self.groups[row] for row in rows]
        if self.mismatched:
            groups = mismatched(groups)
        batch = collate(groups, self.pad_id)
        if self.reference is not None:
            return batch.replace(reference_logps=self.reference.spread(rows, batch))
        return batch

    def _charge_reference(self, batch: Batch, count: int) -> None:
        """Account for the kept reference scores of a batch's first `count` rows, never read before.

        Other runs share them, but alone the run would have had to compute them, once.
        """
        if self.reference is None or self.roles is None or count <= 0:
            return
        path = self.roles.scorer.path(batch.to(self.roles.device))
        passed = scored(batch.rows(slice(0, count)), path, last=False, head=True)
        self.roles.work.add(passed, self.roles.adapter_size("reference"))

    def _prepared(self, batch: Batch) -> Batch:
        assert self.algorithm is not None
        assert self.roles is not None, "who asks for `prepare` gives the roles it needs"
        batch = batch.to(self.roles.device)
        with self.roles.whole():
            scores = score_in_parts(self.roles, batch, self.algorithm.needs.rollout, self.fitting.size)
        with answering(self.algorithm, "prepare"):
            prepared = self.algorithm.prepare(Rollout(batch, scores, batch.response_mask.any(-1)))
        return check_prepared(self.algorithm, prepared, len(batch.prompt_ids))

    def heaviest(self, size: int) -> Batch:
        """Return the `size` longest groups, as a batch."""
        tokens = [len(group.prompt_ids) + sum(map(len, group.response_ids)) for group in self.groups]
        longest = sorted(range(len(tokens)), key=tokens.__getitem__, reverse=True)
        return collate([self.groups[longest[i % len(longest)]] for i in range(size)], self.pad_id)

    def take_metrics(self) -> dict[str, Mean]:
        """Offline data has nothing to report."""
        return {}

    def observe(self, metrics: Mapping[str, Mean]) -> None:
        """Offline data does not depend on what is learnt from it."""


def mismatched(groups: Sequence[EncodedGroup]) -> list[EncodedGroup]:
    """Return the groups with the response of the one before, which says nothing of this prompt, at index 1."""
    pairs = zip(groups, [groups[-1], *groups[:-1]], strict=True)
    return [g._replace(response_ids=[g.response_ids[0], other.response_ids[0]]) for g, other in pairs]
