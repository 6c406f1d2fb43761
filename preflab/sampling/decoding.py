"""The decode loop: prompts run once for all their samples, keys and values written in place, finished rows dropped."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from preflab.method.contract import Batch
from preflab.scoring.fused import Steps
from preflab.scoring.logps import single_logps
from preflab.scoring.lora import product
from preflab.scoring.precision import Trial

EndIds = int | tuple[int, ...]
"""What ends a response: a token, or any of several."""

logger = logging.getLogger(__name__)

LOOK_EVERY = 4
"""Steps between two looks at who has finished: on an accelerator each look waits for all that was queued."""

WORTH_DROPPING = 0.25
"""Share of finished rows from which on it pays to copy the others' keys and values together."""


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer in buffers with room for all that is to come.

    Args:
        layer: holds the prompts' keys and values, ``[B, heads, P, D]``.
        size: samples of each prompt.
        room: tokens that will be fed.
    """

    def __init__(self, layer: DynamicLayer, size: int, room: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.keys.dtype, layer.keys.device, True
        self._buffers = [self._roomy(x, size, room) for x in (layer.keys, layer.values)]
        self._show(layer.keys.shape[2])

    @staticmethod
    def _roomy(given: Tensor, size: int, room: int) -> Tensor:
        rows, heads, length, width = given.shape
        buffer = given.new_empty(rows, size, heads, length + room, width)
        buffer[:, :, :, :length] = given[:, None]
        return buffer.flatten(0, 1)

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the newest tokens' keys and values ``[N, heads, n, D]``; return all so far, as views."""
        start, length = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:length] = states
        self._show(length)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some of the rows."""
        self._buffers = [buffer.index_select(0, indices) for buffer in self._buffers]
        self._show(self.keys.shape[2])


def draw(logits: Tensor, noise: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw a token for each row, by inverting the distribution function.

    Args:
        logits: ``[N, V]``.
        noise: ``[N]`` in [0, 1), float64.
        temperature: divides the logits.

    Returns:
        Tokens and their log-probabilities (float32 or better), ``[N]``.
    """
    logps = (logits if logits.dtype == torch.float64 else logits.float()).div(temperature).log_softmax(-1)
    # In float32 the sums over a large vocabulary would be off by more than its rarest tokens' probabilities.
    upto = logps.exp().cumsum(-1, dtype=torch.float64)
    tokens = torch.searchsorted(upto, noise[:, None] * upto[:, -1:], right=True).clamp(max=logits.shape[-1] - 1)
    return tokens.squeeze(1), logps.gather(1, tokens).squeeze(1)


