"""Code that a person brings along: held to its contract, and answered for by file and line when it fails."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from preflab.errors import PluginError, UserError, crash, near_misses
from preflab.errors.answering import INTERRUPTS, is_out_of_memory
from preflab.errors.terminal import shown
from preflab.method.contract import (
    Batch,
    DecoderMethod,
    Feedback,
    Loss,
    LossMethod,
    Mean,
    Needs,
    Responses,
    Role,
    TrainerMethod,
    Unit,
)
from preflab.settings.fields import build
from preflab.settings.training import RolloutConfig, TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

KINDS: Mapping[str, type] = {cls.kind: cls for cls in (LossMethod, TrainerMethod, DecoderMethod)}
CALLS = {
    "optimum": ("(batch, scores)", 2),
    "loss": ("(batch, scores)", 2),
    "prepare": ("(rollout)", 1),
    "fit": ("(task)", 1),
    "check_budget": ("(budget)", 1),
    "decode": ("(sampler)", 1),
}
"""What is called of a method, with how many arguments."""


@contextmanager
def blamed(what: str, files: Collection[str] = (), *, end: Callable[[], str] = str) -> Iterator[None]:
    """Turn whatever a person's own code raises, an exit included, into an error that names file and line.

    Ctrl-C, an end of memory and mistakes that are answered already go their way.

    Args:
        what: how the message begins.
        files: where that code is written, if known: the place named is in one of them where it can be.
        end: gives what the message ends with.

    Raises:
        PluginError: for anything else.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if type(error) in INTERRUPTS or (is_out_of_memory(error) and not _raised_in(error, files)):
            raise
        at = crash.at(error, files) or crash.at(error)
        if at is None:  # there is no such module: none of its code ever ran
            raise UserError(f"{what} {crash.described(error)}{end()}") from error
        raise PluginError(f"{what} {crash.described(error)} ({at}){end()}") from error


def _raised_in(error: BaseException, files: Collection[str]) -> bool:
    """Whether the innermost frame of an exception is in some files."""
    return bool(files) and crash.at(error) == crash.at(error, files)


@contextmanager
def answering(algorithm: Any, part: str) -> Iterator[None]:
    """Let a method that a person brought along answer for what it raises in one of its parts.

    In a method of our own the same is a fault of ours, and goes its way.
    """
    cls: Any = type(algorithm)
    brought = brought_files(cls)
    with blamed(f"{cls.__name__}.{part} raised", brought) if brought else nullcontext():
        yield


@cache
def brought_files(cls: type) -> frozenset[str]:
    """Return the files outside this project that a class and its bases are written in."""
    root = Path(__file__).resolve().parents[2]
    ours = tuple(f"{root / package}{os.sep}" for package in ("preflab", "algorithms", "eval"))
    modules = [sys.modules.get(base.__module__) for base in cls.__mro__]
    files = {getattr(module, "__file__", None) for module in modules}
    return frozenset(file for file in files if file and not file.startswith((*ours, sys.base_prefix)))


