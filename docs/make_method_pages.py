"""Write one page per method, and an index, from what the methods say of themselves.

    python docs/make_method_pages.py                                     docs/methods/, every built-in method
    python docs/make_method_pages.py --methods my-loss --output pages    a method of your own

Everything on a page comes from the code: docstrings (arXiv numbers become links), the fields of ``Config``,
``needs``, ``training``, ``metrics``, and the method's rows of docs/conformance.json, where that exists.
Paragraphs of docstrings that speak of convergence or an optimum stand under a heading of their own.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from preflab.errors.answering import run_recipe
from preflab.method import contract, registry
from preflab.settings.command_line import CommandLine
from preflab.settings.fields import as_dict, merge, option
from preflab.settings.training import TrainConfig

ROOT = Path(__file__).parents[1]
MARK = "<!-- Made by python docs/make_method_pages.py from the code; change that, not this. -->"
ARXIV = re.compile(r"(?<![\d.])\d{4}\.\d{5}(?!\d)")
LIMIT = re.compile(r"converge|optimum", re.IGNORECASE)
TRAINERS = {
    "loss": "preflab's",
    "trainer": "its own (`fit`)",
    "decoder": "none: its samples are what differs (`decode`)",
}
RESPONSES = {
    "demonstration": "one demonstration of each prompt",
    "single": "single responses, each desirable or not",
    "pair": "pairs of the data set, chosen and rejected",
    "ranking": "ranked responses of the data set, two or more a prompt",
    "sampled": "sampled from the policy",
}


@dataclass(frozen=True)
class PagesConfig:
    """What is written where."""

    output: str = option(str(ROOT / "docs" / "methods"), "folder of the pages")
    methods: tuple[str, ...] = option((), "methods, by name or place; default: every built-in one")
    conformance: str = option(str(ROOT / "docs" / "conformance.json"), "rows of the conformance suite")


def main() -> None:
    """Write the pages; a page of a method that is gone goes too."""
    values, _ = CommandLine(__doc__ or "", {"pages": PagesConfig}).read()
    config: PagesConfig = merge({"pages": PagesConfig}, values, "config")["pages"]
    folder, path = Path(config.output), Path(config.conformance)
    rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    written = pages(config.methods or built_in(), rows)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.name not in written and old.read_text(encoding="utf-8").startswith(MARK):
            old.unlink()
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{len(written)} pages written to {folder}")


def built_in() -> list[str]:
    """Return the names of preflab's own methods."""
    return [name for name, point in registry.registered().items() if point.dist and point.dist.name == "preflab"]


