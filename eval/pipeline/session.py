"""The settings of a run, read in layers and checked to the last field before anything heavy starts."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from eval.settings import EvalConfig
from preflab.errors import UserError
from preflab.experiment.layers import Layers
from preflab.experiment.opening import open_experiment
from preflab.experiment.settings import RewardSettings, RunConfig
from preflab.method import registry
from preflab.method.configured import Method, config_classes
from preflab.settings.command_line import CommandLine, split
from preflab.settings.fields import as_dict, merge
from preflab.settings.plain_yaml import read_yaml
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

if TYPE_CHECKING:
    from preflab.experiment.experiment import Experiment

C = TypeVar("C")
Sections = Mapping[str, Mapping[str, Any]]

EVERY = "every"
DEFAULTS = Path(__file__).parent / "configs"
SHARED: dict[str, type] = {
    "run": RunConfig,
    "world": WorldConfig,
    "lora": LoraSettings,
    "rewards": RewardSettings,
    "evaluation": EvalConfig,
}
"""Whose fields every session takes."""


class Session:
    """The settings of a run.

    Layers, later ones win: a method's own defaults, ``configs/every.yaml``, ``configs/<world>.yaml`` (and
    ``<world>_quick.yaml`` with `quick`), what is given here.

    Args:
        values: fields of `SHARED` and `configs`, by the names that they have as options and in YAML.
        sections: settings of methods, or of a kind of methods: ``{"dpo": {"beta": 0.2}}``.
        configs: more config classes, by title: those of what is to be done (`COMPARE`, `EVALUATE`).

    Attributes:
        layers: builds methods.

    Raises:
        UserError: for an unknown field, a wrong type, a value out of bounds, settings that contradict each other.
        ValueError: if `configs` has a title that `SHARED` has.
    """

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        sections: Sections | None = None,
        configs: Mapping[str, type] | None = None,
    ) -> None:
        if twice := SHARED.keys() & (configs or {}).keys():
            raise ValueError(f"every session has settings called {min(twice)!r}; choose another title")
        classes = {**SHARED, **(configs or {})}
        values, layers = dict(values or {}), [sections or {}]
        for name in _layers_under(values):
            defaults, own = _layer(name, classes)
            values, layers = defaults | values, [own, *layers]
        self.configs = merge(classes, values, "config")
        self.layers = Layers(layers)
        self.run = self.config(RunConfig)
        self.world = self.config(WorldConfig)
        self.lora = self.config(LoraSettings)
        self.rewards = self.config(RewardSettings)
        self.evaluation = self.config(EvalConfig)
        self.rewards.maximised(self.world)

    @classmethod
    def read(
        cls,
        description: str,
        configs: Mapping[str, type] | None = None,
        *,
        flat: str | None = None,
        preset: Mapping[str, Any] | None = None,
        argv: Sequence[str] | None = None,
    ) -> Session:
        """Read a session from the command line: options over the user's ``--config`` file over the layers below.

        Args:
            description: the recipe's docstring.
            configs: as for the class.
            flat: a method whose settings are options without a prefix.
            preset: values that the recipe itself would rather start from; the user's win.
            argv: the options; None: those of the process.

        Raises:
            UserError: as the class does; and for an option or a file that cannot be read.
        """
        settings = config_classes(registry.load(flat)).items() if flat else ()
        own = {"training" if title == "train" else str(flat): config for title, config in settings}
        classes = {**SHARED, **(configs or {}), **own}
        start = {**_layer(EVERY, classes)[0], **(preset or {})}
        values, sections = CommandLine(description, classes, sections=True, defaults=start).read(argv)
        fields = {field.name for config in own.values() for field in dataclasses.fields(config)}
        shared = {name: value for name, value in values.items() if name not in fields}
        session = cls({**(preset or {}), **shared}, sections, configs)
        if flat:
            session.layers.sections.append({flat: {k: v for k, v in values.items() if k in fields}})
        return session

    def config(self, cls: type[C]) -> C:
        """Return the session's config of a class.

        Raises:
            UserError: if the session was made without that class.
        """
        for config in self.configs.values():
            if isinstance(config, cls):
                return config
        raise UserError(f"this session was made without {cls.__name__}; give it that class among its configs")

    def capped(self, max_steps: int | None) -> Session:
        """Return the same session with at most so many optimiser steps in every method; None: no cap."""
        other = copy.copy(self)
        other.layers = Layers(self.layers.sections, max_steps)
        return other

    def method(self, name: str, changed: Mapping[str, Any] | None = None) -> Method:
        """Build a method as `Layers.method` does."""
        return self.layers.method(name, changed)

    def stage_methods(self) -> tuple[Method, Method]:
        """Build the methods that train what others stand on: the policy they start from, and the reward model.

        Raises:
            UserError: for anything in their settings that could not finish.
        """
        start, reward = self.method(self.run.sft_method), self.method(self.rewards.reward_method)
        if reward.needs.trains != ("reward",):
            raise UserError(f"reward_method {reward.name!r} trains no reward model")
        if start.needs.responses != "demonstration":
            raise UserError(f"sft_method {start.name!r} does not learn from demonstrations")
        return start, reward

    def open(self, methods: Sequence[Method] = (), *, judged: Sequence[str] = ()) -> Experiment:
        """Open the run folder and the world, as `open_experiment` does; from here on, heavy work."""
        return open_experiment(self.run, self.world, self.lora, methods, judged=judged)

    @contextmanager
    def opened(self, methods: Sequence[Method] = (), *, judged: Sequence[str] = ()) -> Iterator[Experiment]:
        """Open as `open` does; at the end, whatever it is, the run folder is free for others, this process included."""
        experiment = self.open(methods, judged=judged)
        with closing(experiment.run):
            yield experiment

    def as_dict(self) -> dict[str, Any]:
        """Return all settings, for the manifest."""
        return {**{name: as_dict(config) for name, config in self.configs.items()}, "sections": self.layers.sections}


def _layers_under(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the layers under a session's own values, the highest first."""
    fields = {field.name for field in dataclasses.fields(WorldConfig)}
    given = {name: value for name, value in values.items() if name in fields}
    world: WorldConfig = merge({"world": WorldConfig}, given, "config")["world"]
    return [*([f"{world.kind}_quick"] if world.quick else []), world.kind, EVERY]


def _layer(name: str, classes: Mapping[str, type]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the flat values and the sections of a layer; of what every world starts from, what is asked for here."""
    path = DEFAULTS / f"{name}.yaml"
    content = read_yaml(path) if path.is_file() else {}
    if name == EVERY:
        known = {field.name for cls in classes.values() for field in dataclasses.fields(cls)}
        content = {field: value for field, value in content.items() if field in known}
    return split(content, classes, str(path))
