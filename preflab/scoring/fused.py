"""Decoders of Llama's form, run by hand: the least arithmetic and memory that scoring with adapters needs.

Llama, Mistral, Qwen 2 and 3 and many others share one form: normalised, projected to queries, keys and values, rotated,
attended, projected and added; normalised, gated, projected and added. Here that form is a handful of operations with
ways back of their own (`preflab.scoring.operations`). The last layer computes keys and values for all tokens, and the
rest only for tokens whose states are asked for: few of the prompt's, and for a reward model one of a whole response.

Whether a model is of that form is read off its modules, and `preflab.scoring.logps` holds the result to the model's own
forward pass on the first batch. Everything else takes the other paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional

from preflab.method.contract import Batch
from preflab.scoring.lora import Adapted, FastLinear, adapted, products
from preflab.scoring.operations import (
    Added,
    Gated,
    Laid,
    Normalised,
    Packed,
    Projected,
    Rotated,
    Shared,
    added,
    normalised,
    turned,
)
from preflab.scoring.packing import NAME, Grid, Packing
from preflab.scoring.quantised import QuantisedLinear
from preflab.scoring.sharding import called, is_sharded


def fused_states(backbone: Any, batch: Batch, *, end: bool = False) -> Tensor:
    """Run each prompt once and its responses on top of it; arguments and result as `packing.prompt_once_states`.

    Raises:
        NotImplementedError: if the decoder is not of the form, or its weights learn.
    """
    check_form(backbone)
    packing, kind = Packing.of(batch, end=end), batch.prompt_ids.device.type
    states = backbone.embed_tokens(packing.ids[None])
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    with torch.autocast(kind, enabled=False):
        cos, sin = backbone.rotary_emb(states, position_ids=packing.positions[None])
        text = Text(packing, cos[0], sin[0], half)
        states = states[0]
        layers = backbone.layers[: backbone.config.num_hidden_layers]
        for number, layer in enumerate(layers, 1):
            run = partial(called, layer, Layer(layer, text, last=number == len(layers)))
            if layer.gradient_checkpointing and layer.training:
                states = layer._gradient_checkpointing_func(run, states)
            else:
                states = run(states)
        states = Normalised.apply(states, backbone.norm)  # type: ignore[no-untyped-call]
    return states.view(*batch.response_ids.shape[:2], -1) if end else states


# ---- the form ----------------------------------------------------------------------------------------

ATTENTION, NORMS = ("q_proj", "k_proj", "v_proj", "o_proj"), {"q_norm", "k_norm"}
MLP = ("gate_proj", "up_proj", "down_proj")
PLAIN = {nn.Linear, FastLinear, QuantisedLinear}
_OF_THE_FORM: WeakSet[nn.Module] = WeakSet()


def check_form(backbone: Any) -> None:
    """Check that a decoder is one that `fused_states` can run.

    Raises:
        NotImplementedError: if it is not, with what is in the way.
    """
    if backbone in _OF_THE_FORM:
        return
    _expect(backbone.config._attn_implementation in ("sdpa", NAME), "attention of another's choice")
    _expect(_children(backbone) == {"embed_tokens", "layers", "norm", "rotary_emb"}, "other modules")
    for layer in backbone.layers:
        _expect(_children(layer) == {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}, "other layers")
        _expect(_children(layer.self_attn) - NORMS == {*ATTENTION}, "another attention")
        _expect(_children(layer.mlp) == {*MLP, "act_fn"}, "another MLP")
        _expect(type(layer.mlp.act_fn).__name__ in ("SiLU", "SiLUActivation"), "another activation")
        linear = [getattr(layer.self_attn, name) for name in ATTENTION] + [getattr(layer.mlp, name) for name in MLP]
        _expect({type(module) for module in linear} <= PLAIN, "layers that are not plain")
        _expect(not any(True for _ in layer.self_attn.parameters(recurse=False)), "attention with weights of its own")
    norms = [m for m in backbone.modules() if type(m).__name__.endswith("Norm")]
    _expect(all(hasattr(norm, "variance_epsilon") for norm in norms), "another normalisation")
    # Hooks would not be called: they move weights, or look at what passes. Those of a sharded layer are (`called`).
    others = [module for module in backbone.modules() if not is_sharded(module)]
    _expect(not any(m._forward_hooks or m._forward_pre_hooks for m in others), "modules with hooks")
    _expect(not any(p.requires_grad for n, p in backbone.named_parameters() if "lora_" not in n), "weights that learn")
    _OF_THE_FORM.add(backbone)


def late_layers(backbone: Any) -> list[nn.Module]:
    """Return the linear layers that tokens whose states are asked for go through alone; none if it is not the form."""
    try:
        check_form(backbone)
    except NotImplementedError:
        return []
    last = backbone.layers[backbone.config.num_hidden_layers - 1]
    return [last.self_attn.q_proj, last.self_attn.o_proj, *(getattr(last.mlp, name) for name in MLP)]


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _expect(held: bool, found: str) -> None:
    if not held:
        raise NotImplementedError(f"a decoder with {found}")


# ---- a layer -----------------------------------------------------------------------------------------


class Text(NamedTuple):
    """What all layers share.

    Attributes:
        packing: where the tokens lie.
        cos: ``[N, D]`` of every token's angles.
        sin: ``[N, D]``.
        half: type that matrices are multiplied in.
    """

    packing: Packing
    cos: Tensor
    sin: Tensor
    half: torch.dtype


class Layer:
    """One layer, from states ``[N, H]`` to ``[N, H]``; the `last` returns ``[n, H]``, of tokens that are asked for."""

    def __init__(self, layer: Any, text: Text, *, last: bool) -> None:
        self.layer, self.text, self.last = layer, text, last

    def __call__(self, states: Tensor) -> Tensor:
        """Return the layer's states."""
        layer, half = self.layer, self.text.half
        attention, mlp, norm = layer.self_attn, layer.mlp, layer.input_layernorm
        q, k, v, o = (adapted(getattr(attention, name)) for name in ATTENTION)
        gate, up, down = (adapted(getattr(mlp, name)) for name in MLP)

        if self.last:
            key, value = projected(states, norm, half, k, v)
            states = states.index_select(0, self.text.packing.wanted)
            (query,) = projected(states, norm, half, q)
        else:
            query, key, value = projected(states, norm, half, q, k, v)
        found = attend(attention, query, key, value, self.text, last=self.last)
        states = Added.apply(states, found, o, o.a, o.b)  # type: ignore[no-untyped-call]
        opened, upwards = projected(states, layer.post_attention_layernorm, half, gate, up)
        return Gated.apply(states, opened, upwards, down, down.a, down.b)  # type: ignore[no-any-return, no-untyped-call]