def written_in(function: Any) -> frozenset[str]:
    """Return the file that a function is written in, where Python can tell."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return frozenset({code.co_filename}) if code is not None else frozenset()


def place_of(thing: Any) -> str:
    """Return ``" (file, line n)"`` of a class or function, or ``""`` where Python cannot tell."""
    try:
        return f" ({inspect.getsourcefile(thing)}, line {inspect.getsourcelines(thing)[1]})"
    except (OSError, TypeError):
        return ""


def check_loss(algorithm: Any, loss: Any, mask: Tensor) -> None:
    """Hold what a method's loss returned to the contract.

    Args:
        algorithm: the method.
        loss: what its loss returned.
        mask: of the items that the loss is averaged over; its shape is the loss's.

    Raises:
        UserError: for the first thing that is wrong, with file and line of the loss.
    """
    import torch

    values, metrics = getattr(loss, "values", None), getattr(loss, "metrics", None)
    unit, metric = algorithm.needs.unit, None
    if isinstance(metrics, Mapping):
        metric = next((name for name, mean in metrics.items() if not isinstance(mean, Mean)), None)
    problem = None
    if not isinstance(loss, Loss) or not isinstance(values, torch.Tensor) or not isinstance(metrics, Mapping):
        problem = (
            f"returned {shown(type(loss).__name__)}; it must be a preflab.Loss of a tensor and a mapping of metrics"
        )
    elif values.shape != mask.shape:
        problem = f"returned shape {tuple(values.shape)}; needs.unit is {unit!r}, so it must be {tuple(mask.shape)}"
    elif not values.is_floating_point():
        problem = f"returned {values.dtype}; it must be a floating-point type"
    elif not values.requires_grad:
        problem = f"returned values that do not depend on the scores of {', '.join(algorithm.needs.trains)}"
    elif metric is not None:
        problem = f"returned the metric {metric!r} as {type(metrics[metric]).__name__}; it must be a preflab.Mean"
    elif undeclared := sorted(set(metrics) - set(algorithm.metrics)):
        hint = near_misses(undeclared[0], algorithm.metrics)
        problem = f"returned the metric {undeclared[0]!r}, which metrics does not declare{hint}"
    if problem:
        raise UserError(f"{type(algorithm).__name__}.loss {problem}{_place_of_part(type(algorithm), 'loss')}")


def _place_of_part(cls: type, part: str) -> str:
    """Return where a class has a part of it from; where it itself is written, if that is a base of ours."""
    function = getattr(cls, part)
    brought = brought_files(cls)
    return place_of(function if not brought or inspect.getsourcefile(function) in brought else cls)


def arguments_of(function: Any, *given: Any) -> str | None:
    """Return what is wrong with a function that is to be called with `given`; None if nothing is."""
    if not callable(function):
        return f"is no function but {shown(function)}"
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return "is async, or yields; it must return its value"
    try:
        inspect.signature(function).bind(*given)
    except TypeError:
        return f"has the arguments {inspect.signature(function)}"
    except ValueError:  # some built-in functions do not tell their arguments; calling them will
        pass
    return None


def check_method(name: str, algorithm: Any) -> None:
    """Hold a class to one of the three kinds of `preflab.method.contract`, as far as can be seen without calling it.

    Raises:
        UserError: for the first thing that is wrong, with file and line of the class.
    """
    if not inspect.isclass(algorithm):
        raise UserError(f"method {name!r} is no class but {shown(algorithm)}; see docs/add_an_algorithm.md")
    cls = cast(Any, algorithm)
    try:
        problem = _lacks(cls) or _problem(name, cls)
        if not problem:
            build(TrainConfig, cls.training, "training")
    except PluginError:
        raise
    except UserError as error:
        problem = f": {error}"
    if problem:  # the place is looked up here alone: that reads the file, and every command checks every method
        raise UserError(f"method {name!r}{place_of(cls)}{problem}; see docs/add_an_algorithm.md")


def _lacks(cls: Any) -> str | None:
    """Return which parts of its kind a class has not, and what it is to inherit for them."""
    found = {name for base in cls.__mro__ for name in vars(base)}
    kind = KINDS.get(str(cls.kind)) if "kind" in found else None
    if kind is None:
        return (
            " lacks kind; inherit preflab.Pairwise, PolicyGradient or LossMethod for a loss, TrainerMethod for a "
            "trainer of its own, DecoderMethod for what trains nothing"
        )
    parts = dict.fromkeys(name for base in kind.__mro__ for name in (*inspect.get_annotations(base), *vars(base)))
    asked = [name for name in parts if name == "__init__" or not (name.startswith("_") or name == "config")]
    abstract = cls.__abstractmethods__ if inspect.isabstract(cls) else ()
    if missing := [name for name in asked if name not in found or name in abstract]:
        return f" lacks {', '.join(missing)}; inherit preflab.{kind.__name__}, and define what has no default there"
    return None


def _problem(name: str, cls: Any) -> str | None:
    with blamed(f"method {name!r}: its Config cannot be made:", end=lambda: place_of(cls)):
        problem = _config_problem(cls.Config)
    problem = problem or _needs_problem(cls) or _call_problem(cls)
    if problem is None and not isinstance(cls.training, Mapping):
        problem = "training is no mapping of settings"
    if problem is None and not isinstance(cls.metrics, Mapping):
        problem = "metrics is no mapping of names to what they mean"
    return problem and f": {problem}"


def _config_problem(config: Any) -> str | None:
    if not (inspect.isclass(config) and dataclasses.is_dataclass(config)):
        return f"Config is {shown(config)}; it must be a dataclass"
    bare = [f.name for f in dataclasses.fields(config) if f.default is f.default_factory is dataclasses.MISSING]
    if bare:
        return f"Config.{bare[0]} has no default; every field needs one"
    typing.get_type_hints(config)
    made = config()
    build(config, {field.name: getattr(made, field.name) for field in dataclasses.fields(config)}, "default of Config")
    return None


def _needs_problem(algorithm: Any) -> str | None:
    needs = algorithm.needs
    if not isinstance(needs, Needs):
        return f"needs is {shown(needs)}; it must be a preflab.Needs"
    for field, value, known in (("responses", needs.responses, Responses), ("unit", needs.unit, Unit)):
        if value not in get_args(known):
            return f"needs.{field} is {shown(value)}; choose one of {', '.join(get_args(known))}"
    for field in ("scores", "trains", "rollout"):
        roles = getattr(needs, field)
        if not isinstance(roles, tuple) or not set(map(str, roles)) <= set(get_args(Role)):
            return f"needs.{field} is {shown(roles)}; it must be a tuple of {', '.join(get_args(Role))}"
    if algorithm.kind != "loss":
        return None
    if not set(needs.trains) & set(needs.scores):
        return f"needs.trains is {shown(needs.trains)}, of which needs.scores has none: the loss could not learn"
    if needs.responses == "sampled" and not issubclass(algorithm.Config, RolloutConfig):
        return "it samples responses, so that its Config must be a preflab.RolloutConfig"
    return None


def _call_problem(cls: Any) -> str | None:
    needs = cls.needs
    if cls.kind == "loss" and (needs.rollout or needs.responses == "sampled") and cls.prepare is LossMethod.prepare:
        return "it defines no prepare(rollout), which is what scores of needs.rollout, and samples, are for"
    for name in sorted(CALLS.keys() & set(dir(cls))):
        form, count = CALLS[name]
        function = getattr(cls, name)
        bound = isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod))
        problem = arguments_of(function, *[None] * (count + (not bound)))
        if problem:
            return f"{name} {problem}; it must be a method {name}{form}"
    return None


def check_prepared(algorithm: Any, prepared: Any) -> Batch:
    """Return what a method's `prepare` returned, if it is a batch whose feedback can be cut with its rows.

    Raises:
        UserError: if it is something else.
    """
    import torch

    problem = None
    if not isinstance(prepared, Batch):
        problem = f"returned {type(prepared).__name__}; it must be a preflab.Batch"
    elif not isinstance(prepared.feedback, Feedback):
        problem = f"returned feedback that is {shown(prepared.feedback)}; it must be a dataclass on preflab.Feedback"
    else:
        count = len(prepared.prompt_ids)
        said = {name: x for name, x in vars(prepared.feedback).items() if x is not None}
        wrong = [name for name, x in said.items() if not isinstance(x, torch.Tensor) or x.shape[:1] != (count,)]
        if wrong:
            problem = f"returned feedback whose {wrong[0]} is no tensor with a first axis of {count} prompts"
    if problem:
        raise UserError(f"{type(algorithm).__name__}.prepare {problem}{place_of(type(algorithm).prepare)}")
    return prepared


def file_exists(path: Path) -> bool:
    """Whether a path names a file; False for what no file system takes as a name."""
    try:
        return path.expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False
