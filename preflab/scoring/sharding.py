"""A frozen base in pieces (FSDP2): every process keeps a share of each layer, and has a layer whole while it runs.

What learns stays whole everywhere, and so do embeddings and head, which are read by hand. A layer that is run by hand
is called all the same, with its forward pass exchanged: what gathers its weights hangs on the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard


def shard(backbone: Any) -> None:
    """Leave this process its share of the frozen weights of a decoder's layers.

    Args:
        backbone: has ``layers``; what learns in them, and what adapters there are, stays as it is.

    Raises:
        NotImplementedError: if it has no such layers, or weights in bits.
    """
    layers = dict(backbone.named_children()).get("layers")
    if not isinstance(layers, nn.ModuleList):
        raise NotImplementedError(f"{type(backbone).__name__} has no list of layers")
    if not all(weight.is_floating_point() for weight in backbone.parameters()):
        raise NotImplementedError("a base whose weights are kept in bits")
    mesh = init_device_mesh(backbone.device.type, (get_world_size(),))
    for layer in layers:
        adapters = {weight for name, weight in layer.named_parameters() if "lora_" in name}
        # Each is called by hand, the root of its own tree, which would else keep its weights until the way back.
        fully_shard(layer, mesh=mesh, ignored_params=adapters, reshard_after_forward=True)


def is_sharded(module: nn.Module) -> bool:
    """Whether a module's weights are in pieces."""
    return isinstance(module, FSDPModule)


def called(layer: Any, run: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    """Run a layer by hand, through its own call where its weights are in pieces."""
    if not is_sharded(layer):
        return run(states)
    layer.forward = run
    try:
        found: Tensor = layer(states)
    finally:
        del layer.forward
    return found


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Keep all weights whole in the block, for passes that differ from process to process, as those of samples do."""
    layers = gather(model)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True)
            layer.reshard()


def gather(model: nn.Module) -> list[FSDPModule]:
    """Make all weights whole, until somebody shards them again; return the layers that were in pieces."""
    layers: list[FSDPModule] = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for layer in layers:
        layer.set_reshard_after_forward(False)
        layer.unshard()
    return layers
