"""A pretend accelerator: tensors that say ``pretend:0``, are computed on the CPU, and refuse to mix with the CPU's.

Wrong placement is an error that only a machine with an accelerator shows. This device shows it anywhere: a pretend
tensor wraps one of the CPU, every operator runs on what is wrapped, and an operator that is given tensors of both
devices raises where CUDA would. Values, and so losses and weights, are the CPU's own.

torch lets one backend per process be made in Python ("PrivateUse1"), for the whole of the process. Importing this
module makes it, so tests that use it run in a process of their own (see ``test_placement.py``).

What it does not show: kernels of an accelerator and their rounding, memory, streams and asynchronous copies,
generators that live on the device (they cannot be made), and a second device.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"

WAITS: Counter[str] = Counter()
"""How often the program waited for the device, by operator: reads of a number, copies to the CPU, sizes from values."""

CROSSING = {"_to_copy", "copy_"}
"""Operators that move data from one device to another."""

INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
"""Operators whose second argument is a list of indices, which may lie on the CPU."""

FILLING = {"fill", "fill_", "masked_fill", "masked_fill_", *INDEXING}
"""Operators that, as those of one element at a time do, take a tensor of the CPU without dimensions for a number."""

SIZED_BY_VALUES = {"nonzero", "masked_select", "unique_consecutive", "_unique2"}
"""Operators whose result has a size that is known when the device has computed it."""

FACTORIES = ("arange", "arange.start", "arange.start_step", "eye", "eye.m")
"""Operators that make a tensor and would first make it empty, then give it its size."""


class Backend:
    """What torch asks the module ``torch.pretend`` for."""

    def is_available(self) -> bool:
        """There is always one."""
        return True

    is_initialized = is_available

    def device_count(self) -> int:
        """There is never a second one."""
        return 1

    def current_device(self) -> int:
        """Return the number of the only one."""
        return 0

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return what ``torch.autocast`` may compute in."""
        return [torch.bfloat16, torch.float16]

    def _is_in_bad_fork(self) -> bool:
        return False

    # Draws come from the CPU's generator, whose state torch sees to itself.

    def manual_seed_all(self, seed: int) -> None:
        """Seed nothing."""

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        """Return a state that says nothing."""
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        """Set nothing."""