def projected(states: Tensor, norm: Any, half: torch.dtype, *layers: Adapted) -> tuple[Tensor, ...]:
    """Return what each layer makes of the states ``[N, H]``, once they are normalised."""
    learnt = [matrix for layer in layers for matrix in (layer.a, layer.b)]
    return Projected.apply(states, norm, half, layers, *learnt)  # type: ignore[no-any-return, no-untyped-call]


def attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, text: Text, *, last: bool) -> Tensor:
    """Attend within packed texts.

    Args:
        attention: the layer's attention.
        query: ``[N, heads·D]``, or ``[n, heads·D]`` in the `last` layer.
        key: ``[N, key heads·D]``.
        value: ``[N, key heads·D]``.
        text: where they stand.
        last: whether only tokens whose states are asked for have queries.

    Returns:
        ``[N or n, heads·D]``.
    """
    packing, window = text.packing, _window(attention)
    query, key, value = (_heads(x, attention.head_dim) for x in (query, key, value))
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    here = packing.wanted if last else slice(None)
    query = Rotated.apply(query, text.cos[here], text.sin[here]).to(text.half)  # type: ignore[no-untyped-call]
    key = Rotated.apply(key, text.cos, text.sin).to(text.half)  # type: ignore[no-untyped-call]
    shared, scale = query.shape[1] // key.shape[1], attention.scaling

    def within(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        # Off the CPU no fast kernel takes both a mask and heads that share keys.
        grouped = q.is_cpu and shared > 1
        if shared > 1 and not grouped:
            k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        found = functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
        )
        return found.transpose(1, 2)

    keys, values = (seen(x, packing, trunks=not last) for x in (key, value))
    grids: list[Grid] = [packing.asked] if last else [packing.trunks]
    masks = [packing.asked_mask(window, text.half) if last else packing.trunk_mask(window)]
    if packing.branches is not None and not last:
        grids.append(packing.branches)
        masks.append(packing.branch_mask(window, text.half))
    queries = Laid.apply(query, *grids)  # type: ignore[no-untyped-call]
    parts = [within(q, k, v, mask) for q, k, v, mask in zip(queries, keys, values, masks, strict=True)]
    return Packed.apply(grids, *parts).flatten(1)  # type: ignore[no-any-return, no-untyped-call]


