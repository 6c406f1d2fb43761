"""Settings as Python code gives them: keyword arguments, methods as names or classes, data and models as objects."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from preflab.errors import UserError, near_misses
from preflab.errors.terminal import shown
from preflab.eval.pipeline.session import SHARED, Session
from preflab.eval.python.objects import OBJECTS, Later, Loaded, Places, plain
from preflab.experiment.layers import KINDS, Layers
from preflab.experiment.settings import RunConfig
from preflab.method import registry
from preflab.method.configured import config_classes, label
from preflab.method.written import place_of_class
from preflab.progress import afresh
from preflab.settings.fields import merge
from preflab.worlds import WorldConfig

GIVEN = "given"
"""The folder of a run that holds the rows which it was given as objects."""


class Asked(NamedTuple):
    """What a call asks for.

    Attributes:
        call: its name, for messages.
        configs: whose fields it takes, beside `SHARED`.
        values: of these fields; what is an object is a `Later`.
        sections: settings of methods, by the names that these have.
        names: of the methods that are to be trained.
    """

    call: str
    configs: Mapping[str, type]
    values: dict[str, Any]
    sections: dict[str, dict[str, Any]]
    names: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.values.get("output", RunConfig.output)).expanduser()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Return the session, once what settings alone get wrong is said, and objects are written.

        A run folder that was not there before is removed where all ends in a mistake before any stage is begun.

        Raises:
            UserError: as `Session` does; and for an object that cannot be taken.
        """
        afresh()
        later = {name: value for name, value in self.values.items() if isinstance(value, Later)}
        if not later:
            yield Session(self.values, self.sections, self.configs)
            return
        # Writing an object may take long.
        stand_ins = {name: value.stand_in for name, value in later.items()}
        merge({**SHARED, **self.configs}, {**self.values, **stand_ins}, self.call)
        layers = Layers([self.sections])
        layers.check(self.names)
        for name in self.names:
            layers.method(name)
        there = self.folder.exists()
        try:
            written = {name: value.write(self._places()) for name, value in later.items()}
            yield Session({**self.values, **written}, self.sections, self.configs)
        except UserError:
            begun = (self.folder / "stages").is_dir() and any((self.folder / "stages").iterdir())
            if not there and not begun:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _places(self) -> Places:
        cache = Path(self.values.get("cache", RunConfig.cache)).expanduser()
        return Places(self.folder / GIVEN, cache, self.values.get("dataset_split", WorldConfig.dataset_split))


def asked(
    call: str,
    configs: Mapping[str, type],
    settings: Mapping[str, Any],
    *,
    algorithms: Any = (),
    methods: Mapping[Any, Any] | None = None,
    flat: bool = False,
) -> Asked:
    """Read a call's keyword arguments.

    Args:
        call: its name.
        configs: whose fields it takes, beside `SHARED`.
        settings: the arguments; None: not given.
        algorithms: what is to be trained: a method's name or class, or several.
        methods: settings of methods, by name or class.
        flat: whether the settings of the one method stand among the arguments.

    Raises:
        UserError: for a name that there is not, with near misses, and a setting that is given twice.
    """
    names = names_of(algorithms)
    own = _fields(config_classes(registry.load(names[0])).values()) if flat else set()
    known = _fields([*SHARED.values(), *configs.values()])
    spelled = {name.replace("-", "_"): name for name in (*KINDS, *registry.registered(), *names)}
    spelled |= {label(name): name for name in names}
    values: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}

    def put(section: str, given: Mapping[str, Any]) -> None:
        there = sections.setdefault(spelled.get(section, section), {})
        if twice := sorted(there.keys() & given.keys()):
            raise UserError(f"{call}: {twice[0]} of {section} is given twice; keep one")
        there.update({str(name): plain(value) for name, value in given.items()})

    for name, given in (methods or {}).items():
        if not isinstance(given, Mapping):
            raise UserError(f"{call}: methods[{shown(name)}] is {shown(given)}; it must be a dict of settings")
        put(name if isinstance(name, str) else names_of(name)[0], given)
    given_values = {name: value for name, value in settings.items() if value is not None}
    if "tokenizer" in given_values:  # goes with the model
        given_values["model"] = _with_tokenizer(given_values, given_values.pop("tokenizer"))
    for name, value in given_values.items():
        if name in OBJECTS and name in known:
            values[name] = OBJECTS[name](name, plain(value))
        elif isinstance(value, Mapping):
            put(name, value)
        elif name in own:
            put(names[0], {name: value})
        elif name in known:
            if any(cls.__module__.startswith("torch.nn.") for cls in type(value).__mro__):
                todo = "it takes a name or a folder; save it (save_pretrained) and give the folder"
                raise UserError(f"{call}: {name} is a loaded {type(value).__name__}, and {todo}")
            values[name] = plain(value)
        elif name in spelled:
            raise UserError(f"{call}: {name} takes the method's settings as a dict, such as {name}={{'beta': 0.2}}")
        else:
            raise UserError(f"{call}: unknown setting {shown(name)}{near_misses(name, [*known, *own, *spelled])}")
    if "seeds" in values:
        values["seeds"] = seeds_of(values["seeds"], call)
    return Asked(call, configs, values, sections, names)


def names_of(algorithms: Any) -> tuple[str, ...]:
    """Return the names of methods, a class's place being its name.

    Raises:
        UserError: for something else, and a class that has no place.
    """
    if isinstance(algorithms, (str, type)):
        return names_of([algorithms])
    if not isinstance(algorithms, Iterable):
        raise UserError(f"methods are named, or given as classes, and not as {shown(algorithms)}")
    found = []
    for one in algorithms:
        if not isinstance(one, (str, type)):
            raise UserError(f"a method is named, or given as a class, and not as {shown(one)}")
        found.append(place_of_class(one) if isinstance(one, type) else one)
    return tuple(found)


def seeds_of(given: Any, call: str) -> list[Any]:
    """Return training seeds: those that are listed, or the first so many.

    Raises:
        UserError: for a number that is none of seeds.
    """
    if isinstance(given, Integral) and not isinstance(given, bool):
        if given < 1:
            raise UserError(f"{call}: seeds is {given}; give how many, 1 or more, or list them: seeds=[{given}]")
        return list(range(int(given)))
    if isinstance(given, Iterable) and not isinstance(given, str):
        return list(given)
    raise UserError(f"{call}: seeds is {shown(given)}; give how many, or list them: seeds=[0, 1, 2]")


def _with_tokenizer(given: Mapping[str, Any], tokenizer: Any) -> Any:
    model = given.get("model")
    if model is None or isinstance(model, (str, os.PathLike, tuple)):
        raise UserError("tokenizer goes with a model that is loaded; one that is named has its own, so leave it out")
    return Loaded(model, tokenizer)


def _fields(classes: Iterable[type]) -> set[str]:
    return {field.name for cls in classes for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