@torch.no_grad()
def decode(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    noise: Tensor,
    *,
    end_ids: EndIds,
    temperature: float,
    feeder: Feeder | None = None,
    stepped: Callable[[], object] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Sample responses; each depends on its own prompt and noise alone, whoever else is in the batch.

    Args:
        model: causal language model whose cache holds plain keys and values, in evaluation mode.
        ids: ``[B, P]``, left-padded prompts.
        mask: bool ``[B, P]``, true on real tokens.
        noise: ``[T, B, K]`` uniform on [0, 1), float64: one number for each token of K samples.
        end_ids: the tokens that end a response.
        temperature: divides the logits.
        feeder: says how the model is called; by default as any is.
        stepped: is called after each token's step.

    Returns:
        Tokens ``[B, K, T]`` and their log-probabilities; both are undefined behind the first end token.

    Raises:
        NotImplementedError: if the cache holds something else.
    """
    steps, prompts, size = noise.shape
    feed, noise = (feeder or Feed)(model), noise.flatten(1)
    logits, layers = feed.prompts(ids, mask)
    if any(type(layer) is not DynamicLayer for layer in layers):
        raise NotImplementedError(f"a cache of {', '.join(sorted({type(layer).__name__ for layer in layers}))}")
    # Taken one by one, so that what has been copied is not kept until the end.
    cache = Cache(layers=[RoomyLayer(layers.pop(0), size, steps - 1) for _ in range(len(layers))])
    logits, mask = logits.repeat_interleave(size, 0), mask.repeat_interleave(size, 0)
    lengths, real = mask.sum(1), torch.cat([mask, mask.new_ones(len(mask), steps - 1)], 1)
    rows, ended = torch.arange(len(mask), device=ids.device), mask.new_zeros(len(mask))
    drawn = ids.new_full((prompts * size, steps), several(end_ids)[0])
    logps = torch.zeros(drawn.shape, dtype=torch.float64 if logits.dtype == torch.float64 else None, device=ids.device)
    for step in range(steps):
        tokens, found = draw(logits, noise[step, rows], temperature)
        drawn[rows, step], logps[rows, step] = tokens, found
        ended |= is_end(tokens, end_ids)
        stepped()
        if step % LOOK_EVERY == 0:
            going = (~ended).nonzero().squeeze(1)
            if len(going) <= (1 - WORTH_DROPPING) * len(rows):
                rows, tokens, lengths, real, ended = (x[going] for x in (rows, tokens, lengths, real, ended))
                cache.batch_select_indices(going)
        if step + 1 == steps or not len(rows):
            break
        seen = real[:, : mask.shape[1] + step + 1]
        logits = feed.tokens(tokens, seen, lengths + step, cache)
    return drawn.reshape(prompts, size, steps), logps.reshape(prompts, size, steps)


class Feeding(Protocol):
    """What gives `decode` the logits of next tokens."""

    def prompts(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, list[Any]]:
        """Return the logits ``[B, V]`` behind left-padded prompts, and the cache's layers."""
        ...

    def tokens(self, ids: Tensor, seen: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Return the logits ``[N, V]`` behind one more token in each row.

        Args:
            ids: ``[N]`` the tokens.
            seen: bool ``[N, L]``, true on real tokens, those included.
            positions: ``[N]`` where they stand.
            cache: of the layers that `prompts` gave, for the rows that go on.
        """
        ...


Feeder = Callable[[Any], Feeding]
"""Opens a model for feeding, with its adapters as they are read now."""


class Feed:
    """Calls a model as its signature and its attention want to be called."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.takes = inspect.signature(model.forward).parameters
        attention = model.config.get_text_config()._attn_implementation
        mask = ALL_MASK_ATTENTION_FUNCTIONS.get(attention)
        # Such a mask goes to the layers as it is; one of two dimensions is looked through at every step. Who is
        # not told positions reads them off the mask, and needs two.
        self.ready_mask = mask is sdpa_mask and "position_ids" in self.takes

    def prompts(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, list[Any]]:
        """Return the logits ``[B, V]`` behind left-padded prompts, and the cache's layers."""
        options = self._told(position_ids=(mask.long().cumsum(1) - 1).clamp(min=0), logits_to_keep=1)
        ids = ids.masked_fill(~mask, 0)
        output = self.model(input_ids=ids, attention_mask=mask.long(), use_cache=True, **options)
        return output.logits[:, -1], list(output.past_key_values.layers)

    def tokens(self, ids: Tensor, seen: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Return the logits ``[N, V]`` behind one more token in each row."""
        mask = seen[:, None, None] if self.ready_mask else seen.long()
        options = self._told(position_ids=positions[:, None])
        output = self.model(
            input_ids=ids[:, None], attention_mask=mask, past_key_values=cache, use_cache=True, **options
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _told(self, **options: Any) -> dict[str, Any]:
        return {name: value for name, value in options.items() if name in self.takes}


class FusedFeed(Feed):
    """Sends tokens through a decoder of Llama's form by hand (see `preflab.scoring.fused`).

    Raises:
        NotImplementedError: if the model has another.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.steps, self.head = Steps(model.base_model), model.get_output_embeddings()

    def prompts(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, list[Any]]:
        """Return the logits ``[B, V]`` behind left-padded prompts, and the cache's layers.

        The head is not the library's: on ``[B, 1, H]`` cut out of the states it multiplies as many matrices as there
        are prompts.
        """
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        options: dict[str, Any] = {"attention_mask": mask.long(), "position_ids": positions, "use_cache": True}
        output = self.model.base_model(input_ids=ids.masked_fill(~mask, 0), **options)
        return self._logits(output.last_hidden_state[:, -1]), list(output.past_key_values.layers)

    def tokens(self, ids: Tensor, seen: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Return the logits ``[N, V]`` behind one more token in each row."""
        return self._logits(self.steps(ids, positions, seen, cache.layers))

    def _logits(self, states: Tensor) -> Tensor:
        if type(self.head) is nn.Linear:
            return product(states, self.head.weight, self.head.bias).contiguous()
        logits: Tensor = self.head(states)
        return logits


FEEDERS = (FusedFeed, Feed)
_FEEDERS: WeakKeyDictionary[nn.Module, type[Feed] | None] = WeakKeyDictionary()


def feeder_of(model: nn.Module, ids: Tensor, mask: Tensor, steps: int, end_ids: EndIds) -> type[Feed] | None:
    """Return the fastest way of feeding a model by which `decode` draws from its own distribution, if there is one.

    They are tried once for each model: four responses to two of the prompts ``[B, P]``, at most `steps` tokens long,
    are scored by the model's own forward pass, each alone. Where none serves, the log says so.
    """
    if model not in _FEEDERS:
        _FEEDERS[model] = None
        for feeder in FEEDERS:
            wrong = _fault(model, feeder, ids, mask, steps, end_ids)
            if wrong is None:
                _FEEDERS[model] = feeder
                break
        else:
            name = type(model).__name__
            logger.warning("the decode loop on %s %s; sampling with `generate`, which is slower", name, wrong)
    return _FEEDERS[model]


@torch.no_grad()
def _fault(model: nn.Module, feeder: type[Feed], ids: Tensor, mask: Tensor, steps: int, end_ids: EndIds) -> str | None:
    """Return what is wrong with a way of feeding the model; None where it is as good as the model's own pass."""
    lengths = mask.sum(1)
    chosen = torch.stack([lengths.argmin(), lengths.argmax()])
    ids, mask = ids[chosen], mask[chosen]
    # Half of the shorter prompt is hidden: padding is tried even where there is none.
    mask[0, : mask.shape[1] - (int(lengths.min()) + 1) // 2] = False
    noise = torch.rand(steps, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(ids.device)

    def run() -> tuple[Batch, Tensor]:
        tokens, found = decode(model, ids, mask, noise, end_ids=end_ids, temperature=1.0, feeder=feeder)
        return Batch(ids, mask, tokens, until_end(tokens, end_ids)), found

    try:
        return Trial(model, lambda batch: single_logps(model, batch, 1.0)).fault(run)
    except (TypeError, AttributeError, IndexError, NotImplementedError, ValueError, RuntimeError) as error:
        return f"does not run ({error})"


def is_end(ids: Tensor, end_ids: EndIds) -> Tensor:
    """Return which tokens are end tokens."""
    return functools.reduce(torch.logical_or, [ids == end for end in several(end_ids)])


def several(end_ids: EndIds) -> tuple[int, ...]:
    """Return end tokens as a tuple, one alone too."""
    return (end_ids,) if isinstance(end_ids, int) else end_ids


def until_end(ids: Tensor, end_ids: EndIds) -> Tensor:
    """Return which tokens ``[..., T]`` have no end token before them."""
    ends = is_end(ids, end_ids)
    return (ends.cumsum(-1) - ends.long()) == 0