class PretendTensor(torch.Tensor):
    """A tensor that says it lies on the device; `host` is where its values are."""

    host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> PretendTensor:
        """Wrap a tensor of the CPU."""
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset()}
        made: Any = torch.Tensor._make_wrapper_subclass(cls, host.shape, dtype=host.dtype, device=DEVICE, **layout)
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, below autograd, on what the tensors wrap."""
        return run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Return the values, which torch refuses to give of wrappers."""
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor({self.host!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.host.__reduce_ex__(protocol)  # what is loaded lies on the CPU, as by ``map_location="cpu"``


def _data_of(tensor: Any) -> Any:
    return torch.Tensor.data.__get__(tensor)


def _set_data(tensor: Any, other: Any) -> None:
    if not isinstance(other, PretendTensor):
        raise RuntimeError(f"a tensor on {tensor.device} is given data on {other.device}")
    torch.Tensor.data.__set__(tensor, other)
    tensor.host = other.host


PretendTensor.data = property(_data_of, _set_data)  # type: ignore[assignment]


def run(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on the CPU; what it returns lies on the device, unless it was asked for elsewhere.

    Raises:
        RuntimeError: if its tensors lie on different devices and no accelerator would bear that.
        NotImplementedError: if it changes the shape of a tensor in place, which a wrapper cannot follow.
    """
    name, changes = described(func)
    tensors: list[torch.Tensor] = []

    def unwrapped(x: torch.Tensor) -> torch.Tensor:
        tensors.append(x)
        return x.host if isinstance(x, PretendTensor) else x

    on_host = mapped(args, unwrapped)
    options = {key: mapped(value, unwrapped) for key, value in kwargs.items() if key != "pin_memory"}
    given = [x for x in tensors if isinstance(x, PretendTensor)]
    target = NAME if given else "cpu"
    if options.get("device") is not None:
        target, options["device"] = torch.device(options["device"]).type, torch.device("cpu")
    check(func, name, args, tensors, target, options.get("generator"))
    if given:
        count_waits(name, args, target, options)
    found = func(*on_host, **options)
    if changes and any(x.shape != x.host.shape for x in given):
        raise NotImplementedError(f"{func} changes a shape in place")
    wrappers = {id(x.host): x for x in given}

    def placed(x: torch.Tensor) -> torch.Tensor:
        if target != NAME:
            return x.clone() if id(x) in wrappers else x
        return wrappers[id(x)] if id(x) in wrappers else PretendTensor(x)

    return mapped(found, placed)


@functools.cache
def described(func: Any) -> tuple[str, bool]:
    """Return an operator's name, and whether it changes what it is given."""
    return func._schema.name.partition("::")[2], func._schema.is_mutable


def mapped(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Change every tensor in nested lists and tuples."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    return type(tree)(mapped(x, change) for x in tree) if isinstance(tree, (list, tuple)) else tree


def check(func: Any, name: str, args: Any, tensors: list[torch.Tensor], target: str, generator: Any) -> None:
    """Raise `RuntimeError` where an accelerator would: tensors of two devices, or a generator of another one."""
    if generator is not None and generator.device.type != target:
        raise RuntimeError(f"{func}: a generator on {generator.device.type} draws for a tensor on {target}")
    if name in INDEXING:
        indices = [x for x in args[1] if x is not None]
        if not isinstance(args[0], PretendTensor) and any(isinstance(x, PretendTensor) for x in indices):
            raise RuntimeError(f"{func}: indices on {NAME} into a tensor on the CPU")
        tensors = [x for x in (args[0], *args[2:]) if isinstance(x, torch.Tensor)]
    away = [x for x in tensors if not isinstance(x, PretendTensor)]
    if not away or len(away) == len(tensors) or name in CROSSING:
        return
    # What has no dimensions is taken for a number there.
    if (torch.Tag.pointwise in func.tags or name in FILLING) and all(x.ndim == 0 for x in away):
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device: {func} is given {tuple(away[0].shape)} on the CPU"
        f" beside tensors on {NAME}:0"
    )


def to_cpu(name: str, args: Any, target: str) -> bool:
    """Whether an operator copies a tensor of the device to the CPU."""
    return (name == "_to_copy" and target == "cpu") or (name == "copy_" and not isinstance(args[0], PretendTensor))


def count_waits(name: str, args: Any, target: str, options: dict[str, Any]) -> None:
    """Count an operator on the device after which the program cannot go on before the device has caught up.

    Raises:
        RuntimeError: if it does go on: what it reads would not be there yet.
    """
    away = to_cpu(name, args, target)
    if away and (options.get("non_blocking") or (name == "copy_" and args[2:] == (True,))):
        raise RuntimeError("a copy to the CPU that nobody waits for")
    by_mask = name in INDEXING and any(x is not None and x.dtype == torch.bool for x in args[1])
    if away or by_mask or name == "_local_scalar_dense" or name in SIZED_BY_VALUES:
        WAITS["to the CPU" if away else name] += 1


def _factory(operator: str) -> Any:
    func = torch.ops.aten
    for part in (operator if "." in operator else f"{operator}.default").split("."):
        func = getattr(func, part)
    return lambda *args, **options: run(func, args, {**options, "device": DEVICE})


def _copy(self: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    run(torch.ops.aten.copy_.default, (self, source), {})
    return self


_setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
DEVICE = torch.device(NAME, 0)
LIBRARY = torch.library.Library("aten", "IMPL")
LIBRARY.impl("copy_", _copy, "PrivateUse1")
# What else makes a tensor from nothing is made of the first two.
for _operator in ("empty.memory_format", "empty_strided", *FACTORIES):
    LIBRARY.impl(_operator, _factory(_operator), "PrivateUse1")
