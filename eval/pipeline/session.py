"""The settings of a run, read in layers and checked to the last field before anything heavy starts."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from preflab.errors import UserError
from preflab.eval.pipeline.defaults import layers_under
from preflab.eval.pipeline.helped import helped
from preflab.eval.settings import EvalConfig
from preflab.experiment.layers import Layers
from preflab.experiment.opening import nothing_left, open_experiment
from preflab.experiment.sections import MethodSections
from preflab.experiment.settings import RewardSettings, RunConfig
from preflab.method import registry
from preflab.method.configured import Method, config_classes, label
from preflab.progress import listed, say
from preflab.settings.command_line import CommandLine, Given
from preflab.settings.fields import as_dict, build, marked, merge
from preflab.settings.helping import Used
from preflab.settings.speaking import SPEAKING, SpeakingConfig
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

if TYPE_CHECKING:
    from preflab.experiment.experiment import Experiment

logger = logging.getLogger(__name__)

C = TypeVar("C")
Sections = Mapping[str, Mapping[str, Any]]

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

    Layers, later ones win: a method's own defaults, those of ``configs/`` for this world and this size of model (see
    `layers_under`), what is given here.

    Args:
        values: fields of `SHARED` and `configs`, by the names that they have as options and in YAML.
        sections: settings of methods, or of a kind of methods: ``{"dpo": {"beta": 0.2}}``.
        configs: more config classes, by title: those of what is to be done (`COMPARE`, `EVALUATE`).

    Attributes:
        defaults: the layers under what is given here, the highest first.
        layers: builds methods.
        spoken: the sections that options, and not a file, give settings of.
        speaking: how much is said, which decides no result.

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
        values, layers = with_methods_named(values or {}, classes), list[Sections]([named_sections(sections or {})])
        self.defaults = layers_under(values, classes)
        for layer in self.defaults:
            values, layers = {**layer.values, **values}, [layer.sections, *layers]
        self.configs = merge(classes, values, "config")
        self.layers, self.spoken = Layers(layers), frozenset[str]()
        self.run = self.config(RunConfig)
        self.world = self.config(WorldConfig)
        self.lora = self.config(LoraSettings)
        self.rewards = self.config(RewardSettings)
        self.evaluation = self.config(EvalConfig)
        self.speaking = SpeakingConfig()
        self.rewards.maximised(self.world)

    @classmethod
    def read(
        cls,
        description: str,
        configs: Mapping[str, type] | None = None,
        *,
        flat: str | None = None,
        preset: Mapping[str, Any] | None = None,
        often: Mapping[str, Sequence[str]] | None = None,
        trained: Callable[[Session, str], Method] | None = None,
        stages: bool = True,
        argv: Sequence[str] | None = None,
    ) -> Session:
        """Read a session from the command line: options over the user's ``--config`` file over the layers below.

        How much is said goes by these options from here on.

        Args:
            description: the recipe's docstring.
            configs: as for the class.
            flat: a method whose settings are options without a prefix.
            preset: values that the recipe itself would rather start from; the user's win.
            often: as `CommandLine` takes it.
            trained: how the recipe makes a method of a session, for the help; None: as `method` does.
            stages: whether it trains what methods stand on too.
            argv: the options; None: those of the process.

        Raises:
            UserError: as the class does; and for an option or a file that cannot be read.
        """
        settings = config_classes(registry.load(flat)).items() if flat else ()
        own = {"training" if title == "train" else str(flat): config for title, config in settings}
        fields = {field.name for config in own.values() for field in dataclasses.fields(config)}
        spoken = {field.name for field in dataclasses.fields(SpeakingConfig)}

        def made(*given: Given) -> Session:
            parts = [_parted(layer, flat, fields) for layer in given]
            values = {name: value for part in parts for name, value in part.values.items()}
            said = {name: values.pop(name) for name in spoken & values.keys()}
            session = cls({**(preset or {}), **values}, None, configs)
            session.speaking = build(SpeakingConfig, said, "config")
            session.layers.sections += [part.sections for part in parts]
            return session

        def used(*given: Given) -> Used:
            try:
                return helped(made(*given), flat, trained or cls.method, stages)
            except UserError as error:
                note = f"values are those without these options, which cannot be used: {error}"
                return helped(made(), flat, trained or cls.method, stages, note)

        classes = {**SHARED, **(configs or {}), **own, **SPEAKING}
        line = CommandLine(description, classes, sections=MethodSections(), often=often, used=used, flat=flat)
        layers = line.layers(argv)
        session = made(*layers)
        session.spoken = frozenset(layers[1].sections)
        session.speaking.begin()
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

    def given(self, name: str) -> bool:
        """Whether somebody gave settings of a method, over the defaults."""
        own = self.layers.sections[len(self.defaults) :]
        return any(layer.get(section) for layer in own for section in (name, label(name)))

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

    def open(
        self,
        methods: Sequence[Method] = (),
        *,
        judged: Mapping[str, int] | None = None,
        doing: Sequence[str] = (),
        tuned: bool = False,
    ) -> Experiment:
        """Open the run folder and the world, as `open_experiment` does; from here on, heavy work.

        Args:
            methods: what will be trained.
            judged: splits of the world that figures will be means over, each with the fewest rows it takes.
            doing: what this is about, such as methods' names, for the line that says so first of all.
            tuned: whether settings will be chosen on training rows set aside.
        """
        unread = self.unread(methods)
        if spoken := sorted(unread & self.spoken):
            trained = listed([method.label for method in methods]) if methods else "nothing"
            raise UserError(
                f"settings of {listed(spoken)} are given, and what is trained here is {trained}; leave them out, or "
                "name the method too"
            )
        say(self.in_short(doing))
        if unread:
            logger.warning("settings of %s change nothing: nothing here is trained by it", listed(sorted(unread)))
        return open_experiment(self.run, self.world, self.lora, methods, judged=judged, tuned=tuned)

    def joined(self, methods: Sequence[Method] = (), *, tuned: bool = False) -> Experiment:
        """Open the run that another process has opened with these settings, to build stages of it."""
        return open_experiment(self.run, self.world, self.lora, methods, tuned=tuned, joined=True)

    @contextmanager
    def opened(self, methods: Sequence[Method] = (), **asked: Any) -> Iterator[Experiment]:
        """Open as `open` does; at the end, whatever it is, the run folder is free for others, this process included.

        What a mistake ends before a stage is built leaves no folder behind that was not there.
        """
        with nothing_left(Path(self.run.output)):
            experiment = self.open(methods, **asked)
            with closing(experiment.run):
                yield experiment

    def unread(self, methods: Sequence[Method]) -> set[str]:
        """Return the methods that somebody gave settings of, over the defaults, and that are not among these."""
        read = {name for method in methods for name in (method.name, method.label, method.needs.responses)}
        return {name for layer in self.layers.sections[len(self.defaults) :] for name in layer if layer[name]} - read

    def in_short(self, doing: Sequence[str]) -> str:
        """Return in one line what is done, on which model and data, and where it is kept."""
        world = self.world
        source = world.dataset or world.heldout or world.reward
        data = f"{world.kind} world" + (f" of {source}" if source else "")
        model = f"model {world.model}, " if world.model else ""
        return f"{listed(doing) if doing else 'opens'}: {model}{data}, into {self.run.output}"

    def as_dict(self) -> dict[str, Any]:
        """Return all settings, and where those come from that nobody gave, for the manifest."""
        configs = {name: as_dict(config) for name, config in self.configs.items()}
        below = [layer.name for layer in self.defaults]
        return {**configs, "defaults": below, "sections": self.layers.sections}


def with_methods_named(values: Mapping[str, Any], classes: Mapping[str, type]) -> dict[str, Any]:
    """Return values in which methods bear the names that they are registered under, however they were spelt."""
    fields = marked(classes, "methods")

    def named(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(named, value))
        return registry.named(value) if isinstance(value, str) else value

    return {name: named(value) if name in fields else value for name, value in values.items()}


def named_sections(sections: Sections) -> dict[str, dict[str, Any]]:
    """Return sections under the names of methods and kinds, however they were spelt."""
    found: dict[str, dict[str, Any]] = {}
    for name, values in sections.items():
        found.setdefault(MethodSections().named(name), {}).update(values)
    return found


def _parted(given: Given, flat: str | None, fields: Collection[str]) -> Given:
    """Move the flat fields of a recipe's own method to its section.

    Raises:
        UserError: if one stands in both places, with two values.
    """
    given = given._replace(sections=named_sections(given.sections))
    values = {name: value for name, value in given.values.items() if name not in fields}
    own = {name: value for name, value in given.values.items() if name in fields}
    for section in dict.fromkeys((label(flat), flat)) if flat else ():
        for name in own.keys() & given.sections.get(section, {}).keys():
            one, other = own[name], given.sections[section][name]
            if str(one) != str(other):
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {one} and --{section}.{option} is {other}, which are one; keep one")
    return Given(values, {**given.sections, flat: {**given.sections.get(flat, {}), **own}} if flat else given.sections)
