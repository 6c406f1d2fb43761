"""What a pass through a model costs: tokens and floating-point operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from preflab.method.contract import Batch


class ModelShape(NamedTuple):
    """What of a causal language model decides its arithmetic.

    Attributes:
        body: weights of the decoder's matrices, adapters and embeddings (which are looked up) left out.
        head: weights of the output head.
        attention: FLOPs of one query against one key in all layers.
        late: weights of the body that a fused pass runs asked-for tokens alone through.
        late_attention: FLOPs of one query against one key in the last layer.
    """

    body: int
    head: int
    attention: int
    late: int = 0
    late_attention: int = 0

    @classmethod
    def of(cls, model: Any) -> ModelShape:
        """Read the shape off a model, adapters inside or not."""
        from torch import nn

        from preflab.scoring.fused import late_layers
        from preflab.scoring.quantised import QuantisedLinear

        matrices = {
            id(weight): module.weight_count if isinstance(module, QuantisedLinear) else weight.numel()
            for name, module in model.base_model.named_modules()
            if "lora_" not in name and not isinstance(module, nn.Embedding)
            for weight in module.parameters(recurse=False)
            if weight.ndim > 1
        }
        config = model.config.get_text_config()
        # A model without attention has no heads.
        layers, heads = config.num_hidden_layers, getattr(config, "num_attention_heads", None) or 0
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // max(1, heads))
        late = sum(matrices.get(id(weight), 0) for m in late_layers(model.base_model) for weight in m.parameters())
        # q·k and the weighted sum of values, a multiplication and an addition each.
        one = 4 * width
        return cls(sum(matrices.values()), model.get_output_embeddings().weight.numel(), layers * one, late, one)


class Passed(NamedTuple):
    """What a pass saw, real tokens alone.

    Attributes:
        body: tokens through the decoder.
        pairs: queries times the keys they were held against.
        head: tokens through the output head.
        spared: tokens of the body that the late part of the last layer need not see.
        spared_pairs: pairs that the last layer's attention need not.
    """

    body: int
    pairs: int
    head: int
    spared: int = 0
    spared_pairs: int = 0


class Weights(NamedTuple):
    """Weights of an adapter: all of them, and those in the late part of the last layer."""

    all: int = 0
    late: int = 0


def scored(batch: Batch, path: str, *, last: bool, head: bool) -> Passed:
    """Return what a scoring pass sees (see `preflab.scoring.logps`).

    Args:
        batch: what is scored.
        path: of the scorer: the prompt is seen once on ``fused`` and ``prompt_once``, and k times on the others.
        last: whether the last token is fed too.
        head: whether log-probabilities are asked for.
    """
    prompts, responses = _lengths(batch)
    asked = None
    if path in ("fused", "prompt_once"):
        fed = responses if last else (responses - 1).clamp(min=0)
        body, pairs = prompts.sum() + fed.sum(), (prompts**2).sum() + (fed * (prompts + fed)).sum()
        if responses.shape[1] == 1:
            pairs = ((prompts + fed) ** 2).sum()  # a text in one piece; the upper half counts everywhere
        if path == "fused":
            asked = responses**0 if last else responses
    else:
        rows = (prompts + responses) * (responses > 0)
        body, pairs = rows.sum(), (rows**2).sum()
    # The model's own pass gives the logits after the last token too.
    at_head = (responses + (responses > 0) * (path == "single")).sum() if head else 0
    passed = Passed(int(body), int(pairs), int(at_head))
    if asked is None:
        return passed
    spared, spared_pairs = body - asked.sum(), pairs - (asked * (prompts + fed)).sum()
    return passed._replace(spared=int(spared), spared_pairs=int(spared_pairs))


def sampled(batch: Batch, *, prompt_once: bool = True) -> Passed:
    """Return what drawing a batch's responses token by token saw.

    Args:
        batch: what was drawn.
        prompt_once: whether a prompt was run once for all its responses, or once for each.
    """
    prompts, responses = _lengths(batch)
    fed = (responses - 1).clamp(min=0)  # the last token drawn is not fed
    drawn = responses > 0
    run = prompts * (drawn.any(1, keepdim=True) if prompt_once else drawn)
    pairs = (run**2).sum() + (fed * prompts + fed * (fed + 1) // 2).sum()
    return Passed(int(run.sum() + fed.sum()), int(pairs), int(responses.sum()))


def _lengths(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return tokens of prompts ``[B, 1]`` and responses ``[B, K]``, where Python can read them cheaply."""
    return batch.prompt_mask.sum(1, keepdim=True).cpu(), batch.response_mask.sum(-1).cpu()


NO_ADAPTER = Weights()


class Work:
    """The FLOPs of all passes made on one base.

    Attributes:
        flops: so far.
    """

    def __init__(self, model: Any) -> None:
        self._model, self.flops = model, 0
        self._shape: ModelShape | None = None

    def add(
        self, passed: Passed, adapter: Weights = NO_ADAPTER, *, learns: bool = False, recomputes: bool = False
    ) -> None:
        """Add a pass, and the way back where weights learn.

        Args:
            passed: what it saw.
            adapter: weights of the adapter beside the base; none if there is none, or it is folded in.
            learns: whether gradients flow back to the adapter, through the frozen base.
            recomputes: whether activations are computed twice.
        """
        self._shape = shape = self._shape or ModelShape.of(self._model)
        of_adapter = 2 * (adapter.all * passed.body - adapter.late * passed.spared)
        attention = shape.attention * passed.pairs - shape.late_attention * passed.spared_pairs
        layers = 2 * (shape.body * passed.body - shape.late * passed.spared) + of_adapter + attention
        head = 2 * shape.head * passed.head
        total = layers + head
        if learns:
            # Of frozen matrices there is the gradient of the input alone, of adapters that of the weights too.
            total += layers + head + of_adapter + attention
            total += layers if recomputes else 0
        self.flops += total
