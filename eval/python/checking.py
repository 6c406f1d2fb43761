"""`check`: a method held to the contract, before anything is trained with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from preflab.errors import UserError
from preflab.errors.terminal import one_line
from preflab.eval.pipeline.conforming import check as held
from preflab.eval.python.settings import asked, names_of
from preflab.experiment.opening import quiet_imports, quiet_libraries
from preflab.method.configured import label, make_method
from preflab.progress import say


@dataclass(frozen=True, repr=False)
class CheckResult:
    """A method and the contract.

    Attributes:
        method: its name.
        held: how many of the checks that apply to it hold, in words.
        complaints: a line for each that does not.
    """

    method: str
    held: str
    complaints: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return how many checks hold, and what is wrong."""
        return [f"{self.method}: {self.held} checks of the contract hold", *self.complaints]

    def __str__(self) -> str:
        """Return how many checks hold, and what is wrong."""
        return "\n".join(map(one_line, self.lines()))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from preflab.eval.report.notebook import lines_html

        return lines_html(self.lines())


def check(method: str | type, **settings: Any) -> CheckResult:
    """Hold a method to the contract (docs/add_an_algorithm.md), on a model of a few weights.

    Its loss is finite and lowers itself; padding, junk under masks, the order of rows and micro-batches change nothing;
    roles that stand still do; the same seed gives the same weights, after an interruption too.

    Args:
        method: its name or class.
        settings: of the method, in place of its defaults.

    Raises:
        UserError: for a method that there is not, or a class that is none.
    """
    [name] = names_of(method)
    call = asked("check", {}, settings, algorithms=method, flat=True)
    if call.values:
        raise UserError(f"check takes a method's own settings, and {min(call.values)} is none")
    made = make_method(name, call.sections.get(name))
    quiet_imports()
    quiet_libraries()
    found, complaints = held(made)
    result = CheckResult(label(name), found, tuple(complaints))
    say(result.lines()[0])
    return result
