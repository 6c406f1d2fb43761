"""The scoring primitive: x once, {y1 … yk} on top of it, the LM head on response tokens only.

All methods need per-token quantities of k responses to one prompt. `prompt_once_states` (see
`preflab.scoring.packing`) runs the prompt once and the responses on top of it; `plain_states` runs the k
concatenations. Both give the same hidden states; `Scorer` checks that on a model's first batch and falls
back, saying so, where it does not hold.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from preflab.method.contract import Batch
from preflab.scoring.chosen_logps import ChosenLogps
from preflab.scoring.fused import fused_states
from preflab.scoring.packing import prompt_once_states
from preflab.scoring.padding import as_classifiers_read, padding_of
from preflab.scoring.precision import Trial

logger = logging.getLogger(__name__)

Path = Literal["fused", "prompt_once", "plain", "single"]


def concatenated(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k concatenations of each prompt, right-padded.

    Right padding needs no position ids, and no real token ever sees a padded one: what most models
    handle best.

    Returns:
        ids and mask (bool), ``[B·K, L]``, and the index ``[B·K]`` of each prompt's last token.
    """
    size = batch.response_ids.shape[1]
    mask = torch.cat([batch.prompt_mask.repeat_interleave(size, 0), batch.response_mask.flatten(0, 1)], 1)
    ids = torch.cat([batch.prompt_ids.repeat_interleave(size, 0), batch.response_ids.flatten(0, 1)], 1)
    order = (~mask).int().argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
    mask = mask.gather(1, order)
    last_of_prompt = batch.prompt_mask.sum(1).repeat_interleave(size, 0) - 1
    return ids.gather(1, order).masked_fill(~mask, 0), mask, last_of_prompt


