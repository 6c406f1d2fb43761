"""Adapters and scalar heads of the roles on one frozen base: added, read, taught, merged, saved and loaded."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast, get_args

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from preflab.errors import UserError
from preflab.method.contract import Role
from preflab.model import adapter_shape
from preflab.model.adapter_config import say_other_base
from preflab.model.adapters import (
    HEAD_KEY,
    OtherAdapterError,
    check_fit,
    get_adapter,
    read_folder,
    set_adapter,
    write_folder,
)
from preflab.model.allocator import give_large_blocks_back
from preflab.model.heads import ScalarHead
from preflab.model.hub_names import hub_model
from preflab.model.work import Weights
from preflab.scoring import sharding
from preflab.scoring.lora import hasten
from preflab.seeds import seeded
from preflab.settings.training import LoraSettings


class RoleAdapters(nn.Module):
    """Named adapters on one base, and the heads of those that are scalar.

    Args:
        model: frozen causal language model, as `load_base` returns it.
        settings: the adapters' shape.
        seed: decides the fresh adapters and heads.
    """

    def __init__(self, model: Any, settings: LoraSettings, *, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.seed = settings, seed
        self.heads = nn.ModuleDict()
        self._reading: tuple[str, bool] = ("policy", False)  # role, and whether a loss trains through it
        self._trunks: dict[str, str] = {}  # roles that read another one's adapter
        self._recomputes = False
        with seeded(seed, "adapter", "policy"):
            try:
                self.peft = get_peft_model(model, adapter_shape.asked_for(settings), adapter_name="policy")
            except ValueError as error:
                raise UserError(f"adapters do not fit the model: {error}") from error
        self._find_layers()

    @property
    def model(self) -> Any:
        """The causal language model inside, adapters included."""
        return self.peft.get_base_model()

    @property
    def device(self) -> torch.device:
        """Where the base lies."""
        device: torch.device = self.model.device
        return device

    def head(self, role: str) -> ScalarHead:
        """Return the scalar head of reward or value."""
        return cast(ScalarHead, self.heads[role])

    def has(self, role: str) -> bool:
        """Whether a role has an adapter of its own."""
        return role in self.peft.peft_config

    @property
    def present(self) -> list[Role]:
        """Roles that have an adapter of their own."""
        return [role for role in get_args(Role) if self.has(role)]

    def add(self, role: str, shape: LoraConfig | None = None) -> None:
        """Give a role a fresh adapter (which changes nothing yet) and, if it needs one, a head.

        Args:
            role: which; an adapter that it has stays, where it is of the shape.
            shape: of the adapter; that of the settings, or whatever it has, if None.

        Raises:
            ValueError: if the shape names layers that the base does not have.
        """
        if shape is not None or not self.has(role):
            wanted = shape or adapter_shape.asked_for(self.settings)
            wanted = adapter_shape.without_head(wanted) if _scalar(role) else wanted
            if self.has(role) and not adapter_shape.same(self.peft.peft_config[role], wanted):
                self._take_off(role)
            if not self.has(role):
                with seeded(self.seed, "adapter", role):
                    self.peft.add_adapter(role, wanted)
                self._find_layers()
        self._add_head(role)

    def _take_off(self, role: str) -> None:
        with warnings.catch_warnings():
            # Which adapter the library takes for active instead means nothing: `active` says which is read.
            warnings.simplefilter("ignore")
            self.peft.delete_adapter(role)

    def shape(self, role: str) -> LoraConfig:
        """Return the shape of the adapter that a role reads."""
        found: LoraConfig = self.peft.peft_config[self._trunks.get(role, role)]
        return found

    @property
    def rank(self) -> int:
        """The largest rank of any adapter that is on the base."""
        return max((rank for layer in self._layers for rank in layer.r.values()), default=self.settings.lora_rank)

    def _find_layers(self) -> None:
        self._layers = [m for m in self.peft.modules() if isinstance(m, LoraLayer)]
        self._sizes: dict[str, Weights] = {}
        hasten(self._layers)
        for layer in self._layers:
            for dropout in layer.lora_dropout.values():
                dropout.p = 0.0  # until a loss trains through it (`active`)

    def _add_head(self, role: str) -> None:
        if _scalar(role) and role not in self.heads:
            with seeded(self.seed, "head", role):
                width = self.model.config.get_text_config().hidden_size
                self.heads[role] = ScalarHead(width).to(self.device)

    def join_value(self) -> None:
        """Make the value a head on the policy's adapter; it starts as the reward's head, where there is one."""
        self._trunks["value"] = "policy"
        self._add_head("value")
        if "reward" in self.heads:
            self.heads["value"].load_state_dict(self.heads["reward"].state_dict())

    def learn(self, roles: Sequence[Role]) -> list[nn.Parameter]:
        """Let exactly these roles' adapters and heads learn; return their parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self._learning = frozenset(roles)
        chosen = [p for role in roles for p in self.parameters_of(role)]
        for parameter in chosen:
            parameter.requires_grad_(True)
        return chosen

    def parameters_of(self, role: str) -> list[nn.Parameter]:
        """Return the parameters that belong to one role alone."""
        # The adapter's name stands after "lora_A": a base's own module may be called "value" too.
        names = {n: p for n, p in self.peft.named_parameters() if "lora_" in n}
        own = [p for n, p in names.items() if f".{role}." in n.rpartition("lora_")[2] + "."]
        return own + (list(self.heads[role].parameters()) if role in self.heads else [])

    @contextmanager
    def active(self, role: str, *, trained: bool = False) -> Iterator[None]:
        """Run the base with the adapter that one role reads, and no other.

        PEFT's own `set_adapter` also flips ``requires_grad``, which must not happen between two
        forward passes of one loss; this only says which adapter is read.

        Args:
            role: which.
            trained: whether this is a pass that a loss trains through; in no other is there dropout.
        """
        name, rate = self._trunks.get(role, role), self.settings.lora_dropout if trained else 0.0
        before, self._reading = self._reading, (role, trained)
        names = [layer._active_adapter for layer in self._layers]
        dropouts = [layer.lora_dropout[name] for layer in self._layers if rate and name in layer.lora_dropout]
        for layer in self._layers:
            layer._active_adapter = [name]
        for dropout in dropouts:
            dropout.p, dropout.training = rate, True
        try:
            yield
        finally:
            self._reading = before
            for layer, name in zip(self._layers, names, strict=True):
                layer._active_adapter = name
            for dropout in dropouts:
                dropout.p = 0.0

    def checkpoint_activations(self, on: bool) -> None:
        """Recompute activations in the backward pass, to save memory.

        The recomputation happens after `active` has ended, so each stretch remembers its role, dropout included
        (whose draws the library repeats).
        """
        self._recomputes = on
        if on:
            give_large_blocks_back()

            def contexts() -> tuple[Any, Any]:
                role, trained = self._reading
                return nullcontext(), self.active(role, trained=trained)

            remember = {"use_reentrant": False, "context_fn": contexts}
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=remember)
            # Those are for checkpoints of the reentrant kind: a gradient of the embeddings that nobody reads.
            self.model.disable_input_require_grads()
            # The library recomputes in train mode only; the base's dropout is off for good (`without_dropout`).
            self.model.train()

    # ---- a base in pieces ------------------------------------------------------------------------

    @property
    def is_sharded(self) -> bool:
        """Whether the base's layers are in pieces on several processes."""
        return any(sharding.is_sharded(module) for module in self.model.modules())

    def shard_base(self) -> None:
        """Leave this process its share of the base's layers; adapters, heads and embeddings stay whole.

        Raises:
            UserError: for a base that cannot be cut so.
        """
        try:
            sharding.shard(self.model.base_model)
        except NotImplementedError as error:
            raise UserError(f"--shard-base: {error}; leave it out, or lower per_device_train_batch_size") from None

    def gather_base(self) -> None:
        """Have the base whole again, for good; all processes do it together."""
        sharding.gather(self.model)

    def whole(self) -> AbstractContextManager[None]:
        """Have the base whole in a block, for passes that differ from process to process; all enter it together."""
        return sharding.whole(self.model)

    @contextmanager
    def merged(self, role: Role) -> Iterator[None]:
        """Run the base with one role's adapter folded into its weights, for fast sampling.

        The base's own weight tensors are set aside and put back untouched, so that nothing drifts.
        In half precision, and on quantised layers, the fold would round: the adapter stays beside. So it
        does on an output head that is tied to the input embeddings, which would change with it, and where it
        is more than two matrices (DoRA, biases).
        """
        layers = [layer for layer in self._layers if role in layer.lora_A or role in layer.lora_embedding_A]
        weights = [getattr(layer.get_base_layer(), "weight", None) for layer in layers]
        embeddings = self.model.get_input_embeddings().weight
        exact = all(
            w is not None and w is not embeddings and w.dtype in (torch.float32, torch.float64) for w in weights
        ) and not any(role in layer.lora_variant or layer.lora_bias.get(role) for layer in layers)
        if not exact:
            with self.active(role):
                yield
            return
        kept = [layer.get_base_layer().weight.data for layer in layers]
        active = [layer._active_adapter for layer in self._layers]
        try:
            for layer, weight in zip(layers, kept, strict=True):
                layer.get_base_layer().weight.data = weight + layer.get_delta_weight(role).to(weight.dtype)
            for layer in self._layers:
                layer._active_adapter = []
            yield
        finally:
            for layer, weight in zip(layers, kept, strict=True):
                layer.get_base_layer().weight.data = weight
            for layer, name in zip(self._layers, active, strict=True):
                layer._active_adapter = name

    # ---- weights and folders ---------------------------------------------------------------------

    def state(self, role: str) -> dict[str, Tensor]:
        """Return a role's weights, not copied, under the names they have in its folder."""
        state = get_adapter(self.peft, self._trunks.get(role, role))
        return {**state, HEAD_KEY: self.head(role).linear.weight} if role in self.heads else state

    def set_state(self, role: str, state: Mapping[str, Tensor]) -> None:
        """Copy weights, named as by `state`, into a role.

        Raises:
            ValueError: if names or shapes are not exactly the role's.
        """
        check_fit(state, self.state(role))
        set_adapter(
            self.peft,
            self._trunks.get(role, role),
            {name: tensor for name, tensor in state.items() if name != HEAD_KEY},
        )
        if role in self.heads:
            with torch.no_grad():
                self.head(role).linear.weight.copy_(state[HEAD_KEY])

    def clone(self, source: str, target: str) -> None:
        """Make `target` an independent copy of `source`: adapter, and head where both have one."""
        self.add(target, self.shape(source))
        given = self.state(source)
        self.set_state(target, {name: given.get(name, tensor) for name, tensor in self.state(target).items()})
        if source in self.heads and target in self.heads:
            self.heads[target].load_state_dict(self.heads[source].state_dict())

    def save(self, role: str, folder: Path) -> None:
        """Write a role as a standard PEFT folder.

        `PeftModel.from_pretrained` opens policies; reward and value open through
        `AutoModelForSequenceClassification` with one label, and give ``w·h``, before the
        normalisation that lies beside them in ``normalisation.json``.
        """
        config = copy.deepcopy(self.shape(role))
        name = self.model.config._name_or_path
        config.base_model_name_or_path, config.revision = hub_model(name) or (name, None)
        config.inference_mode = True
        normalisation = {}
        if role in self.heads:
            config.task_type, config.modules_to_save = "SEQ_CLS", ["score"]
            normalisation = {"mean": float(self.head(role).mean), "std": float(self.head(role).std)}
        write_folder(folder, config, self.state(role), normalisation)

    def start(self, role: str, folder: Path) -> None:
        """Load a role from a PEFT folder, as `save` or PEFT itself wrote it, in the shape that it says it has.

        Raises:
            OtherAdapterError: if it is whole, but does not fit this base, or is more than LoRA.
            UserError: if a file of it is missing, damaged or something else.
        """
        folder = folder.resolve()
        state, config, normalisation = read_folder(folder)
        say_other_base(folder, config.get("base_model_name_or_path"), self.model.config._name_or_path)
        if HEAD_KEY in state and not _scalar(role):
            raise UserError(f"{folder} is a reward or value model: it has a score head, and a {role} has none")
        if HEAD_KEY not in state and _scalar(role):
            raise UserError(f"{folder} is no reward or value model: it has no score head")
        try:
            if role not in self._trunks:
                self.add(role, adapter_shape.said_by(config, self.settings))
            self.set_state(role, state)
        except ValueError as error:
            raise OtherAdapterError(f"adapter {folder} does not fit this base: {error}") from None
        if role in self.heads:
            # What another folder said before is not this one's.
            self.head(role).mean.fill_(normalisation.get("mean", 0.0))
            self.head(role).std.fill_(normalisation.get("std", 1.0))

    @torch.no_grad()
    def blend(self, source: Role, target: Role, share: float) -> None:
        """Move `target`'s matrices a share of the way to `source`'s; 1 copies them."""
        mine, theirs = self.state(target), self.state(source)
        self.set_state(target, {name: tensor.lerp(theirs[name], share) for name, tensor in mine.items()})


def _scalar(role: str) -> bool:
    """Whether an adapter bears a scalar head; an ensemble's are called reward, reward_2 and so on."""
    return role.startswith(("reward", "value"))
