"""Methods, built from sections of settings in layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from preflab.errors import UserError, near_misses
from preflab.method import registry
from preflab.method.configured import Method, config_classes, label, make_method
from preflab.method.contract import Responses

KINDS: tuple[str, ...] = get_args(Responses)


class Layers:
    """Sections of settings, later layers winning. A section is of a method, or of a kind of methods.

    Args:
        sections: ``{section: {field: value}}`` of each layer.
        max_steps: optimiser steps of every method, unless its own are fewer.
    """

    def __init__(self, sections: Sequence[Mapping[str, Mapping[str, Any]]], max_steps: int | None = None) -> None:
        self.sections, self.max_steps = list(sections), max_steps

    def check(self, names: Sequence[str]) -> None:
        """Refuse a section that no chosen method reads, and a field of a kind's section that none of them has.

        Args:
            names: the chosen methods; the registered ones are known besides.

        Raises:
            UserError: with near misses.
        """
        known = {*KINDS, *registry.registered(), *names, *map(label, names)}
        algorithms = registry.load_all(dict.fromkeys(names))
        fields = {kind: {f for a in algorithms if kind_of(a) == kind for f in _fields(a)} for kind in KINDS}
        for section, values in ((section, values) for layer in self.sections for section, values in layer.items()):
            if section not in known:
                raise UserError(f"unknown section {section!r}{near_misses(section, known)}")
            for field in values:
                if section in KINDS and field not in fields[section]:
                    raise UserError(f"{section}: unknown field {field!r}{near_misses(field, fields[section])}")

    def method(self, name: str, changed: Mapping[str, Any] | None = None) -> Method:
        """Build a method, layer by layer, from the section of its kind, then from its own, then as `changed`.

        The kind of a policy's method is where its responses come from; of that section it takes the fields
        that it has. Its own section may go by the class's name where the method is a place.

        Raises:
            UserError: for an unknown method or anything in its settings that could not finish.
        """
        algorithm = registry.load(name)
        fields = _fields(algorithm)
        values: dict[str, Any] = {}
        for layer in self.sections:
            given = {k: v for k, v in layer.get(kind_of(algorithm), {}).items() if k in fields}
            given |= {**layer.get(label(name), {}), **layer.get(name, {})}
            if "gradient_accumulation_steps" in given:  # which says anew how large an optimiser step is
                values.pop("train_batch_size", None)
            values |= given
        if self.max_steps is not None and "max_steps" in fields:
            own = make_method(name, values).train.max_steps
            values["max_steps"] = min(self.max_steps, own) if own > 0 else self.max_steps
        return make_method(name, {**values, **(changed or {})})


def kind_of(algorithm: Any) -> str:
    """Return which kind's section a method reads; reward models, which policies are judged by, read none."""
    return str(algorithm.needs.responses) if algorithm.needs.trains[0] == "policy" else ""


def _fields(algorithm: Any) -> set[str]:
    return {field.name for cls in config_classes(algorithm).values() for field in dataclasses.fields(cls)}