def plain_states(backbone: nn.Module, batch: Batch, *, end: bool = False) -> Tensor:
    """Run the k concatenations; arguments and result as `prompt_once_states`."""
    ids, mask, last_of_prompt = concatenated(batch)
    states = backbone(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
    return _at_responses(states, last_of_prompt, batch, end)


def _at_responses(found: Tensor, last_of_prompt: Tensor, batch: Batch, end: bool = False) -> Tensor:
    """Pick from ``[B·K, L, ...]`` what stands before each real response token, ``[n, ...]``, or after the last."""
    rows, said = torch.arange(len(found), device=found.device), batch.response_mask.flatten(0, 1)
    if end:
        return found[rows, last_of_prompt + said.sum(1)].view(*batch.response_ids.shape[:2], -1)
    steps = torch.arange(said.shape[1], device=found.device)
    return found[rows[:, None].expand_as(said)[said], (last_of_prompt[:, None] + steps)[said]]


def single_logps(model: nn.Module, batch: Batch, temperature: float) -> Tensor:
    """Return log-probabilities ``[B, K, T]`` by the model's own forward pass: the oracle of the other paths.

    Logits and all, one response at a time without any padding.
    """
    found = [_chosen(single_logits(model, row), row, temperature) for row in _one_by_one(batch)]
    return spread(torch.cat(found), batch.response_mask)


def single_logits(model: nn.Module, row: Batch) -> Tensor:
    """Return the model's own logits ``[T, V]`` at the tokens of a batch that is one response."""
    ids, _, last_of_prompt = concatenated(row)
    kept = ids.shape[1] - int(last_of_prompt)
    # Not those of the prompt, if the model can leave them out: [tokens × vocabulary] of a long one is vast.
    options = {"logits_to_keep": kept} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    logits = model(input_ids=ids, use_cache=False, **options).logits
    return _at_responses(logits, last_of_prompt - (ids.shape[1] - logits.shape[1]), row)


def single_states(backbone: nn.Module, batch: Batch, *, end: bool = False) -> Tensor:
    """Run each concatenation alone; arguments and result as `prompt_once_states`."""
    states = torch.cat([plain_states(backbone, row, end=end) for row in _one_by_one(batch)])
    return states.view(*batch.response_ids.shape[:2], -1) if end else states


def _one_by_one(batch: Batch) -> Iterator[Batch]:
    """Yield each response as a batch of its own, without padding."""
    for b, k in itertools.product(*map(range, batch.response_ids.shape[:2])):
        ids, mask = batch.response_ids[b : b + 1, k : k + 1], batch.response_mask[b : b + 1, k : k + 1]
        yield Batch(batch.prompt_ids[b : b + 1], batch.prompt_mask[b : b + 1], ids, mask).trimmed()


def token_logps(model: Any, states: Tensor, batch: Batch, temperature: float) -> Tensor:
    """Log-probabilities ``[B, K, T]`` of the real response tokens, from the states ``[n, H]`` they are chosen in."""
    mask, head = batch.response_mask, model.get_output_embeddings()
    plain = type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad
    if not plain or _cap(model) or torch.is_autocast_enabled(states.device.type):
        return spread(_chosen(token_logits(model, states), batch, temperature), mask)
    found: Tensor = ChosenLogps.apply(states, head.weight, batch.response_ids[mask], temperature)  # type: ignore[no-untyped-call]
    return spread(found, mask)


def token_logits(model: Any, states: Tensor) -> Tensor:
    """Return logits ``[..., V]`` of states ``[..., H]``."""
    logits: Tensor = model.get_output_embeddings()(states)
    cap = _cap(model)
    return (logits / cap).tanh() * cap if cap else logits


def _cap(model: Any) -> float | None:
    cap: float | None = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return cap


def _chosen(logits: Tensor, batch: Batch, temperature: float) -> Tensor:
    """Return log softmax(logits / temperature) at the real response tokens, ``[n]``; half types in float32."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if temperature != 1:
        logits = logits / temperature
    return -functional.cross_entropy(logits, batch.response_ids[batch.response_mask], reduction="none")


def spread(flat: Tensor, mask: Tensor) -> Tensor:
    """Return ``[B, K, T]`` with the values ``[n]`` where the mask is true, and 0 elsewhere."""
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)


PATHS: dict[Path, Callable[..., Tensor]] = {
    "fused": fused_states,
    "prompt_once": prompt_once_states,
    "plain": plain_states,
    "single": single_states,
}


class Scorer:
    """Scores batches on one causal language model by the fastest path that is exact for it.

    Args:
        model: the causal language model, adapters inside; the caller activates the adapter.
        temperature: divides the logits in every log-probability.

    Attributes:
        exact: the paths that are as good as the model's own forward pass (see `preflab.scoring.precision`), fastest
            first; None before the first batch. ``single`` always is; ``plain`` fails where the model does more than
            its head to the logits or bears no padding, ``prompt_once`` where attention is not the plain one.
        by_hand: whether the adapter that is read is one that the ``fused`` path knows.
    """

    def __init__(self, model: Any, temperature: float = 1.0) -> None:
        self.model, self.temperature = model, temperature
        self.exact: tuple[Path, ...] | None = None
        self.by_hand = True

    def logps(self, batch: Batch, states: Tensor | None = None) -> Tensor:
        """Return log π(y_t | x, y_<t), ``[B, K, T]``, 0 on padding; `states`, if at hand, are not computed again."""
        if self.path(batch) == "single":
            return single_logps(self.model, batch, self.temperature)
        return token_logps(self.model, self.states(batch) if states is None else states, batch, self.temperature)

    def states(self, batch: Batch) -> Tensor:
        """Return the states ``[n, H]`` in which the real response tokens are chosen, in the order of the mask."""
        return PATHS[self.path(batch)](self.model.base_model, batch)

    def end_states(self, batch: Batch) -> Tensor:
        """Return the states ``[B, K, H]`` after the responses, at the token that a classifier reads."""
        read = as_classifiers_read(batch, padding_of(self.model))
        return PATHS[self.path(batch)](self.model.base_model, read, end=True)

    def path(self, batch: Batch) -> Path:
        """Return the fastest exact path for a batch; the first one ever is what the paths are tried on."""
        if self.exact is None:
            self.exact = self._exact_paths(batch)
        return next((path for path in self.exact if path != "fused" or self.by_hand), "single")

    @torch.no_grad()
    def _exact_paths(self, batch: Batch) -> tuple[Path, ...]:
        """Try the paths on the batch's shortest and longest prompt, all responses of each."""
        lengths = batch.prompt_mask.sum(1)
        sample = batch.rows(torch.stack([lengths.argmin(), lengths.argmax()]))
        # Half of the shorter prompt is hidden: padding is tried even where this batch has none.
        hidden = sample.prompt_mask.shape[1] - (int(lengths.min()) + 1) // 2
        sample.prompt_mask[0, :hidden] = False
        trial = Trial(self.model, lambda one: single_logps(self.model, one, 1.0))

        def fault(path: Path) -> str | None:
            def run() -> tuple[Batch, Tensor]:
                states = PATHS[path](self.model.base_model, sample)
                return sample, token_logps(self.model, states, sample, 1.0)

            try:
                return trial.fault(run)
            except (TypeError, AttributeError, NotImplementedError, ValueError) as error:
                return f"does not run ({error})"

        tried: tuple[Path, ...] = ("fused", "prompt_once", "plain")
        faults = {path: fault(path) for path in tried}
        found = tuple(path for path in tried if faults[path] is None)
        if found != tried:
            logger.warning(
                "scoring %s: %s; using %s",
                type(self.model).__name__,
                ", ".join(f"{path.replace('_', '-')} {wrong}" for path, wrong in faults.items() if wrong),
                f"the {found[0]} path" if found else "each response alone, which is slow",
            )
        return found
