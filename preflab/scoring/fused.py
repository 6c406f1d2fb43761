"""Decoders of Llama's form, run by hand: the least arithmetic and memory that scoring with adapters needs.

Llama, Mistral, Qwen 2 and 3 and many others share one form: normalised, projected to queries, keys and values, rotated,
attended, projected and added; normalised, gated, projected and added. Here that form is a handful of operations with
ways back of their own. They keep the least that the gradient can be computed from (what is normalised or gated is
computed again), read activations fewer times, and know that the base is frozen. The last layer computes keys and
values for all tokens, and the rest only for tokens whose states are asked for: few of the prompt's, and for a reward
model one of a whole response.

Whether a model is of that form is read off its modules, and `preflab.scoring.paths` holds the result to the model's own
forward pass on the first batch. Everything else takes the other paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional

from preflab.method.contract import Batch
from preflab.scoring.lora import Adapted, FastLinear, adapted, of_adapters, of_rows, products, through
from preflab.scoring.packing import NAME, Grid, Packing, packed


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
            run = Layer(layer, text, last=number == len(layers))
            if layer.gradient_checkpointing and layer.training:
                states = layer._gradient_checkpointing_func(run, states)
            else:
                states = run(states)
        states = Normalised.apply(states, backbone.norm)  # type: ignore[no-untyped-call]
    return states.view(*batch.response_ids.shape[:2], -1) if end else states


# ---- the form ----------------------------------------------------------------------------------------

ATTENTION, NORMS = ("q_proj", "k_proj", "v_proj", "o_proj"), {"q_norm", "k_norm"}
MLP = ("gate_proj", "up_proj", "down_proj")
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
        _expect(all(type(module) in (nn.Linear, FastLinear) for module in linear), "layers that are not plain")
        _expect(not any(True for _ in layer.self_attn.parameters(recurse=False)), "attention with weights of its own")
    norms = [m for m in backbone.modules() if type(m).__name__.endswith("Norm")]
    _expect(all(hasattr(norm, "variance_epsilon") for norm in norms), "another normalisation")
    # Hooks would not be called: they shard or move weights, or look at what passes.
    _expect(not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules()), "modules with hooks")
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
        if shared > 1:
            k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        found = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale)
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
            rows, _ = _normalised(states, layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon)
            query, key, value = (_heads(x, attention.head_dim) for x in products(rows, [q, k, v])[0])
            if hasattr(attention, "q_norm"):
                query, key = attention.q_norm(query), attention.k_norm(key)
            keys, values = kept.update(_turned(key, cos, sin)[:, :, None], value[:, :, None])
            # Heads that share a key stand where else several tokens would.
            query = _turned(query, cos, sin).view(len(ids), keys.shape[1], -1, attention.head_dim)
            found = functional.scaled_dot_product_attention(query, keys, values, mask, scale=attention.scaling)
            states, _ = _added(states, found.reshape(len(ids), -1), o)
            norm = layer.post_attention_layernorm
            rows, _ = _normalised(states, norm.weight, norm.variance_epsilon)
            (opened, upwards), _ = products(rows, [gate, up])
            states, _ = _added(states, functional.silu(opened).mul_(upwards), down)
        norm = self.backbone.norm
        return _normalised(states, norm.weight, norm.variance_epsilon)[0]


# ---- operations with ways back of their own ----------------------------------------------------------


class Rotated(torch.autograd.Function):
    """Rotary embedding (Su et al. 2021, equation 34) of ``[N, heads, D]`` by angles ``[N, D]``, halves as pairs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return ``[N, heads, D]``."""
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos[:, None], sin[:, None])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Turn the gradient back."""
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos[:, None], -sin[:, None]), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    found, middle = x * cos, x.shape[-1] // 2
    found[..., :middle].addcmul_(x[..., middle:], sin[..., :middle], value=-1)
    found[..., middle:].addcmul_(x[..., :middle], sin[..., middle:])
    return found


class Laid(torch.autograd.Function):
    """Packed tokens, grid after grid, laid out; the gradient of padding is dropped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *grids: Grid) -> tuple[Tensor, ...]:
        """Return ``[R, C, ...]`` of each grid, of `x` ``[Σ count, ...]``."""
        ctx.grids = grids
        parts = torch.split(x, [grid.count for grid in grids])
        return tuple(grid.lay(part) for grid, part in zip(grids, parts, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Pack the gradient."""
        return packed(grads, ctx.grids), *(None for _ in grads)


class Packed(torch.autograd.Function):
    """What is laid out, packed; the gradient of padding is 0."""

    @staticmethod
    def forward(ctx: Any, grids: Sequence[Grid], *parts: Tensor) -> Tensor:
        """Return ``[Σ count, ...]`` of ``[R, C, ...]`` of each grid."""
        ctx.grids = grids
        return packed(parts, grids)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Lay the gradient out."""
        rows = torch.split(grads[0], [grid.count for grid in ctx.grids])
        return None, *(grid.lay(part, 0) for grid, part in zip(ctx.grids, rows, strict=True))


class Shared(torch.autograd.Function):
    """Keys or values laid out as trunks, if asked for, and as branches, each with its trunk before it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packing: Packing, trunks: bool) -> tuple[Tensor, ...]:
        """Return ``[B, P, ...]`` and ``[B·K, P + T, ...]`` of ``[N, ...]``."""
        ctx.packing = packing
        whole = x.index_select(0, packing.keys.flatten()).view(*packing.keys.shape, *x.shape[1:])
        return (packing.trunks.lay(x[: packing.trunks.count]), whole) if trunks else (whole,)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the rows, a trunk's added up over all that saw it."""
        packing, whole = ctx.packing, grads[-1]
        width = packing.trunks.real.shape[1]
        shared = whole.view(-1, packing.size, *whole.shape[1:])[:, :, :width].sum(1)
        if len(grads) > 1:
            shared += grads[0]
        trunks = packing.trunks.count
        rows = whole.new_empty(len(packing.ids), *whole.shape[2:])
        torch.index_select(shared.flatten(0, 1), 0, packing.trunks.cells, out=rows[:trunks])
        torch.index_select(whole.flatten(0, 1), 0, packing.own, out=rows[trunks:])
        return rows, None, None


