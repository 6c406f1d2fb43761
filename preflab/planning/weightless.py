"""Models without weights: passes of the very code that trains, on tensors that have shapes and no numbers.

No formula of what is kept for the way back stands here: the code is run on nothing, and the bytes that it would hold
are counted. Token ids and masks are real, and so are all decisions that hang on them. Every layer of a decoder keeps
as much as the next: a pass through two and one through three tell what one through all of them keeps.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from preflab.method.contract import Role
from preflab.model.base import without_dropout
from preflab.model.roles import Roles
from preflab.scoring.fused import check_form
from preflab.scoring.logps import Path
from preflab.scoring.packing import NAME
from preflab.settings.training import LoraSettings


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made while it is on, as long as each lives.

    Attributes:
        now: bytes that live.
        peak: the most that did, at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count what it makes; what it is given was made before."""
        self._known.update(_storages((args, kwargs)))
        found = func(*args, **(kwargs or {}))
        for storage in _storages(found):
            if storage not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._drop, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.now)
        return found

    def _drop(self, size: int) -> None:
        self.now -= size


def _storages(nested: Any) -> list[Any]:
    return [x.untyped_storage() for x in tree_leaves(nested) if isinstance(x, Tensor)]


def weightless_model(
    config: Any, dtype: torch.dtype, *, trust_remote_code: bool = False, attention: str | None = None
) -> Any:
    """Build a frozen causal language model on the meta device, as `load_base` would return it on another."""
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code, attn_implementation=attention
        )
    without_dropout(model.requires_grad_(False))
    return model


def weightless_roles(model: Any, lora: LoraSettings, roles: Sequence[Role]) -> Roles:
    """Put roles on a model without weights, and let it say that it lies on the CPU.

    There attention is computed as on other devices: by a kernel that keeps what it is given, what it finds and one
    number a query.
    """
    with torch.device("meta"):
        found = Roles(model, lora, roles)
    _lay(found, FakeTensorMode(allow_non_fake_inputs=True))
    found.scorer.exact = paths_of(found.model)
    return found


def _lay(module: nn.Module, fake: FakeTensorMode) -> None:
    """Give parameters and buffers the CPU in name; those that share memory go on doing so."""
    laid: dict[int, tuple[Tensor, Tensor]] = {}
    with fake:
        for part in module.modules():
            stores: tuple[Any, ...] = part._parameters, part._buffers
            for store in stores:
                for name, tensor in store.items():
                    if tensor is not None and id(tensor) not in laid:
                        made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                        learnt = isinstance(tensor, nn.Parameter)
                        laid[id(tensor)] = (nn.Parameter(made, tensor.requires_grad) if learnt else made, tensor)
                    if tensor is not None:
                        store[name] = laid[id(tensor)][0]


def cut(model: Any, layers: int) -> None:
    """Leave a model so many of its layers."""
    config, backbone = model.config.get_text_config(), model.base_model
    for name, part in list(backbone.named_children()):
        if isinstance(part, nn.ModuleList) and len(part) == config.num_hidden_layers:
            setattr(backbone, name, part[:layers])
            config.num_hidden_layers = layers
            return
    raise NotImplementedError(f"{type(model).__name__} has no list of layers")


def paths_of(model: Any) -> tuple[Path, ...]:
    """Return the paths that scoring may take, fastest first, by the model's form alone."""
    plain: tuple[Path, ...] = (
        ("prompt_once", "plain") if model.base_model.config._attn_implementation in ("sdpa", NAME) else ("plain",)
    )
    try:
        check_form(model.base_model)
    except NotImplementedError:
        return plain
    return ("fused", *plain)
