"""Strings that a terminal would obey, wherever a stranger's text can reach the screen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.faults import kit
from benchmarks.faults.cases import Accepted, Case, Refused, Right, drawn, files, lines, table
from benchmarks.faults.endpoints import http
from benchmarks.faults.endpoints import case as endpoint_case
from benchmarks.faults.responses import rows as answers

PAYLOADS = {
    "clears the screen": "x\x1b[2J\x1b[Hx",
    "sets the title": "x\x1b]0;owned\x07x",
    "hides": "x\x1b[8mx",
    "links": "x\x1b]8;;http://evil.example\x1b\\x",
    "rings": "x\x07x",
    "goes back": "wrong\b\b\b\b\bright",
    "goes to the line's start": "wrong\rright",
    "turns the text": "x\u202egnp.exe",
    "isolates": "x\u2066\u2067x",
    "marks the direction": "x\u200f\u061cx",
    "speaks eight bits": "x\x9b2Jx",
    "deletes": "x\x7f\x7fx",
    "feeds a form": "x\x0c\x0bx",
    "prints Rich's markup": "x[bold red]x[/bold red][link=http://evil.example]y[/link]",
}
ANY: tuple[Right, ...] = (Refused(()), Accepted())
"""What is printed is asked about here, not whether the string is taken."""

MARKUP = "[bold red]"


def cases(seed: int) -> Iterator[Case]:
    """Yield every place with some of the strings."""
    for place, make in PLACES.items():
        for what in drawn(list(PAYLOADS), 4, f"terminal {seed} {place}"):
            made = make(PAYLOADS[what])
            banned = [PAYLOADS[what]] if MARKUP not in PAYLOADS[what] else []
            yield Case(f"terminal/{place}/{what}", made.command, ANY, made.make, tuple(banned), made.environment)


def _data(rows: list[dict[str, object]], *options: str, recipe: tuple[str, ...] = ("sft.py",)) -> Case:
    command = (
        *recipe,
        "--model",
        "kit/model",
        "--config",
        "kit/tiny.yaml",
        "--output",
        "out",
        "--dataset",
        "d.jsonl",
        *options,
    )
    return Case("", command, ANY, files({"d.jsonl": table(rows)}))


def _changed(**values: object) -> list[dict[str, object]]:
    return [{**row, **(values if i in kit.BAD else {})} for i, row in enumerate(kit.text_rows())]


def _config(text: str) -> Case:
    command = (
        "compare.py",
        "--model",
        "kit/model",
        "--dataset",
        "kit/pairs.jsonl",
        "--output",
        "out",
        "--config",
        "c.yaml",
    )
    return Case("", command, ANY, files({"c.yaml": text}))


def _option(*options: str) -> Case:
    command = (
        "compare.py",
        "--model",
        "kit/model",
        "--dataset",
        "kit/pairs.jsonl",
        "--config",
        "kit/tiny.yaml",
        "--output",
        "out",
    )
    return Case("", (*command, *options), ANY)


def _evaluate(content: dict[str, object], *options: str) -> Case:
    command = (
        "evaluate.py",
        "--model",
        "kit/model",
        "--dataset",
        "kit/pairs.jsonl",
        "--config",
        "kit/tiny.yaml",
        "--output",
        "out",
    )
    return Case("", (*command, *options), ANY, files(content))  # type: ignore[arg-type]


def _adapter(payload: str) -> Case:
    def make(folder: Path) -> None:
        shutil.copytree(folder / "kit" / "adapter", folder / "mine")
        path = folder / "mine" / "adapter_config.json"
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": payload, "peft_type": payload})
        )

    return Case("", _evaluate({}, "--models", "a=mine").command, ANY, make)


def _model(payload: str) -> Case:
    def make(folder: Path) -> None:
        shutil.copytree(folder / "kit" / "model", folder / "mine")
        path = folder / "mine" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": payload}))

    return Case("", ("sft.py", "--model", "mine", "--dataset", "kit/pairs.jsonl", "--output", "out"), ANY, make)


PLACES: dict[str, Callable[[str], Case]] = {
    "a subset's name": lambda p: _data(
        [{**row, "subset": p} for row in kit.text_rows()], "--models", "a=kit/adapter", "--generate", "false", recipe=("evaluate.py",)),
    "a column's name": lambda p: _data([{**row, p: 1} for row in kit.text_rows()]),
    "a label": lambda p: _data([{**row, "label": p} for row in kit.single_rows()], "--bad-rows", "refuse"),
    "a preference": lambda p: _data(_changed(preference=p), "--bad-rows", "refuse"),
    "a role": lambda p: _data([{**row, "prompt": [kit.turn(p, "a")]} for row in kit.message_rows()]),
    "a prompt": lambda p: _data([{**row, "prompt": f"Human: {p} {i}\n\nAssistant:"} for i, row in enumerate(kit.text_rows())]),
    "a config's value": lambda p: _config(f"eval_prompts: {json.dumps(p)}\n"),
    "a config's field": lambda p: _config(f"{json.dumps(p)}: 3\n"),
    "a config's section": lambda p: _config(f"{json.dumps(p)}: {{beta: 1}}\n"),
    "a section's field": lambda p: _config(f"dpo: {{{json.dumps(p)}: 1}}\n"),
    "a YAML error": lambda p: _config(f"a: !<{json.dumps(p)[1:-1]}> b\nc: [{p}\n"),
    "a method's name": lambda p: _option("--algorithms", p),
    "a method's place": lambda p: _option("--algorithms", f"{p}.py:Loss"),
    "a data set's name": lambda p: _option("--dataset", f"./{p}.jsonl"),
    "a model's name": lambda p: _option("--model", f"./{p}"),
    "a hub model's name": lambda p: _option("--model", p),
    "an unknown option": lambda p: _option(f"--{p}", "1"),
    "an option's value": lambda p: _option("--eval-prompts", p),
    "an output": lambda p: _option("--output", f"kit/pairs.jsonl/{p}"),
    "a run's folder": lambda p: Case("", ("sft.py", "--model", "kit/model", "--dataset", "kit/pairs.jsonl", "--config", "kit/tiny.yaml",
                                          "--output", f"out {p}"), ANY),
    "a sweep": lambda p: _option("--sweep", f"beta={p}"),
    "a template's refusal": lambda p: Case(
        "", ("sft.py", "--model", "kit/model", "--dataset", "kit/chat.jsonl", "--output", "out", "--chat-template", "t.jinja"), ANY,
        files({"t.jinja": f"{{{{ raise_exception({p!r}) }}}}"})),
    "a template's error": lambda p: Case(
        "", ("sft.py", "--model", "kit/model", "--dataset", "kit/chat.jsonl", "--output", "out", "--chat-template", "t.jinja"), ANY,
        files({"t.jinja": f"{{{{ messages[0][{p!r}].a.b }}}}{{{{ 1 | {'f'} }}}}"})),
    "a reward's error": lambda p: Case(
        "", ("dpo.py", "--model", "kit/model", "--reward", "mine.py:f", "--output", "out", "--cache", "cache"), ANY,
        files({"mine.py": f"def f(prompt, response):\n    raise ValueError({p!r})\n"})),
    "a method file's error": lambda p: Case(
        "", _option("--algorithms", "mine.py:Mine").command, ANY, files({"mine.py": f"raise ValueError({p!r})\n"})),
    "an evaluated name": lambda p: _evaluate({"r.jsonl": lines(answers())}, "--models", f"{p}=r.jsonl"),
    "an evaluated file": lambda p: _evaluate({}, "--models", f"a={p}.jsonl"),
    "a missing prompt": lambda p: _evaluate({"r.jsonl": lines([{"prompt": p, "response": 3}])}, "--models", "a=r.jsonl"),
    "a verdict": lambda p: _evaluate(
        {"r.jsonl": lines(answers()), "v.jsonl": lines([{"prompt": "a", "first": "b", "second": "c", "verdict": p}])},
        "--models", "a=r.jsonl", "--judge", "v.jsonl"),
    "a judge's file": lambda p: _evaluate({"r.jsonl": lines(answers())}, "--models", "a=r.jsonl", "--judge", f"{p}.jsonl"),
    "an endpoint's error": lambda p: endpoint_case("", http({"error": {"message": p}}, "400 Bad Request"), ANY),
    "an endpoint's page": lambda p: endpoint_case("", http(p.encode(), "500 Internal"), ANY),
    "an adapter's base": _adapter,
    "a model's type": _model,
}  # fmt: skip