def pages(names: Sequence[str], conformance: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the text of each page by file name, the index included."""
    subjects = [Subject(name) for name in names]
    found = {f"{s.name}.md": s.page([r for r in conformance if r["method"] == s.name]) for s in subjects}
    rows = [
        [f"[`{s.name}`]({s.name}.md)", markdown(s.title), f"`{s.needs.responses}`", ", ".join(s.needs.trains), s.known]
        for s in subjects
    ]
    headings = ["method", "what", "responses", "trains", "optimum at default fields"]
    lines = [
        "# Methods",
        "One page each: the loss, where it converges to, its fields and metrics.",
        table(headings, rows),
        "[How to add one](../add_an_algorithm.md).",
    ]
    return {"README.md": joined([MARK, *lines]), **found}


class Subject:
    """A method, with its default config, and what its docstrings say.

    Args:
        name: registered name or ``module:Class``.
    """

    def __init__(self, name: str) -> None:
        self.name, self.algorithm = name, registry.load(name)
        self.method = self.algorithm(self.algorithm.Config())
        self.needs = self.method.needs
        module = sys.modules[self.algorithm.__module__]
        shared = sum(point.value.partition(":")[0] == module.__name__ for point in registry.registered().values()) > 1
        own, told = paragraphs(self.algorithm.__doc__), paragraphs(module.__doc__)
        self.title, self.equation = (own[0], "") if shared else (told[0], own[0])
        self.notes = [*own[1:], *told[1:]]

    @property
    def known(self) -> str:
        """Whether `optimum` gives a policy at the default fields."""
        import torch

        from preflab.method.contract import Batch, Scores

        mask = torch.ones(1, 3, 1, dtype=torch.bool)
        batch = Batch(torch.ones(1, 1).long(), mask[:, 0], torch.arange(3).reshape(1, 3, 1), mask)
        logps = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().reshape(1, 3, 1)
        rewards = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
        return "no" if self.method.optimum(batch, Scores(None, logps, None, rewards)) is None else "known"

    @property
    def lineage(self) -> list[type]:
        """The class and those it extends, or stands for, as far as they say anything of the method."""
        native = self.method.native if self.method.kind == "trainer" else None
        bases = (self.algorithm, *native.__mro__) if native else self.algorithm.__mro__
        return [base for base in bases if base.__module__ not in (contract.__name__, "typing", "builtins")]

    @property
    def limits(self) -> list[str]:
        """What is said of convergence: by the method, else by the nearest base that says something."""
        found = [text for text in self.notes if LIMIT.search(text)]
        for base in self.lineage[1:]:
            told = [*paragraphs(base.__doc__), *paragraphs(sys.modules[base.__module__].__doc__)[1:]]
            found = found or [text for text in told if LIMIT.search(text)]
        for cls in self.lineage:
            told = paragraphs(getattr(vars(cls).get("optimum"), "__doc__", None))
            found += [f"`{cls.__name__}.optimum`: {told[0]}", *told[1:]] if told else []
        return found

    def page(self, conformance: Sequence[Mapping[str, Any]]) -> str:
        """Return the method's page."""
        notes = [text for text in self.notes if not LIMIT.search(text)]
        parts = [MARK, f"# {self.name}", markdown(self.title), block(self.equation), *map(markdown, notes)]
        parts += [self.relatives(), self.place()]
        parts += ["## Needs", self.needed()]
        parts += ["## What it converges to", *map(markdown, self.limits), self.verdict()]
        parts += ["## Fields", *self.fields(), self.training()]
        parts += ["## Metrics", *self.metrics()]
        if conformance:
            parts += ["## Conformance", "In the exact world, through the real pipeline.", figures(conformance)]
        return joined(parts)

    def relatives(self) -> str:
        """Name the methods that this one extends: what its page does not say, theirs does."""
        names = {point.value.replace(":", "."): name for name, point in registry.registered().items()}
        bases = [names.get(f"{base.__module__}.{base.__qualname__}") for base in self.lineage[1:]]
        links = [f"[{name}]({name}.md)" for name in bases if name]
        return f"Extends {', '.join(links)}." if links else ""

    def place(self) -> str:
        """Say where the code is, and the papers."""
        source = Path(inspect.getsourcefile(self.algorithm) or "").resolve()
        papers = dict.fromkeys(ARXIV.findall(" ".join([self.title, self.equation, *self.notes])))
        links = [f"Papers: {', '.join(map(arxiv, papers))}."] if papers else []
        if source.is_relative_to(ROOT):
            path = source.relative_to(ROOT)
            links.insert(0, f"Code: [{path}](../../{path}).")
        return " ".join(links)

    def needed(self) -> str:
        """Return what the method asks of the loop."""
        needs = self.needs
        rows = [
            ["responses", f"`{needs.responses}`: {RESPONSES[needs.responses]}"],
            ["the loss reads", ", ".join(needs.scores) or "nothing: there is none"],
            ["scores each response once, beforehand", ", ".join(needs.rollout)],
            ["learns", ", ".join(needs.trains) if self.method.kind != "decoder" else "nothing"],
            ["the loss is averaged over", f"{needs.unit}s" if needs.scores else ""],
            ["trainer", TRAINERS[self.method.kind]],
        ]
        return table(["", ""], [row for row in rows if all(row)])

    def verdict(self) -> str:
        """Say in one sentence whether there is an optimum that the method could be held to."""
        if "policy" not in self.needs.trains:
            return "Comparisons tell r up to a constant per prompt."
        return f"At the default fields `optimum` is {'' if self.known == 'known' else 'not '}known."

    def fields(self) -> list[str]:
        """Return the table of config fields, those of bases included."""
        hints = typing.get_type_hints(self.algorithm.Config)
        values = as_dict(self.algorithm.Config())
        rows = [
            [f"`{f.name}`", shown(values[f.name]), allowed(f, hints[f.name]), markdown(f.metadata.get("help", ""))]
            for f in dataclasses.fields(self.algorithm.Config)
        ]
        if not rows:
            return ["None of its own."]
        return [table(["field", "default", "allowed", "what"], rows)]

    def training(self) -> str:
        """Return the defaults of `TrainConfig` that the method changes."""
        if self.method.kind == "decoder":
            return "It trains nothing, and takes no training settings."
        usual = as_dict(TrainConfig())
        changed = [f"`{k}` {shown(v)} (usually {shown(usual[k])})" for k, v in self.method.training.items()]
        kept = "Of the training settings it changes"
        return f"{kept} {', '.join(changed)}." if changed else f"{kept} no default."

    def metrics(self) -> list[str]:
        """Return the tables of what is logged."""
        rows = [[f"`{name}`", markdown(text)] for name, text in self.method.metrics.items()]
        found = [table(["metric", "what"], rows)] if rows else ["None of its own."]
        if self.needs.responses == "sampled" and self.method.kind == "loss":
            from preflab.training.rollouts import ENGINE_METRICS, REWARD_METRICS, ROLLOUT_METRICS, WEIGHT_METRICS

            weighs = any(f.name == "importance_cap" for f in dataclasses.fields(self.algorithm.Config))
            drawn = {"Of each rollout:": {**ROLLOUT_METRICS, **REWARD_METRICS}}
            drawn["Of each rollout that another engine drew (`sampler`):"] = {
                **ENGINE_METRICS,
                **(WEIGHT_METRICS if weighs else {}),
            }
            for title, metrics in drawn.items():
                found += [title, table(["metric", "what"], [[f"`{k}`", v] for k, v in metrics.items()])]
        return found


# ---- Markdown ----------------------------------------------------------------------------------------


def paragraphs(docstring: str | None) -> list[str]:
    """Split a docstring, dropping its sections of arguments and the like."""
    text = re.split(r"\n\n(?:Args|Returns|Raises|Attributes):\n", inspect.cleandoc(docstring or ""))[0]
    return [part for part in re.split(r"\n{2,}", text) if part.strip()]


def markdown(text: str) -> str:
    """Return prose of a docstring as Markdown: one line, arXiv numbers linked, indented parts as code."""
    if text.startswith("    "):
        return block(inspect.cleandoc(text))
    pieces = re.split(r"(`+[^`]+`+)", " ".join(text.split()))
    for i, piece in enumerate(pieces):
        code = i % 2 == 1
        pieces[i] = (
            f"`{piece.strip('`')}`" if code else ARXIV.sub(lambda m: arxiv(m[0]), re.sub(r"([*<])", r"\\\1", piece))
        )
    return "".join(pieces)


def arxiv(number: str) -> str:
    """Return a link to a paper."""
    return f"[{number}](https://arxiv.org/abs/{number})"


def block(text: str) -> str:
    """Return text as it stands."""
    return f"```text\n{text}\n```" if text else ""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def joined(parts: Sequence[str]) -> str:
    """Return a page of its parts."""
    return "\n\n".join(part for part in parts if part) + "\n"


def shown(value: Any) -> str:
    """Return a setting as YAML would have it."""
    return "none" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def allowed(field: dataclasses.Field[Any], hint: Any) -> str:
    """Return the choices or bounds of a field."""
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    ends = [(sign, field.metadata.get(end)) for sign, end in (("≥", "minimum"), ("≤", "maximum"))]
    bounds = ", ".join(f"{sign} {value:g}" for sign, value in ends if value is not None)
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    names = "/".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    return " ".join(filter(None, [names, bounds, "or none" if type(None) in get_args(hint) else ""]))


def figures(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the conformance suite, whatever columns they have."""
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "method"]

    def cell(name: str, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return "–" if value is None else markdown(str(value))
        return f"{100 * value:.2f} %" if name in ("regret", "floor") else f"{value:.4g}"

    return table(names, [[cell(name, row.get(name)) for name in names] for row in rows])


if __name__ == "__main__":
    run_recipe(main)
