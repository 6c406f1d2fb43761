"""Strings that a terminal would obey, wherever a stranger's text can reach the screen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.faults import kit
from benchmarks.faults.cases import Accepted, Case, Content, Refused, Right, Row, drawn, files, lines, table, words
from benchmarks.faults.endpoints import case as endpoint_case
from benchmarks.faults.endpoints import http
from benchmarks.faults.kit import answer_rows

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


COMPARE = words("compare.py --model kit/model --dataset kit/pairs.jsonl --config kit/tiny.yaml --output out")
EVALUATE = ("evaluate.py", *COMPARE[1:])
TRAIN = ("sft.py", *COMPARE[1:])


def _case(command: tuple[str, ...], *options: str, **content: Content) -> Case:
    """Return a case; the content of files goes by their names with an underscore for the point."""
    return Case("", (*command, *options), ANY, files({name.replace("_", "."): what for name, what in content.items()}))


def _data(rows: list[Row], *options: str, command: tuple[str, ...] = TRAIN) -> Case:
    return _case(command, "--dataset", "d.jsonl", *options, d_jsonl=table(rows))


def _changed(**values: object) -> list[Row]:
    return [{**row, **(values if i in kit.BAD else {})} for i, row in enumerate(kit.text_rows())]


def _config(text: str) -> Case:
    return _case(COMPARE, "--config", "c.yaml", c_yaml=text)


def _template(text: str) -> Case:
    return _case(TRAIN, "--dataset", "kit/chat.jsonl", "--chat-template", "t.jinja", t_jinja=text)


def _answers(*options: str) -> Case:
    return _case(EVALUATE, *options, r_jsonl=lines(answer_rows()))


def _adapter(payload: str) -> Case:
    def make(folder: Path) -> None:
        shutil.copytree(folder / "kit" / "adapter", folder / "mine")
        path = folder / "mine" / "adapter_config.json"
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": payload, "peft_type": payload})
        )

    return Case("", (*EVALUATE, "--models", "a=mine"), ANY, make)


def _model(payload: str) -> Case:
    def make(folder: Path) -> None:
        shutil.copytree(folder / "kit" / "model", folder / "mine")
        path = folder / "mine" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": payload}))

    return Case("", (*TRAIN, "--model", "mine"), ANY, make)


PLACES: dict[str, Callable[[str], Case]] = {
    "a subset's name": lambda p: _data(
        [{**row, "subset": p} for row in kit.text_rows()],
        *words("--models a=kit/adapter --generate false"),
        command=EVALUATE,
    ),
    "a column's name": lambda p: _data([{**row, p: 1} for row in kit.text_rows()]),
    "a label": lambda p: _data([{**row, "label": p} for row in kit.single_rows()], "--bad-rows", "refuse"),
    "a preference": lambda p: _data(_changed(preference=p), "--bad-rows", "refuse"),
    "a role": lambda p: _data([{**row, "prompt": [kit.turn(p, "a")]} for row in kit.message_rows()]),
    "a prompt": lambda p: _data(
        [{**row, "prompt": f"Human: {p} {i}\n\nAssistant:"} for i, row in enumerate(kit.text_rows())]
    ),
    "a config's value": lambda p: _config(f"eval_prompts: {json.dumps(p)}\n"),
    "a config's field": lambda p: _config(f"{json.dumps(p)}: 3\n"),
    "a config's section": lambda p: _config(f"{json.dumps(p)}: {{beta: 1}}\n"),
    "a section's field": lambda p: _config(f"dpo: {{{json.dumps(p)}: 1}}\n"),
    "a YAML error": lambda p: _config(f"a: !<{json.dumps(p)[1:-1]}> b\nc: [{p}\n"),
    "a method's name": lambda p: _case(COMPARE, "--algorithms", p),
    "a method's place": lambda p: _case(COMPARE, "--algorithms", f"{p}.py:Loss"),
    "a data set's name": lambda p: _case(COMPARE, "--dataset", f"./{p}.jsonl"),
    "a model's name": lambda p: _case(COMPARE, "--model", f"./{p}"),
    "a hub model's name": lambda p: _case(COMPARE, "--model", p),
    "an unknown option": lambda p: _case(COMPARE, f"--{p}", "1"),
    "an option's value": lambda p: _case(COMPARE, "--eval-prompts", p),
    "an output": lambda p: _case(COMPARE, "--output", f"kit/pairs.jsonl/{p}"),
    "a run's folder": lambda p: _case(TRAIN, "--output", f"out {p}"),
    "a sweep": lambda p: _case(COMPARE, "--sweep", f"beta={p}"),
    "a template's refusal": lambda p: _template(f"{{{{ raise_exception({p!r}) }}}}"),
    "a template's error": lambda p: _template(f"{{{{ messages[0][{p!r}].a.b }}}}"),
    "a reward's error": lambda p: _case(
        words("dpo.py --model kit/model --reward mine.py:f --output out --cache cache"),
        mine_py=f"def f(prompt, response):\n    raise ValueError({p!r})\n",
    ),
    "a method file's error": lambda p: _case(
        COMPARE, "--algorithms", "mine.py:Mine", mine_py=f"raise ValueError({p!r})\n"
    ),
    "an evaluated name": lambda p: _answers("--models", f"{p}=r.jsonl"),
    "an evaluated file": lambda p: _answers("--models", f"a={p}.jsonl"),
    "a missing prompt": lambda p: _case(
        EVALUATE, "--models", "a=r.jsonl", r_jsonl=lines([{"prompt": p, "response": "It slept."}])
    ),
    "a verdict": lambda p: _case(
        EVALUATE,
        *words("--models a=r.jsonl --judge v.jsonl"),
        r_jsonl=lines(answer_rows()),
        v_jsonl=lines([{"prompt": "a", "first": "b", "second": "c", "verdict": p}]),
    ),
    "a judge's file": lambda p: _answers("--models", "a=r.jsonl", "--judge", f"{p}.jsonl"),
    "an endpoint's error": lambda p: endpoint_case("", http({"error": {"message": p}}, "400 Bad Request"), ANY),
    "an endpoint's page": lambda p: endpoint_case("", http(p.encode(), "500 Internal"), ANY),
    "an adapter's base": _adapter,
    "a model's type": _model,
}
