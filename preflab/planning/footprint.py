"""How much memory training takes, before a weight is loaded: what lies there all the time, and what passes keep."""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.errors import UserError
from preflab.method.contract import Batch, Needs, Role
from preflab.model.base import loaded_dtype
from preflab.model.devices import default_device
from preflab.model.roles import Roles
from preflab.model.work import Weights
from preflab.planning.sampling import decoding
from preflab.planning.weightless import LiveBytes, cut, weightless_model, weightless_roles
from preflab.scoring.logps import Path
from preflab.settings.training import LoadIn, LoraSettings

FEW = (2, 3)
"""Layers of the models that passes are made through; all others keep as much as the third does."""

OVERHEAD = {"cpu": (0.2, 0.35)}
"""What the allocator holds beyond what lives, as a share of what passes keep, and what each further role that learns
adds to it: its passes are of other sizes, and find no room in the pieces (`python -m benchmarks.plan`)."""

GIVEN_BACK = {"cpu": 0.1}
"""The same where activations are recomputed, and pieces given back (`preflab.model.allocator`)."""

MOMENTS = {"adamw_8bit": 2, "paged_adamw_8bit": 2, "adafactor": 0, "sgd": 0}
"""Bytes that an optimiser keeps of each weight that learns."""

ADAM = 8
"""The same of every other one: two moments in float32."""

STORED = {"4bit": 0.5 + 1 / 64 + 1 / 4096, "8bit": 1.0}
"""Bytes of a number in bits, constants included: of NF4 (arXiv 2305.14314, section 3) one in 8 bits for 64 numbers, one
in 32 for 256 of those."""


