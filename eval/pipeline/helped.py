"""What a session would use of every setting, for the help of a command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from preflab.experiment.layers import KINDS
from preflab.experiment.opening import VALIDATION
from preflab.method.configured import label
from preflab.settings.fields import as_dict
from preflab.settings.helping import Used
from preflab.settings.training import TrainConfig

if TYPE_CHECKING:
    from preflab.experiment.settings import RewardSettings, RunConfig
    from preflab.method.configured import Method
    from preflab.worlds import WorldConfig

ASKED = ("learning_rate", "per_device_train_batch_size", "num_train_epochs", "beta")
"""What everybody asks of a method."""


class Settings(Protocol):
    """What is read of a session."""

    @property
    def configs(self) -> Mapping[str, Any]:
        """Its configs by title."""

    @property
    def run(self) -> RunConfig:
        """Where it is kept."""

    @property
    def world(self) -> WorldConfig:
        """Which world."""

    @property
    def rewards(self) -> RewardSettings:
        """What policies maximise."""

    def method(self, name: str) -> Method:
        """Build a method."""


S = TypeVar("S", bound=Settings)


def helped(session: S, flat: str | None, trained: Callable[[S, str], Method], stages: bool, note: str = "") -> Used:
    """Return every field as the session would use it, and the settings of its methods.

    Args:
        session: what would run.
        flat: the method whose settings are options without a prefix.
        trained: how the recipe makes a method of the session.
        stages: whether the methods that others stand on are trained too.
        note: what must be said of all this.
    """
    values = {name: value for config in session.configs.values() for name, value in as_dict(config).items()}
    below = (session.run.sft_method, session.rewards.reward_method) if stages else ()
    named = dict.fromkeys((*below, *values.get("algorithms", ()), *([flat] if flat else [])))
    methods = [name for name in named if name and name != "list"]

    def settings(name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        places = {label(method): method for method in methods}
        name = places.get(name, name)
        if name in KINDS:  # whose methods differ
            return {}, {}
        method = trained(session, name)
        return method.settings, _stands_for([method.config, method.train])

    lines = [f"  {name:15} {_headline(session, name, settings(name)[0])}" for name in methods if name != flat]
    own, own_meant = settings(flat) if flat else ({}, {})
    meant = {**_meant(session, methods, values), **own_meant}
    return Used({**values, **own}, meant, methods, settings, lines, note)


def _meant(session: Settings, methods: list[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``auto``, or nothing, stands for in this session."""
    found = _stands_for(session.configs.values())
    looked_at = values.get("tune") or any(session.method(name).train.eval_steps for name in methods)
    if looked_at and session.world.validation_fraction is None:
        found["validation_fraction"] = VALIDATION
    return {**found, "policy_reward": session.rewards.maximised(session.world)}


def _stands_for(configs: Iterable[Any]) -> dict[str, Any]:
    """Return what fields stand for that say so (``means``)."""
    return {
        field.name: getattr(config, field.metadata["means"])
        for config in configs
        for field in dataclasses.fields(config)
        if field.metadata.get("means")
    }


def _headline(session: Settings, name: str, settings: Mapping[str, Any]) -> str:
    """Return the settings of a method that are not its class's defaults, and those that everybody asks for."""
    plain = {**as_dict(type(session.method(name).config)()), **as_dict(TrainConfig())}
    said = {k: v for k, v in settings.items() if k in ASKED or v != plain[k]}
    return ", ".join(f"{k.replace('_', '-')} {v}" for k, v in said.items())
