"""A recipe's settings, read in layers and checked before anything heavy starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from eval.settings import EvalConfig
from preflab.errors import UserError, near_misses
from preflab.experiment.opening import open_experiment
from preflab.experiment.settings import RewardSettings, RunConfig
from preflab.method import registry
from preflab.method.configured import Method, label, make_method
from preflab.method.contract import Responses
from preflab.settings.command_line import CommandLine
from preflab.settings.fields import as_dict, merge
from preflab.settings.plain_yaml import read_yaml
from preflab.settings.training import LoraSettings, TrainConfig
from preflab.worlds import WorldConfig

if TYPE_CHECKING:
    from preflab.experiment.experiment import Experiment

CONFIGS = Path(__file__).parent / "configs"
STAGES = ("sft", "reward")
KINDS: tuple[str, ...] = get_args(Responses)


class Session:
    """A recipe's settings, checked to the last field before anything heavy starts.

    Layers, later ones win: a method's own defaults, ``configs/<world>.yaml`` (and ``<world>_quick.yaml``
    with --quick), the user's --config file, the command line.

    Args:
        description: the recipe's docstring.
        extra: config classes of the recipe itself, by title.
        flat: a method whose fields (and those of `TrainConfig`) are options without a prefix.
        preset: values the recipe itself would rather start from; the user's win.
    """

    def __init__(
        self,
        description: str,
        extra: Mapping[str, type] | None = None,
        *,
        flat: str | None = None,
        preset: Mapping[str, Any] | None = None,
        argv: Sequence[str] | None = None,
    ) -> None:
        shared: dict[str, type] = {
            "run": RunConfig,
            "world": WorldConfig,
            "lora": LoraSettings,
            "rewards": RewardSettings,
            "evaluation": EvalConfig,
        }
        own = {"training": TrainConfig, flat: registry.load(flat).Config} if flat else {}
        line = CommandLine(description, {**shared, **(extra or {}), **own}, sections=True)
        values, sections = line.read(argv)
        values = {**(preset or {}), **values}
        method_fields = {name for cls in own.values() for name in cls.__dataclass_fields__}
        kind, quick = self._world(values)
        self.layers = [sections]
        for layer in (f"{kind}_quick", kind)[not quick :]:
            defaults, default_sections = self._layer(line, layer)
            values, self.layers = defaults | values, [default_sections, *self.layers]
        if flat:
            self.layers.append({flat: {k: v for k, v in values.items() if k in method_fields}})
        values = {k: v for k, v in values.items() if k not in method_fields}
        self.configs = merge({**shared, **(extra or {})}, values, "config")
        self.run: RunConfig = self.configs["run"]
        self.world: WorldConfig = self.configs["world"]
        self.lora: LoraSettings = self.configs["lora"]
        self.rewards: RewardSettings = self.configs["rewards"]
        if self.rewards.policy_reward == "gold" and self.world.kind == "real":
            raise UserError("policy_reward gold needs a world with a planted reward; real data have none")
        self.evaluation: EvalConfig = self.configs["evaluation"]
        comparison: Any = self.configs.get("comparison")
        self.max_steps: int | None = comparison.max_steps if comparison else None

    @staticmethod
    def _world(values: Mapping[str, Any]) -> tuple[str, bool]:
        fields = {k: v for k, v in values.items() if k in WorldConfig.__dataclass_fields__}
        world: WorldConfig = merge({"world": WorldConfig}, fields, "config")["world"]
        return world.kind, world.quick

    @staticmethod
    def _layer(line: CommandLine, name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        path = CONFIGS / f"{name}.yaml"
        return line.split(read_yaml(path), str(path)) if path.is_file() else ({}, {})

    def check_sections(self, names: Sequence[str]) -> None:
        """Refuse a section that no chosen method reads, and a field of a kind's section that none of them has.

        Raises:
            UserError: with near misses.
        """
        known = {*KINDS, *registry.registered(), *STAGES, *names, *map(label, names)}
        algorithms = registry.load_all(dict.fromkeys(names))
        fields = {kind: {f for a in algorithms if _kind(a) == kind for f in _fields(a)} for kind in KINDS}
        for section, values in ((section, values) for layer in self.layers for section, values in layer.items()):
            if section not in known:
                raise UserError(f"unknown section {section!r}{near_misses(section, known)}")
            for field in values:
                if section in KINDS and field not in fields[section]:
                    raise UserError(f"{section}: unknown field {field!r}{near_misses(field, fields[section])}")

    def method(self, name: str, changed: Mapping[str, Any] | None = None) -> Method:
        """Build a method, layer by layer, from the section of its kind, then from its own, then as `changed`.

        The kind of a policy's method is where its responses come from; of that section it takes the fields
        that it has. Its own section may go by the class's name where the method is a place.
        """
        algorithm = registry.load(name)
        fields = _fields(algorithm)
        values: dict[str, Any] = {}
        for layer in self.layers:
            values |= {k: v for k, v in layer.get(_kind(algorithm), {}).items() if k in fields}
            values |= {**layer.get(label(name), {}), **layer.get(name, {})}
        if self.max_steps is not None:
            own = make_method(name, values).train.max_steps
            values["max_steps"] = min(self.max_steps, own) if own > 0 else self.max_steps
        return make_method(name, {**values, **(changed or {})})

    def stage_methods(self) -> tuple[Method, Method]:
        """Build the methods that train what comparisons stand on: SFT, and the reward model.

        Raises:
            UserError: for anything in their settings that could not finish.
        """
        reward = self.method(self.rewards.reward_method)
        if reward.needs.trains != ("reward",):
            raise UserError(f"reward_method {reward.name!r} trains no reward model")
        return self.method("sft"), reward

    def open(self, methods: Sequence[Method] = (), *, judged: Sequence[str] = ()) -> Experiment:
        """Open the run folder and the world, as `open_experiment` does; from here on, heavy work."""
        return open_experiment(self.run, self.world, self.lora, methods, judged=judged)

    def as_dict(self) -> dict[str, Any]:
        """Return all settings, for the manifest."""
        return {**{name: as_dict(config) for name, config in self.configs.items()}, "sections": self.layers}


def _kind(algorithm: Any) -> str:
    """Return which kind's section a method reads; reward models, which policies are judged by, read none."""
    return str(algorithm.needs.responses) if algorithm.needs.trains[0] == "policy" else ""


def _fields(algorithm: Any) -> set[str]:
    return {*algorithm.Config.__dataclass_fields__, *TrainConfig.__dataclass_fields__}
