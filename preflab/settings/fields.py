"""Configs: frozen dataclasses that become YAML keys and command-line options.

No torch here: a mistake in a config is answered before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from preflab.errors import UserError, near_misses
from preflab.errors.terminal import shown
from preflab.settings.values import convert, parse_text, within_bounds

C = TypeVar("C")

FEW = 5
"""Fields of a method that the short help shows."""


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    keyed: Literal["always", "changed", "never"] = "always",
    tuned: tuple[float, float] | None = None,
    methods: bool = False,
    means: str = "",
    brief: str = "",
    adds: bool = False,
) -> Any:
    """Declare a config field with its default, help text, (inclusive) numeric bounds and place in keys (`deciding`).

    With `tuned`, ``--tune`` tries it at the configured value times anything between these two, evenly on a log scale.
    With `methods`, its values name methods, however they are spelt. `means` is the property of the config that says
    what ``auto``, or nothing, stands for; `brief` the help in a few words, where its first clause is none. With `adds`,
    the option given again adds to a list; of any other the last counts.
    """
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "keyed": keyed, "tuned": tuned}
    metadata |= {"methods": methods, "means": means, "brief": brief, "adds": adds}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag(name: str, section: str = "") -> str:
    """Return how a field is called on the command line."""
    return f"--{section}{'.' * bool(section)}{name.replace('_', '-')}"


def hints_of(classes: Mapping[str, type]) -> dict[str, Any]:
    """Return the fields of config classes, with their types."""
    return {
        field.name: hints[field.name]
        for cls in classes.values()
        for hints in [typing.get_type_hints(cls)]
        for field in dataclasses.fields(cls)
    }


def marked(classes: Mapping[str, type], mark: Literal["methods", "adds"]) -> set[str]:
    """Return the fields of config classes that are declared so."""
    fields = [field for cls in classes.values() for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return {field.name for field in fields if field.metadata.get(mark)}


def build(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Make a config from plain values, checking names, types and bounds.

    Args:
        cls: a dataclass whose fields were declared with `option`.
        values: field name to value, as read from YAML or given in code.
        where: what to call this config in messages, such as ``"dpo"`` or ``"config.yaml"``.

    Raises:
        UserError: for an unknown field (with near misses), a wrong type or a value out of bounds.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    checked = {}
    for name, value in values.items():
        if name not in fields:
            known = ", ".join(fields)
            raise UserError(f"{where}: unknown field {shown(name)}{near_misses(name, fields)}; known: {known}")
        checked[name] = _checked(value, hints[name], cls, fields[name], f"{where}: {name}")
    try:
        return cls(**checked)
    except (ValueError, RuntimeError) as error:  # RuntimeError: the home of nobody, as in ~nobody/run
        raise UserError(f"{where}: {error}") from None


def _checked(value: Any, hint: Any, cls: type, field: dataclasses.Field[Any], where: str) -> Any:
    given = value if isinstance(value, (list, tuple)) else (value,)
    # An empty name would mean this folder, or nothing at all, and be taken for a choice.
    if field.default != "" and any(isinstance(item, str) and not item.strip() for item in given):
        raise UserError(f"{where} is empty; give a value or leave it out")
    value = convert(value, hint, where)
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            within_bounds(item, _bound(cls, field.name, "minimum"), _bound(cls, field.name, "maximum"), where)
    return value


def search_space(config: Any) -> dict[str, tuple[float, float]]:
    """Return the least and the largest value that ``--tune`` tries of each field it tunes, within the field's bounds.

    A value of 0, which no factor changes, is left as it is.
    """
    found = {}
    for field in dataclasses.fields(config):
        value, factors = getattr(config, field.name), _bound(type(config), field.name, "tuned")
        if factors is not None and value:
            bounds = (_bound(type(config), field.name, side) for side in ("minimum", "maximum"))
            low, high = (value * factor for factor in factors)
            least, most = (
                bound if bound is not None else other for bound, other in zip(bounds, (low, high), strict=True)
            )
            found[field.name] = (max(low, least), min(high, most))
    return found


def often_changed(cls: type) -> list[str]:
    """Return the fields of a method's config that people change: those that ``--tune`` tries, then its own."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    tuned = [field.name for field in fields if _bound(cls, field.name, "tuned")]
    own = [field.name for field in fields if field.name in cls.__annotations__]
    return list(dict.fromkeys([*tuned, *own]))[:FEW]


def _bound(cls: type, name: str, side: str) -> Any:
    """Return a field's bound; a field that a subclass declares anew keeps what it does not say otherwise."""
    declared = (getattr(base, "__dataclass_fields__", {}).get(name) for base in cls.__mro__)
    found = (field.metadata.get(side) for field in declared if field is not None)
    return next((bound for bound in found if bound is not None), None)


def as_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain, JSON-ready values."""
    return {k: _plain(v) for k, v in dataclasses.asdict(config).items()}


def deciding(config: Any) -> dict[str, Any]:
    """Return what of a config decides a result, for the keys of stages.

    A field is in it by what `option` says of ``keyed``: ``always``; ``changed``, where it is not its default, so that
    one added later leaves the keys of those who do not use it; or ``never``, where no result depends on it.
    """
    fields = {field.name: field for field in dataclasses.fields(config)}
    left_out = {
        name
        for name, field in fields.items()
        if (keyed := field.metadata.get("keyed", "always")) == "never"
        or (keyed == "changed" and vars(config)[name] == default_of(field))
    }
    return {name: value for name, value in as_dict(config).items() if name not in left_out}


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return a field's default."""
    factory: Any = field.default_factory
    return field.default if field.default is not dataclasses.MISSING else factory()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def merge(classes: Mapping[str, type], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Share one flat mapping of values out to several configs by field name.

    A name held by several classes goes to each of them, so keep names unique unless they mean the
    same thing.

    Raises:
        UserError: for a name that no class has, and whatever `build` raises.
    """
    known = {f.name for cls in classes.values() for f in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            raise UserError(f"{where}: unknown field {shown(name)}{near_misses(name, known)}")
    return {
        key: build(cls, {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}, where)
        for key, cls in classes.items()
    }


class Text(str):
    """A value from the command line whose type is not yet known."""


def build_section(classes: Mapping[str, type], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Build the configs of one section from values that may still be command-line `Text`."""
    hints = {n: h for cls in classes.values() for n, h in typing.get_type_hints(cls).items()}
    typed = {
        k: parse_text(v, hints[k], f"{where}: {k}") if isinstance(v, Text) and k in hints else v
        for k, v in values.items()
    }
    return merge(classes, typed, where)