class Footprint(NamedTuple):
    """Bytes that a training run holds at its peak.

    Attributes:
        base: weights of the frozen base.
        adapters: of all roles, heads included.
        gradients: of those that learn.
        optimiser: its state.
        passes: the most that a pass keeps, there and back.
    """

    base: int
    adapters: int
    gradients: int
    optimiser: int
    passes: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class Sketch:
    """A model without weights, which tells what training on it takes.

    Args:
        config: the model's, as transformers has it; it is not changed.
        lora: the adapters' shape, and the base's type.
        device: where training will run: ``cpu`` or ``cuda``.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        NotImplementedError: if the model's layers are not found.
    """

    def __init__(self, config: Any, lora: LoraSettings, device: str, *, trust_remote_code: bool = False) -> None:
        self.config, self.lora, self.device = config, lora, device
        self.load_in = lora.load_in if lora.load_in != "none" else kept_in(config)
        self._dtype, self._trusted = loaded_dtype(lora.dtype, device), trust_remote_code
        # Only this one keeps [queries × keys]; of the others none runs without a device.
        self._attention = "eager" if lora.attention == "eager" else None
        self._roles: dict[tuple[int, Role, bool], Roles] = {}

    def footprint(
        self,
        batch: Batch[Any],
        needs: Needs,
        *,
        roles: Sequence[Role] | None = None,
        checkpointing: bool = False,
        bf16: bool = False,
        optim: str = "adamw_torch_fused",
    ) -> Footprint:
        """Return what training takes whose largest micro-batch is this one.

        Args:
            batch: on the CPU, without reference log-probabilities where their role scores.
            needs: of the method.
            roles: that have an adapter; by default those that the method names, the bare reference left out.
            checkpointing: whether activations are computed twice.
            bf16: whether passes are autocast to bfloat16.
            optim: the optimiser, as transformers calls it.
        """
        named = dict.fromkeys((*needs.trains, *needs.scores, *needs.rollout))
        present = tuple(role for role in named if role != "reference") if roles is None else tuple(roles)
        learning = sum(self.adapter(role) for role in needs.trains)
        living = self.passes(batch, needs.trains, checkpointing=checkpointing, bf16=bf16)
        passes = self.held(living, len(needs.trains), recomputed=checkpointing)
        adapters = sum(self.adapter(role) for role in present)
        return Footprint(self.base, adapters, learning, learning * MOMENTS.get(optim, ADAM) // 4, passes)

    @property
    def exact(self) -> bool:
        """Whether the base is kept in float32."""
        return self._dtype is torch.float32

    @property
    def _few(self) -> tuple[int, int]:
        """Layers of the models that passes are made through."""
        layers = self.config.get_text_config().num_hidden_layers
        return FEW if layers > FEW[1] else (layers, layers)

    @cached_property
    def model(self) -> Any:
        """The whole model, on the meta device."""
        return self._weightless()

    def _weightless(self) -> Any:
        config = copy.deepcopy(self.config)
        return weightless_model(config, self._dtype, trust_remote_code=self._trusted, attention=self._attention)

    @property
    def base(self) -> int:
        """Bytes of the base's weights."""
        return self.base_in(self.load_in)

    def base_in(self, load_in: LoadIn) -> int:
        """Return the bytes of the base's weights, its linear layers kept in so many bits."""
        whole = _bytes({id(x): x for x in (*self.model.parameters(), *self.model.buffers())}.values())
        if load_in not in STORED:
            return whole
        numbers = sum(weight.numel() for weight in self._linear)
        return whole - _bytes(self._linear) + int(STORED[load_in] * numbers)

    @cached_property
    def _linear(self) -> list[Tensor]:
        """The weights that can be kept in bits: of linear layers, but for the output head."""
        return [m.weight for m in self.model.base_model.modules() if isinstance(m, nn.Linear)]

    @property
    def _restored(self) -> int:
        """Bytes of the largest weight that is kept in bits: one at a time is made numbers again."""
        return max(map(_one, self._linear), default=0) if self.load_in in STORED else 0

    def adapter(self, role: Role) -> int:
        """Bytes of a role's adapter and head; 0 for none."""
        few, more = (_bytes(self._with(layers, role).parameters_of(role)) for layers in self._few)
        return self._of_all(few, more)

    def passes(
        self, batch: Batch[Any], roles: Sequence[Role], *, checkpointing: bool = False, bf16: bool = False
    ) -> int:
        """Return the most bytes that one pass of some roles, each in turn, keeps, there and back."""
        peaks = []
        for role in roles:
            few, more = (_pass(self._with(layers, role, checkpointing), batch, role, bf16) for layers in self._few)
            peaks.append(self._of_all(few, more))
        return max(peaks, default=0) + self._restored

    def held(self, living: int, learning: int = 1, *, recomputed: bool = False) -> int:
        """Return the bytes that the device holds for so many that live at once in a pass.

        Args:
            living: bytes.
            learning: roles that learn.
            recomputed: whether activations are.
        """
        first, further = OVERHEAD.get(self.device, (0.0, 0.0))
        share = GIVEN_BACK.get(self.device, 0.0) if recomputed else first + further * (learning - 1)
        return int(living * (1 + share))

    def sampling(self, prompts: int, size: int, prompt: int, response: int) -> int:
        """Return the most bytes that drawing responses takes beside the weights: their fold, the cache, the logits.

        Args:
            prompts: drawn for together.
            size: responses to each.
            prompt: tokens of the longest.
            response: the limit of a response.
        """
        found = [decoding(self._with(n, "policy"), prompts, size, prompt, max(2, response)) for n in self._few]
        return max(self._of_all(few, more) for few, more in zip(*found, strict=True)) + self._restored

    def weights(self, role: Role) -> Weights:
        """Return how many weights a role's adapter has, and how many of these asked-for tokens alone go through."""
        few, more = (self._with(layers, role).adapter_size(role) for layers in self._few)
        return Weights(self._of_all(few.all, more.all), more.late)

    @property
    def path(self) -> Path:
        """The path that scoring takes."""
        return self._with(self._few[0], "policy").scorer.path(uniform(1, 1, 1))

    def _with(self, layers: int, role: Role, checkpointing: bool = False) -> Roles:
        """Return a role that learns on few layers."""
        if (layers, role, checkpointing) not in self._roles:
            model = self._weightless()
            cut(model, layers)
            roles = weightless_roles(model, self.lora, (role,))
            roles.learn((role,))
            roles.checkpoint_activations(checkpointing)
            self._roles[layers, role, checkpointing] = roles
        return self._roles[layers, role, checkpointing]

    def _of_all(self, few: int, more: int) -> int:
        return few + (more - few) * (self.config.get_text_config().num_hidden_layers - self._few[0])


def _pass(roles: Roles, batch: Batch[Any], role: Role, bf16: bool) -> int:
    """Return the most bytes that a pass keeps, there and back; gradients, which are counted apart, are there before."""
    roles.autocast = bf16
    for parameter in roles.parameters_of(role):
        parameter.grad = torch.empty_like(parameter)
    with LiveBytes() as live:
        found = roles(batch, (role,)).of(role)
        assert found is not None
        found.sum().backward()
    return live.peak


def sketched(name: str, lora: LoraSettings, *, trust_remote_code: bool = False) -> Sketch:
    """Return the sketch of a model by its config alone, on the device that it would be loaded to.

    Raises:
        UserError: if the config cannot be read, or the library knows no such model.
    """
    from transformers import AutoConfig

    folder = pathlib.Path(name).expanduser()
    try:
        config = AutoConfig.from_pretrained(
            str(folder) if folder.is_dir() else name, trust_remote_code=trust_remote_code
        )
        found = Sketch(config, lora, default_device(), trust_remote_code=trust_remote_code)
        found.weights("policy")
    except (OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"model {name!r} cannot be planned with: {error}") from None
    return found


def kept_in(config: Any) -> LoadIn:
    """Return in how many bits a model's own files hold its linear layers."""
    own = vars(config).get("quantization_config") or {}
    said = own if isinstance(own, dict) else own.to_dict()
    return "4bit" if said.get("load_in_4bit") else "8bit" if said.get("load_in_8bit") else "none"


def uniform(rows: int, prompt: int, response: int, k: int = 1) -> Batch[Any]:
    """Return a batch of so many prompts, all of one length, with k responses to each."""
    return collate([EncodedGroup([1] * prompt, [[1] * response] * k, row) for row in range(rows)], 0)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(map(_one, tensors))


def _one(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def free_memory(device: str) -> int | None:
    """Return the bytes that are free where models go; None where nobody says.

    On the CPU that is what the machine has, or what the control group leaves, if less.
    """
    if device != "cpu":
        free, _ = torch.cuda.mem_get_info()
        return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    limits = [_available(), _group_left()]
    return min((limit for limit in limits if limit is not None), default=None)


def _available() -> int | None:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _group_left(group: pathlib.Path = pathlib.Path("/sys/fs/cgroup")) -> int | None:
    try:
        left = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        # Files that were read lately count as taken, and are given up for whoever asks.
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return left + int(kept.get("inactive_file", 0))
    except (OSError, ValueError):  # another system, or "max": no limit
        return None


def resident_memory(device: str) -> int:
    """Return the bytes that the process has before a model is loaded; 0 where tensors alone are counted."""
    if device != "cpu":
        return 0
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
    except (OSError, StopIteration):
        return 0
