"""Samplers: how responses are drawn from the policy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from accelerate.utils import release_memory
from torch import Tensor
from torch.nn import functional

from preflab import ranks
from preflab.data.batches import padded
from preflab.errors import UserError
from preflab.errors.answering import is_out_of_memory
from preflab.method.contract import Batch, Labels, Role
from preflab.model.roles import Roles
from preflab.model.work import sampled
from preflab.progress import progress, tracked
from preflab.sampling.decoding import EndIds, Feeder, decode, feeder_of, is_end, several, until_end
from preflab.scoring.batching import rows_at_once
from preflab.seeds import derive, seeded

logger = logging.getLogger(__name__)

Drawn = tuple[Tensor, Tensor | None]
"""Tokens ``[B, K, T]``, and their log-probabilities where they are known."""


class Samples(NamedTuple):
    """Sampled responses.

    Attributes:
        batch: prompts and responses, no feedback; K samples per prompt.
        ended: bool ``[B, K]``, false where a response was cut at the length limit.
        log_ratio: ``[B, K]`` where the responses come from another distribution than the role's (a
            `Decoder`'s): its log-probability less the role's, or a value of the same mean; else None.
        logps: ``[B, K, T]`` log π(y_t | x, y_<t) at the temperature sampled at, 0 on padding, if the sampler
            knows; they differ from a scoring pass's by rounding, or by more if another engine drew.
    """

    batch: Batch
    ended: Tensor
    log_ratio: Tensor | None = None
    logps: Tensor | None = None


class Sampler(Protocol):
    """Draws responses from a role, at a temperature, unfiltered, as a function of the seed alone.

    Attributes:
        max_response_tokens: length limit of a response.
    """

    max_response_tokens: int

    @property
    def other_engine(self) -> bool:
        """Whether another engine draws than scores; it then gives ``logps``, and rollouts are corrected by them."""
        ...

    def __call__(
        self, roles: Roles, role: Role, prompts: Sequence[Sequence[int]], *, k: int, temperature: float, seed: int
    ) -> Samples:
        """Return `k` samples for each prompt (token ids)."""
        ...


class Decoder(Sampler, Protocol):
    """A sampler that does more than sample a role, such as choose among samples; its samples have ``log_ratio``."""

    def implicit_rewards(self, roles: Roles, batch: Batch) -> Tensor:
        """Return what ranks responses as log π(y|x)/π_ref(y|x) of this decoder does, ``[B, K]``."""
        ...


class TransformersSampler:
    """Samples a transformers model with our own decode loop, the role's adapter merged where that is exact.

    The loop (`preflab.sampling.decoding`) is tried on the first prompts; a model that it is not exact on is sampled
    with `generate`, which needs several times as long, repeats the prompt and draws other responses from the same seed.

    Top-k and top-p are off and there is no minimum length: a filtered policy is not the one whose
    log-probabilities are scored, and its KL to the reference would come out negative.

    Args:
        end_ids: the tokens that end a response; the one that does belongs to the response.
        pad_id: what padding is filled with; lengths never come from it.
        max_response_tokens: length limit T.
        sequences_at_once: responses generated together, at most.
        batch_size: the user's setting that memory follows (see `preflab.scoring.batching`); it changes no draw of the
            loop.
    """

    other_engine = False

    def __init__(
        self,
        end_ids: EndIds,
        pad_id: int,
        max_response_tokens: int,
        sequences_at_once: int = 512,
        *,
        batch_size: int | None = None,
    ) -> None:
        self.end_ids, self.pad_id, self.batch_size = end_ids, pad_id, batch_size
        self.max_response_tokens, self.sequences_at_once = max_response_tokens, sequences_at_once

    @torch.no_grad()
    def __call__(
        self, roles: Roles, role: Role, prompts: Sequence[Sequence[int]], *, k: int, temperature: float, seed: int
    ) -> Samples:
        """Return `k` samples for each prompt.

        Raises:
            UserError: if the model's probabilities are not finite.
        """
        ids, mask = padded(prompts, self.pad_id, left=True, device=roles.device)
        with self._reading(roles, role), _evaluating(roles.model):
            feeder = self._feeder(roles, role, ids, mask)
            draw = self._generate if feeder is None else self._fitting(partial(self._decode, feeder))
            responses, logps = draw(roles.model, prompts, k, temperature, seed)
        real = until_end(responses, self.end_ids)
        width = int(real.sum(-1).max())
        batch: Batch[Labels] = Batch(ids, mask, responses[..., :width], real[..., :width])
        if logps is not None:
            logps = logps[..., :width].masked_fill(~batch.response_mask, 0.0)
            if not logps.isfinite().all():
                raise UserError(f"the {role} gives no finite probabilities: it has diverged; lower the learning rate")
        if ranks.first():  # costs are summed over processes
            roles.work.add(sampled(batch, prompt_once=feeder is not None))
        return Samples(batch, is_end(responses, self.end_ids).any(-1), logps=logps)

    def _reading(self, roles: Roles, role: Role) -> AbstractContextManager[None]:
        """Make the base what is sampled."""
        return roles.merged(role)

    def _feeder(self, roles: Roles, role: Role, ids: Tensor, mask: Tensor) -> Feeder | None:
        """Return how the model is fed by the decode loop; None where that is not exact on it."""
        return feeder_of(roles.model, ids, mask, self.max_response_tokens, self.end_ids)

    def _fitting(self, draw: Callable[..., Drawn]) -> Callable[..., Drawn]:
        """Return a draw that is made again, of half as many sequences at once, where memory runs out."""

        def drawn(model: Any, prompts: Sequence[Sequence[int]], k: int, *rest: Any) -> Drawn:
            while True:
                try:
                    return draw(model, prompts, k, *rest)
                except Exception as error:
                    size = self._at_once(prompts)
                    if size == 1 or ranks.ranks() > 1 or not is_out_of_memory(error):  # all cut alike
                        raise
                # Here, where the exception no longer holds on to what the attempt had in memory.
                self.sequences_at_once = size // 2
                release_memory()
                logger.warning("memory ran out in sampling: from here on %s responses at once", self.sequences_at_once)

        return drawn

    def _at_once(self, prompts: Sequence[Sequence[int]]) -> int:
        longest = max(map(len, prompts)) + self.max_response_tokens
        return rows_at_once(self.sequences_at_once, longest, self.batch_size)

    def _chunks(self, prompts: Sequence[Sequence[int]], k: int) -> Iterator[tuple[slice, list[slice]]]:
        """Yield stretches of prompts, with the stretches of their `k` samples that are drawn together.

        There are as many as processes at least, where there are as many prompts.
        """
        size = self._at_once(prompts)
        rows, samples = min(max(1, size // k), -(-len(prompts) // ranks.ranks())), min(k, size)
        stretches = [slice(start, min(k, start + samples)) for start in range(0, k, samples)]
        return ((slice(start, start + rows), stretches) for start in range(0, len(prompts), rows))

    def _decode(
        self,
        feeder: Feeder,
        model: Any,
        prompts: Sequence[Sequence[int]],
        k: int,
        temperature: float,
        seed: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Return tokens ``[B, K, T]`` and log-probabilities; chunks do not change what is drawn."""
        generator = torch.Generator().manual_seed(derive(seed, "sample"))
        shape = (self.max_response_tokens, len(prompts), k)
        noise = torch.rand(shape, dtype=torch.float64, generator=generator).to(model.device)
        how: dict[str, Any] = {"end_ids": self.end_ids, "temperature": temperature, "feeder": feeder}
        chunks = list(self._chunks(prompts, k))
        total = sum(len(stretches) for _, stretches in chunks) * len(noise) / ranks.ranks()
        with progress("sampling", total, "token") as task:

            def drawn(chunk: tuple[slice, list[slice]]) -> tuple[Tensor, ...]:
                rows, stretches = chunk
                given = padded(prompts[rows], self.pad_id, left=True, device=model.device)
                found = []
                for samples in stretches:
                    through = task.done + len(noise)  # a stretch in which all have ended leaves the rest out
                    found.append(decode(model, *given, noise[:, rows, samples], stepped=task.advance, **how))
                    task.reach(through)
                return tuple(torch.cat(found, 1) for found in zip(*found, strict=True))

            parts = ranks.spread(chunks, drawn)
        tokens, logps = zip(*parts, strict=True)
        return torch.cat(tokens).to(model.device), torch.cat(logps).to(model.device)

    def _generate(
        self, model: Any, prompts: Sequence[Sequence[int]], k: int, temperature: float, seed: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return tokens ``[B, K, T]``, drawn by the library."""
        from transformers import GenerationConfig

        config = GenerationConfig(
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.max_response_tokens,
            eos_token_id=list(several(self.end_ids)),
            pad_token_id=self.pad_id,
        )
        own = model.generation_config

        def drawn(chunk: tuple[slice, list[slice]]) -> Tensor:
            rows, stretches = chunk
            ids, mask = padded(prompts[rows], self.pad_id, left=True, device=model.device)
            found = []
            for samples in stretches:
                config.num_return_sequences = samples.stop - samples.start
                with seeded(seed, "sample", rows.start, *([samples.start] if samples.start else [])):
                    output = model.generate(input_ids=ids, attention_mask=mask.long(), generation_config=config)
                responses = output[:, ids.shape[1] :].reshape(len(ids), config.num_return_sequences, -1)
                missing = self.max_response_tokens - responses.shape[-1]
                # An end token as filler keeps every chunk T wide and is masked out like any other padding.
                found.append(functional.pad(responses, (0, missing), value=several(self.end_ids)[0]))
            return torch.cat(found, 1)

        # `generate` fills what `config` leaves unset (min_length, repetition_penalty, …) from the model's own.
        model.generation_config = GenerationConfig()
        try:
            parts = ranks.spread(list(self._chunks(prompts, k)), drawn, partial(tracked, title="sampling", unit="part"))
        finally:
            model.generation_config = own
        return torch.cat(parts).to(model.device), None


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
