"""Every field of every config: values that it must not take, as option and in YAML."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from benchmarks.faults.cases import CANARY, Case, Content, Right, drawn, files, refused
from benchmarks.faults.kit import TINY

SHARED = {"--model": "kit/model", "--dataset": "kit/pairs.jsonl", "--output": "out", "--algorithms": "dpo"}
SHORT = (
    "threads: 1\nmax_prompt_tokens: 200\nmax_response_tokens: 24\neval_prompts: 8\neval_pairs: 4\noracle_samples: 0\n"
)
TOUCH = f"!!python/object/apply:os.system ['touch {CANARY}']"
NO_BOUND = ("max_steps",)
"""Of these the bound is checked together with another field."""
MAY_BE_EMPTY = ("annotator", "dataset_split", "judge_key_variable")
ENORMOUS = "9" * 5000


class Field(NamedTuple):
    """A setting.

    Attributes:
        name: as in YAML.
        hint: its type, without None.
        optional: whether it may be None.
        minimum: what it may be at least.
        maximum: what it may be at most.
        section: the method whose setting it is; none for those of the recipe.
    """

    name: str
    hint: Any
    optional: bool
    minimum: float | None
    maximum: float | None
    section: str = ""

    @property
    def said(self) -> str:
        """How a message may name it."""
        return f"{self.name}|{self.name.replace('_', '-')}"


def cases(seed: int) -> Iterator[Case]:
    """Yield wrong values of every field: all of its own that are drawn for it."""
    for field in [*shared_fields(), *method_fields()]:
        most = 1 if field.section else 2
        for value in drawn(wrong_options(field), most, f"option {seed} {field.section} {field.name}"):
            yield option_case(field, value)
        for value in drawn(wrong_yaml(field), most, f"yaml {seed} {field.section} {field.name}"):
            yield yaml_case(field, value)


def fields_of(cls: type, section: str = "") -> list[Field]:
    """Return the fields of a config class."""
    hints = typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
        inner = next((a for a in choices if a is not type(None)), hint)
        bounds = field.metadata.get("minimum"), field.metadata.get("maximum")
        found.append(Field(field.name, inner, bool(choices), *bounds, section))
    return found


def shared_fields() -> list[Field]:
    """Return the fields that compare.py and evaluate.py have whatever the method."""
    from preflab.eval.judges.settings import EndpointConfig
    from preflab.eval.pipeline.entries import CompareConfig
    from preflab.eval.pipeline.following import CourseConfig
    from preflab.eval.pipeline.judging import JudgeConfig
    from preflab.eval.settings import EvalConfig
    from preflab.experiment.settings import RewardSettings, RunConfig
    from preflab.settings.training import LoraSettings
    from preflab.worlds import WorldConfig

    classes = (
        RunConfig,
        WorldConfig,
        LoraSettings,
        RewardSettings,
        EvalConfig,
        CompareConfig,
        CourseConfig,
        JudgeConfig,
        EndpointConfig,
    )
    return list({field.name: field for cls in classes for field in fields_of(cls)}.values())


def method_fields() -> list[Field]:
    """Return the fields of every method's own config, and those of the optimiser's loop for one of them."""
    from preflab.method import registry
    from preflab.settings.training import RolloutConfig, TrainConfig

    common = {field.name for field in dataclasses.fields(RolloutConfig)}
    found = fields_of(TrainConfig, "dpo") + fields_of(registry.load("ppo").Config, "ppo")
    for name in registry.registered():
        if name not in ("ppo",):
            found += [f for f in fields_of(registry.load(name).Config, name) if f.name not in common]
    return found


def wrong_options(field: Field) -> list[str]:
    """Return texts that the option must not take."""
    hint, origin = field.hint, get_origin(field.hint)
    if hint is bool:
        return ["maybe", "2", "tru", "0.0"]
    if hint is int:
        return [
            "ten",
            "1.5",
            "nan",
            "inf",
            "1e3",
            "0x10",
            str(10**30),
            str(-(10**30)),
            ENORMOUS,
            "1,2",
            *outside(field, 1),
        ]
    if hint is float:
        return ["high", "nan", "inf", "-inf", "1e400", "0,5", "1.2.3", *outside(field, 0.5)]
    if origin is Literal:
        return ["other", "", str(get_args(hint)[0]) + "x"]
    if origin is tuple and get_args(hint)[0] is int:
        return ["0,x", "0,1.5", "0;1", str(10**30), "-1", ENORMOUS, "0,0"]
    if hint is str and field.name not in MAY_BE_EMPTY:
        return [""]
    return []


def outside(field: Field, by: float) -> list[str]:
    """Return values beyond the bounds, as text."""
    if field.name in NO_BOUND:
        return []
    low = [field.minimum - by] if field.minimum is not None else []
    high = [field.maximum + by] if field.maximum is not None else []
    return [str(int(v) if by == 1 else v) for v in (*low, *high)]


def wrong_yaml(field: Field) -> list[str]:
    """Return YAML values that the field must not take."""
    hint, origin = field.hint, get_origin(field.hint)
    nothing = [] if field.optional else ["null"]
    if hint is bool:
        return ["maybe", "1", "[true]", "{a: true}", "2024-01-01", '"true"', *nothing]
    if hint is int:
        return [
            "ten",
            "1.5",
            ".nan",
            ".inf",
            "true",
            "[1]",
            "{a: 1}",
            "2024-01-01",
            str(10**30),
            ENORMOUS,
            "1:30",
            "'3'",
            *outside(field, 1),
            *nothing,
        ]
    if hint is float:
        return [
            "high",
            ".nan",
            ".inf",
            "-.inf",
            "true",
            "[0.5]",
            "{a: 1}",
            "2024-01-01",
            "2026-13-45",
            str(10**400),
            *outside(field, 0.5),
            *nothing,
        ]
    if origin is Literal:
        return ["other", "1", "[a]", "{a: 1}", "2024-01-01", "true", *nothing]
    if origin is tuple:
        return ["7", "{a: 1}", "[[a]]", "[null]", "[{a: 1}]", "true", "2024-01-01", *nothing]
    if origin is dict:
        return ["7", "[a]", "text", "true"]
    if hint is str:
        # A date is text.
        return ["[a]", "{a: b}", "7", "true", '"a\\0b"', "1.5", *nothing]
    return []


def short(value: str) -> str:
    """Return a value as it can stand in a case's name."""
    return value if len(value) < 40 else f"{value[:8]}… of {len(value)} characters"