def seen(x: Tensor, packing: Packing, *, trunks: bool) -> tuple[Tensor, ...]:
    """Return keys or values ``[N, ...]`` as trunks see them, if asked for, and as the branches do."""
    if packing.branches is None:
        return Laid.apply(x, packing.trunks)  # type: ignore[no-any-return, no-untyped-call]
    return Shared.apply(x, packing, trunks)  # type: ignore[no-any-return, no-untyped-call]


def _heads(x: Tensor, width: int) -> Tensor:
    return x.view(len(x), x.shape[1] // width, width)


def _window(attention: Any) -> int | None:
    """Return how many tokens one sees, itself included."""
    window: int | None = getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None))
    return window


# ---- one token at a time ------------------------------------------------------------------------------


class Steps:
    """Sends one token of each row through a decoder of the form, without gradients.

    Args:
        backbone: the decoder; its adapters are read as they are now.

    Raises:
        NotImplementedError: if it is not of the form.
    """

    def __init__(self, backbone: Any) -> None:
        check_form(backbone)
        self.backbone = backbone
        self.layers = [
            (
                layer,
                [adapted(getattr(layer.self_attn, n)) for n in ATTENTION],
                [adapted(getattr(layer.mlp, n)) for n in MLP],
            )
            for layer in backbone.layers[: backbone.config.num_hidden_layers]
        ]

    def __call__(self, ids: Tensor, positions: Tensor, seen: Tensor, cache: Sequence[Any]) -> Tensor:
        """Return the states after the tokens, ``[N, H]``.

        Args:
            ids: ``[N]`` tokens.
            positions: ``[N]`` where they stand.
            seen: bool ``[N, L]`` which of the keys they see, their own, the last, among them.
            cache: a layer's ``update`` takes keys and values ``[N, key heads, 1, D]`` and returns all so far.
        """
        states: Tensor = self.backbone.embed_tokens(ids)
        cos, sin = (x[0, :, None] for x in self.backbone.rotary_emb(states[None], position_ids=positions[None]))
        mask = states.new_zeros(len(ids), 1, 1, seen.shape[1]).masked_fill_(~seen[:, None, None], -torch.inf)
        for (layer, (q, k, v, o), (gate, up, down)), kept in zip(self.layers, cache, strict=True):
            attention = layer.self_attn
            rows, _ = normalised(states, layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon)
            query, key, value = (_heads(x, attention.head_dim) for x in products(rows, [q, k, v])[0])
            if hasattr(attention, "q_norm"):
                query, key = attention.q_norm(query), attention.k_norm(key)
            keys, values = kept.update(turned(key, cos, sin)[:, :, None], value[:, :, None])
            # Heads that share a key stand where else several tokens would.
            query = turned(query, cos, sin).view(len(ids), keys.shape[1], -1, attention.head_dim)
            found = functional.scaled_dot_product_attention(query, keys, values, mask, scale=attention.scaling)
            states, _ = added(states, found.reshape(len(ids), -1), o)
            norm = layer.post_attention_layernorm
            rows, _ = normalised(states, norm.weight, norm.variance_epsilon)
            (opened, upwards), _ = products(rows, [gate, up])
            states, _ = added(states, functional.silu(opened).mul_(upwards), down)
        norm = self.backbone.norm
        return normalised(states, norm.weight, norm.variance_epsilon)[0]
