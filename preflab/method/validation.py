"""A method's class, and what its parts return, held to the contract: what is wrong is said by file and line."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, cast, get_args

from preflab.errors import PluginError, UserError, near_misses
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
from preflab.method.plugins import arguments_of, blamed, brought_files, place_of
from preflab.settings.fields import build
from preflab.settings.policy_gradient import PolicyGradientConfig
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
CALLERS = {
    "score": "prepare",
    "feedback": "prepare",
    "advantages": "prepare",
    "policy_loss": "loss",
    "value_loss": "loss",
    "normalised": "loss",
    "ratio": "loss",
    "surrogate": "loss",
    "optimum_of_loss": "optimum",
    "expected_advantages": "optimum",
}
"""Parts that some policy gradients have, or had, and what calls those: not all of them are every one's."""


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
        wrong = f" is of the kind {shown(cls.kind)}, which there is not" if "kind" in found else " lacks kind"
        return (
            f"{wrong}; inherit preflab.Pairwise, PolicyGradient or LossMethod for a loss, TrainerMethod for a "
            "trainer of its own, DecoderMethod for what trains nothing"
        )
    parts = dict.fromkeys(name for base in kind.__mro__ for name in (*inspect.get_annotations(base), *vars(base)))
    asked = [name for name in parts if name == "__init__" or not (name.startswith("_") or name == "config")]
    abstract = cls.__abstractmethods__ if inspect.isabstract(cls) else frozenset()
    # Python 3.10 forgets that a Protocol's `__init__` is abstract.
    if next(base for base in cls.__mro__ if "__init__" in vars(base)) in kind.__mro__:
        abstract |= {"__init__"}
    missing = [name for name in asked if name not in found or name in abstract]
    missing += sorted(abstract.difference(missing))  # what a base asks for on top of its kind
    if not missing:
        return None
    inherits = "" if kind in cls.__mro__ else f"; inherit preflab.{kind.__name__}, which has a default for most"
    missing.sort(key="__init__".__eq__)  # where it stands among the others differs between versions of Python
    return f" lacks {', '.join(missing)}{inherits}"


def _problem(name: str, cls: Any) -> str | None:
    with blamed(f"method {name!r}: its Config cannot be made:", end=lambda: place_of(cls)):
        problem = _config_problem(cls.Config)
    problem = problem or needs_problem(cls) or _call_problem(cls)
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


def needs_problem(algorithm: Any) -> str | None:
    """Return what is wrong with the ``needs`` of a method, or of its class; None if nothing is."""
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
    if not needs.trains or not set(needs.trains) <= set(needs.scores):
        return (
            f"needs.trains is {shown(needs.trains)} and needs.scores {shown(needs.scores)}: the loss could not learn; "
            "each role that learns must be scored"
        )
    if "reference" in needs.trains:
        return f"needs.trains is {shown(needs.trains)}; the reference stands still"
    if needs.responses == "sampled" and not issubclass(algorithm.Config, RolloutConfig):
        return "it samples responses, so that its Config must be a preflab.RolloutConfig"
    return None


def _call_problem(cls: Any) -> str | None:
    for name in sorted(CALLS.keys() & set(dir(cls))):
        form, count = CALLS[name]
        function = getattr(cls, name)
        bound = isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod))
        problem = arguments_of(function, *[None] * (count + (not bound)))
        if problem:
            return f"{name} {problem}; it must be a method {name}{form}"
    return _idle_part(cls)


def _idle_part(cls: Any) -> str | None:
    """Return what a class defines and nothing would call, or what would be called and is not there."""
    kind = KINDS[cls.kind]
    if others := sorted((CALLS.keys() & set(dir(cls))) - set(dir(kind))):
        owner = next(other for other in KINDS.values() if others[0] in dir(other))
        return (
            f"it defines {others[0]}, a part of a {owner.__name__}; it is a {kind.__name__}, of which nothing calls it"
        )
    if cls.kind != "loss":
        return None
    rollouts, prepares = cls.needs.rollout or cls.needs.responses == "sampled", cls.prepare is not LossMethod.prepare
    if rollouts and not prepares:
        return "it defines no prepare(rollout), which is what scores of needs.rollout, and samples, are for"
    if prepares and not rollouts:
        return "it defines prepare, which is called where needs.rollout names roles, and it names none"
    if isinstance(cls.state, MutableMapping):
        return "state is a dictionary that all runs of the class would share; make it in __init__"
    return _uncalled(cls) if issubclass(cls.Config, PolicyGradientConfig) else None