def option_case(field: Field, value: str) -> Case:
    """Return the case of a wrong option."""
    option = f"--{field.section}.{field.name}" if field.section else f"--{field.name}"
    name = f"configs/option/{field.section or 'shared'}.{field.name} is {short(value) or 'empty'}"
    parts = f"{field.said}|unknown method ''"
    return Case(name, (*command(field), option.replace("_", "-"), value), refused(parts))


def yaml_case(field: Field, value: str) -> Case:
    """Return the case of a wrong value in a config file; a message names the field, or the line with the value."""
    parts = f"{field.said}|mine.yaml is not readable YAML: line|unknown method"
    name = f"configs/yaml/{field.section or 'shared'}.{field.name} is {short(value)}"
    if field.section:
        return compare(name, f"{SHORT}{field.section}:\n  {field.name}: {value}\n", refused(parts), field)
    return compare(name, f"{without(field.name)}{field.name}: {value}\n", refused(parts), field)


def compare(name: str, text: Content, right: tuple[Right, ...], field: Field | None = None, *more: str) -> Case:
    """Return a case of compare.py with a config file of its own."""
    return Case(name, (*command(field, "mine.yaml"), *more), right, files({"mine.yaml": text}))


def command(field: Field | None = None, config: str = "kit/tiny.yaml") -> tuple[str, ...]:
    """Return a comparison that reads the field, and in which nothing else decides it."""
    chosen = {**SHARED, "--config": config, **(section_options(field) if field else {})}
    if field and not field.section:
        chosen.pop(f"--{field.name}", None)
    return ("compare.py", *(part for pair in chosen.items() for part in pair))


def section_options(field: Field) -> Mapping[str, str]:
    """Return what makes compare.py read a field's section, and end soon if the field is taken."""
    from preflab.method import registry

    if not field.section:
        return {}
    steps = {} if field.name == "max_steps" else {"--max-steps": "1"}
    if field.section in ("sft", "reward"):
        return steps
    if registry.load(field.section).needs.trains == ("reward",):
        return {"--reward-method": field.section, "--algorithms": "ppo", **steps}
    return {"--algorithms": field.section, **steps}


def without(name: str) -> str:
    """Return the short run's settings without one."""
    return "".join(line for line in TINY.splitlines(keepends=True) if not line.startswith(f"{name}:"))