class Projected(torch.autograd.Function):
    """Root-mean-square normalisation (arXiv 1910.07467, equation 4), and linear layers of what comes out.

    Kept are the states as they were and one number for each; what is normalised is computed again on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: Any, half: torch.dtype, layers: Sequence[Adapted], *learnt: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return ``[N, out]`` of each layer, of `x` ``[N, H]``; `learnt` are the layers' matrices A and B in turn."""
        rows, inverse = _normalised(x, norm.weight, norm.variance_epsilon)
        found, inner = products(rows.to(half), layers)
        ctx.save_for_backward(x, inverse, inner)
        ctx.norm, ctx.half, ctx.layers = norm, half, layers
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of `x` and of `learnt`."""
        (x, inverse, inner), layers, weight = ctx.saved_tensors, ctx.layers, ctx.norm.weight
        back = through(grads, layers)
        learnt: list[Tensor | None] = [None] * (2 * len(layers))
        if back is not None:
            rows = _scaled(x, inverse, weight).to(ctx.half)
            learnt = of_adapters(grads, layers, rows, inner, back)
        of_x = _normalised_back(of_rows(grads, layers, back), x, inverse, weight) if ctx.needs_input_grad[0] else None
        return of_x, None, None, None, *learnt


class Normalised(torch.autograd.Function):
    """Root-mean-square normalisation alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Any) -> Tensor:
        """Return ``[N, H]``."""
        found, inverse = _normalised(x, norm.weight, norm.variance_epsilon)
        ctx.save_for_backward(x, inverse)
        ctx.norm = norm
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the states."""
        x, inverse = ctx.saved_tensors
        return _normalised_back(grads[0], x, inverse, ctx.norm.weight), None


def _normalised(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return w · x / rms(x) in the type of `x`, and 1 / rms(x), ``[N, 1]``, which is computed in float32."""
    inverse = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + epsilon)
    return _scaled(x, inverse, weight), inverse


def _scaled(x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    return weight * (x.float() * inverse).to(x.dtype)


def _normalised_back(grad: Tensor, x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of `x`, in its type."""
    wide, weighted = x.float(), grad.float() * weight.float()
    along = (weighted * wide).mean(-1, keepdim=True) * inverse.pow(3)
    return weighted.mul_(inverse).addcmul_(wide, along, value=-1).to(x.dtype)


class Added(torch.autograd.Function):
    """A linear layer's product, added to states."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, x: Tensor, layer: Adapted, a: Tensor | None, b: Tensor | None) -> Tensor:
        """Return ``[N, H]`` of `states` ``[N, H]`` and `x` ``[N, in]``; `a` and `b` are the layer's."""
        found, inner = _added(states, x, layer)
        ctx.save_for_backward(x, inner)
        ctx.layer = layer
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of states, x, a and b."""
        (x, inner), layers = ctx.saved_tensors, [ctx.layer]
        given = [grads[0].to(x.dtype)]
        back = through(given, layers)
        of_x = of_rows(given, layers, back) if ctx.needs_input_grad[1] else None
        return grads[0], of_x, None, *of_adapters(given, layers, x, inner, back)


class Gated(torch.autograd.Function):
    """SwiGLU (arXiv 2002.05202, equation 6) and the layer behind it, added to states.

    Kept are both its inputs; silu and product are computed again on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, gate: Tensor, up: Tensor, layer: Adapted, a: Tensor | None, b: Tensor | None
    ) -> Tensor:
        """Return ``[N, H]`` of `states` ``[N, H]``, `gate` and `up` ``[N, I]``; `a` and `b` are the layer's."""
        found, inner = _added(states, functional.silu(gate).mul_(up), layer)
        ctx.save_for_backward(gate, up, inner)
        ctx.layer = layer
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of states, gate, up, a and b."""
        (gate, up, inner), layers = ctx.saved_tensors, [ctx.layer]
        given = [grads[0].to(gate.dtype)]
        back = through(given, layers)
        of_product, opened = of_rows(given, layers, back), functional.silu(gate)
        of_gate = torch.ops.aten.silu_backward(of_product * up, gate)
        of_up = of_product.mul_(opened)
        return grads[0], of_gate, of_up, None, *of_adapters(given, layers, opened.mul_(up), inner, back)


def _added(states: Tensor, x: Tensor, layer: Adapted) -> tuple[Tensor, Tensor | None]:
    if states.dtype == x.dtype:
        (found,), inner = products(x, [layer], onto=states)
        return found, inner
    (found,), inner = products(x, [layer])
    return states + found, inner
