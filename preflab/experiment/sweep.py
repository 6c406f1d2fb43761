"""``--sweep``: every method at several values of one setting, for the frontier of reward against KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from preflab.errors import UserError, near_misses
from preflab.errors.terminal import shown
from preflab.method.configured import Method
from preflab.settings.plain_yaml import read_value

STRENGTH = ("beta", "kl_coefficient")
"""What a nat of KL to the reference costs: pairwise methods call it β, methods that sample its coefficient.

One price in two units. β is in log-odds of preference, the coefficient in units of the reward that is maximised, and a
reward model's scores are divided by their deviation σ over the start's answers: a coefficient c has the optimum of
β = c σ. σ is known only when the reward model is trained, and is another one for each seed's, so that values of a sweep
are taken as they stand, and `not_one_objective` says what they are.
"""


class Sweep(NamedTuple):
    """One setting and its values.

    Attributes:
        field: a field of the methods' configs; either name of `STRENGTH` stands for both.
        values: as YAML reads them; the configs check them.
    """

    field: str
    values: tuple[Any, ...]

    @classmethod
    def parse(cls, text: str) -> Sweep:
        """Read ``field=value,value,…``.

        Raises:
            UserError: if it has another form, or a value stands there twice.
        """
        field, equals, values = text.partition("=")
        parts = [part.strip() for part in values.split(",")]
        if not (equals and field.strip() and all(parts)):
            raise UserError(f"--sweep: {shown(text)} must have the form field=value,value, such as beta=0.05,0.1,0.5")
        if len(set(parts)) < len(parts):
            raise UserError(f"--sweep: {shown(text)} names a value twice, which adds no point")
        refusal = f"--sweep: the values of {shown(text)} cannot be read"
        found = tuple(read_value(part, refusal) for part in parts)
        if len(set(map(repr, found))) < len(found):
            raise UserError(f"--sweep: {shown(text)} names a value twice, in two ways of writing")
        return cls(field.strip().replace("-", "_"), found)

    def check(self, methods: list[Method]) -> None:
        """Refuse a setting that none of the methods has.

        Raises:
            UserError: with near misses.
        """
        if not any(self.settings(method) for method in methods):
            known = {name for method in methods for name in method.settings}
            raise UserError(f"--sweep: no method has a setting {shown(self.field)}{near_misses(self.field, known)}")

    def named(self, methods: Sequence[Method]) -> dict[str, list[str]]:
        """Return the fields that the sweep sets, and of which methods (labels) each."""
        found: dict[str, list[str]] = {}
        for method in methods:
            for name in dict.fromkeys(name for setting in self.settings(method) for name in setting):
                found.setdefault(name, []).append(method.label)
        return found

    def settings(self, method: Method) -> list[dict[str, Any]]:
        """Return the method's settings, one a point; none where it has no such field."""
        fields = method.settings
        names = STRENGTH if self.field in STRENGTH else (self.field,)
        name = next((name for name in names if name in fields), None)
        return [] if name is None else [{name: value} for value in self.values]


def not_one_objective(named: Mapping[str, Sequence[str]]) -> str | None:
    """Return that equal values are not equal objectives, where both names of `STRENGTH` were set; else None.

    Args:
        named: the fields that were set, and the methods of which.
    """
    if not all(named.get(name) for name in STRENGTH):
        return None
    first, second = (f"{name} ({', '.join(named[name])})" for name in STRENGTH)
    return (
        f"{first} and {second} of one value are not one objective: beta prices a nat in log-odds of preference, "
        "kl_coefficient in the reward that is maximised, of which a reward model's has a deviation of 1 over the "
        "start's answers; compare at equal KL, not at equal values"
    )
