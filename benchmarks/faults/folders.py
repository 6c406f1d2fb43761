"""Run folders from elsewhere: what they hold is data, whatever it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import CANARY, Case, Right, refused, said, words

DATA = words(
    "--model kit/model --dataset kit/pairs.jsonl --config kit/tiny.yaml --output out --report false --generate false"
)
RECORD = "stage.json"
CODE = f"""import pathlib
pathlib.Path({CANARY!r}).touch()
class Loss: ...
def system(*arguments): ...
"""
Change = Callable[[Path], object]


def stage(run: Path, name: str = "dpo-seed0") -> Path:
    """Return a stage's folder."""
    return next((run / "stages").glob(f"{name}-????????????"))


def inputs(**values: Any) -> Change:
    """Return what changes inputs in a stage's record."""

    def change(run: Path) -> None:
        path = stage(run) / RECORD
        found = json.loads(path.read_text())
        found["inputs"] |= values
        path.write_text(json.dumps(found))

    return change


def write(name: str, content: bytes | str, where: str = "dpo-seed0") -> Change:
    """Return what replaces a file of a stage."""
    return lambda run: (stage(run, where) / name).write_bytes(content.encode() if isinstance(content, str) else content)


def case(name: str, change: Change, right: tuple[Right, ...], models: str = "a=foreign", *options: str) -> Case:
    """Return a case in which a changed copy of a run is evaluated, with code that nobody named beside it."""

    def make(folder: Path) -> None:
        others = shutil.ignore_patterns("ppo-*", "eval-ppo-*", "judge-*", "eval-sft-*", "eval-baseline-*")
        shutil.copytree(folder / "kit" / "run", folder / "foreign", symlinks=True, ignore=others)
        (folder / "evil.py").write_text(CODE)
        change(folder / "foreign")

    return Case(f"folders/{name}", ("evaluate.py", "--models", models, *options, *DATA), right, make)


METHODS = (
    "evil.py:Loss",
    "evil:Loss",
    "./evil.py:Loss",
    "foreign/evil.py:Loss",
    "os:system",
    "evil.py:system",
    "evil.py:",
    "no_such_method",
    "",
    "evil\x1b[2J:Loss",
    "a" * 100_000,
)
KEYS = ("../../../kit/sft", "*", "????????????", "**", "[a-z]*", "/etc", "a" * 5000, "\0", "no-such-key", "..", "")
VALUES: dict[str, Any] = {"null": None, "a number": 7, "a list": ["a"], "a mapping": {"a": 1}, "true": True}
RECORDS = {
    "empty": "",
    "cut": '{"inputs": {"met',
    "a list": "[]",
    "null": "null",
    "a number": "7",
    "nested": '{"a":' * 50_000,
    "an enormous integer": '{"inputs": ' + "9" * 5000 + "}",
    "zeros": bytes(100),
    "not UTF-8": b'{"inputs": "\xff"}',
    "without inputs": '{"record": {}}',
    "inputs as list": '{"inputs": [], "record": {}}',
    "inputs as text": '{"inputs": "a", "record": {}}',
    "twenty megabytes": '{"inputs": {"a": "' + "a" * 20_000_000 + '"}, "record": {}}',
}


def cases(seed: int) -> Iterator[Case]:
    """Yield every run folder that is not to be believed."""
    named = (*said("import|registered|stage.json"), *refused("foreign|import|stage.json"))
    started = (*said("stage", "sft|reward|start|reference"), *refused("foreign|stage.json"))
    for name in METHODS:
        yield case(f"method/{ascii(name)[:30]}", inputs(method=name), named)
    for what, value in VALUES.items():
        yield case(f"method is {what}", inputs(method=value), named)
        yield case(f"config is {what}", inputs(config=value), named)
        for role in ("sft", "reward"):
            yield case(f"{role} is {what}", inputs(**{role: value}), (*said(), *started) if value is None else started)
    for what, config in {
        "an unknown field": {"bta": 1},
        "a wrong type": {"beta": "high"},
        "NaN": {"beta": float("nan")},
        "a value out of bounds": {"beta": -1},
        "a list": [1],
    }.items():
        yield case(f"config with {what}", inputs(config=config), (*named, *said()))
    for key in KEYS:
        for role in ("sft", "reward"):
            yield case(
                f"{role} key/{ascii(key)[:30]}", inputs(**{role: key}), (*said(), *started) if not key else started
            )
    for what, content in RECORDS.items():
        for models in ("a=foreign", "a=foreign/stages/dpo-seed0"):
            yield record_case(what, content, models)
    for what, change in {
        "a folder as record": lambda run: ((stage(run) / RECORD).unlink(), (stage(run) / RECORD).mkdir()),
        "a loop as record": lambda run: ((stage(run) / RECORD).unlink(), (stage(run) / RECORD).symlink_to(RECORD)),
        "a loop as policy": lambda run: (
            shutil.rmtree(stage(run) / "policy"),
            (stage(run) / "policy").symlink_to("policy"),
        ),
        "a file as policy": lambda run: (shutil.rmtree(stage(run) / "policy"), (stage(run) / "policy").write_text("a")),
        "a policy elsewhere": lambda run: (
            shutil.rmtree(stage(run) / "policy"),
            (stage(run) / "policy").symlink_to("/etc"),
        ),
    }.items():
        yield case(what, change, refused("foreign|dpo-seed0"), "a=foreign/stages/dpo-seed0*")
    for what, change in {
        "no stages": lambda run: shutil.rmtree(run / "stages"),
        "empty stages": _emptied,
        "stages that are a file": lambda run: (shutil.rmtree(run / "stages"), (run / "stages").write_text("")),
    }.items():
        yield case(what, change, refused("foreign"))
    yield from samples()


def _emptied(run: Path) -> None:
    shutil.rmtree(run / "stages")
    (run / "stages").mkdir()


def record_case(what: str, content: bytes | str, models: str) -> Case:
    """Return a case with another record, in which the run or its stage is named."""
    right = refused("stage.json|foreign")
    if "/" not in models:
        return case(f"record/{what}, run", write(RECORD, content), (*right, *said("stage.json")), models)
    made = case(f"record/{what}, stage", write(RECORD, content), right)

    def make(folder: Path) -> None:
        made.make(folder)
        stage(folder / "foreign").rename(folder / "mine")

    return Case(made.name, (made.command[0], "--models", "a=mine", *made.command[3:]), refused("mine"), make)


def samples() -> Iterator[Case]:
    """Yield evaluations from elsewhere whose samples are not what they should be."""
    where = "eval-dpo-seed0"
    for what, content in {
        "empty": "",
        "no JSON": "what?",
        "a list": "[1]",
        "numbers": '{"prompt": 1, "response": 2}',
        "nulls": '{"prompt": null, "response": null}',
        "zeros": bytes(100),
        "nested": "[" * 50_000,
        "an enormous integer": '{"prompt": ' + "9" * 5000 + "}",
        "other prompts": '{"prompt": "a", "response": "b"}',
    }.items():
        made = case(f"samples/{what}", write("samples.jsonl", content, where), refused("samples.jsonl"))

        def make(folder: Path, made: Case = made) -> None:
            made.make(folder)
            stage(folder / "foreign", where).rename(folder / "mine")

        yield Case(made.name, (made.command[0], "--models", "a=mine", *made.command[3:]), made.right, make)