def _uncalled(cls: Any) -> str | None:
    """Return which part of `CALLERS` a class adds to a base whose own parts know nothing of it."""
    brought = brought_files(cls)
    for part, caller in CALLERS.items():
        places = [place for place, base in enumerate(cls.__mro__) if part in vars(base)]
        calling = next(place for place, base in enumerate(cls.__mro__) if caller in vars(base))
        known = not places or places[-1] >= calling or inspect.getsourcefile(getattr(cls, caller)) in brought
        if not known:
            return f"it defines {part}, which {cls.__mro__[calling].__name__}.{caller} does not call; define {caller}"
    return None


def check_loss(algorithm: Any, loss: Any, mask: Tensor) -> None:
    """Hold what a method's loss returned to the contract.

    Args:
        algorithm: the method.
        loss: what its loss returned.
        mask: of the items that the loss is averaged over; its shape is the loss's.

    Raises:
        UserError: for the first thing that is wrong, with file and line of the loss.
    """
    problem = _loss_problem(algorithm, loss, mask)
    if problem:
        raise UserError(f"{type(algorithm).__name__}.loss {problem}{_place_of_part(type(algorithm), 'loss')}")


def _loss_problem(algorithm: Any, loss: Any, mask: Tensor) -> str | None:
    import torch

    if not isinstance(loss, Loss) or not isinstance(loss.values, torch.Tensor) or not isinstance(loss.metrics, Mapping):
        return f"returned {shown(type(loss).__name__)}; it must be a preflab.Loss of a tensor and a mapping of metrics"
    values, metrics, unit = loss.values, loss.metrics, algorithm.needs.unit
    if values.shape != mask.shape:
        return f"returned shape {tuple(values.shape)}; needs.unit is {unit!r}, so it must be {tuple(mask.shape)}"
    if not values.is_floating_point():
        return f"returned {values.dtype}; it must be a floating-point type"
    if not values.requires_grad:
        return f"returned values that do not depend on the scores of {', '.join(algorithm.needs.trains)}"
    for name, mean in metrics.items():
        if not isinstance(mean, Mean):
            return f"returned the metric {name!r} as {type(mean).__name__}; it must be a preflab.Mean"
    if undeclared := sorted(set(metrics) - set(algorithm.metrics)):
        hint = near_misses(undeclared[0], algorithm.metrics)
        return f"returned the metric {undeclared[0]!r}, which metrics does not declare{hint}"
    return None


def _place_of_part(cls: type, part: str) -> str:
    """Return where a class has a part of it from; where it itself is written, if that is a base of ours."""
    function = getattr(cls, part)
    brought = brought_files(cls)
    return place_of(function if not brought or inspect.getsourcefile(function) in brought else cls)


def check_prepared(algorithm: Any, prepared: Any, count: int) -> Batch:
    """Return what a method's `prepare` returned, if it is a batch whose feedback can be cut with its rows.

    Args:
        algorithm: the method.
        prepared: what its `prepare` returned.
        count: prompts of the rollout that it was given.

    Raises:
        UserError: if it is something else.
    """
    if not isinstance(prepared, Batch):
        problem: str | None = f"returned {type(prepared).__name__}; it must be a preflab.Batch"
    elif not isinstance(prepared.feedback, Feedback):
        problem = f"returned feedback that is {shown(prepared.feedback)}; it must be a dataclass on preflab.Feedback"
    else:
        problem = _batch_problem(prepared, count) or _feedback_problem(prepared)
    if problem:
        raise UserError(f"{type(algorithm).__name__}.prepare {problem}{place_of(type(algorithm).prepare)}")
    return cast(Batch, prepared)


def _batch_problem(batch: Batch, count: int) -> str | None:
    import torch

    if len(batch.prompt_ids) != count:
        return (
            f"returned {len(batch.prompt_ids)} prompts of {count}, on which the number of steps rests; mask out the "
            "responses of those that are not to be learnt from"
        )
    ids, mask = batch.response_ids, batch.response_mask
    if mask.dtype != torch.bool or mask.shape != ids.shape or ids.ndim != 3 or len(ids) != count:
        return f"returned a response_mask of {mask.dtype}, {tuple(mask.shape)}; it must be bool, as response_ids are"
    return None


def _feedback_problem(batch: Batch) -> str | None:
    import torch

    count, width, said = len(batch.prompt_ids), batch.response_ids.shape[-1], batch.feedback.fields()
    if others := sorted(vars(batch.feedback).keys() - said.keys()):
        return f"returned feedback whose {others[0]} is no field that {type(batch.feedback).__name__} is made with"
    for name, x in said.items():
        if x is None:
            continue
        if not isinstance(x, torch.Tensor) or x.shape[:1] != (count,):
            return f"returned feedback whose {name} is no tensor with a first axis of {count} prompts"
        # One of another width would be trimmed like tokens wherever a batch has as many of those.
        if x.ndim == 3 and x.shape[-1] != width:
            return (
                f"returned feedback whose {name} is {tuple(x.shape)}; three axes are those of [B, K, T], with {width} "
                "tokens here; give it two, or four"
            )
    return None
