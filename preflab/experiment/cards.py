"""Model cards of what a run trains: made of what a stage says of itself, with nothing in them that steers a reader."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from preflab.disk.files import read_object
from preflab.errors import UserError, crash
from preflab.experiment.identity import StandsOn
from preflab.method.configured import label
from preflab.model.card import Card, Section, block, code, source, table
from preflab.model.hub_names import hub_model, terms_of
from preflab.settings.fields import as_dict
from preflab.settings.training import LoraSettings, TrainConfig

NAME = "README.md"
MANIFEST = "manifest.json"
ARXIV = re.compile(r"(?<![\d.])\d{4}\.\d{5}(?!\d)")
HUB_DATA = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}")
SCALAR = ("reward", "value")
HEX = re.compile(r"[0-9a-f]{1,64}")
KINDS = {"policy": "text-generation", "reward": "text-classification", "value": "text-classification"}
"""What the hub calls what a role does."""


class Trained(NamedTuple):
    """What is known of a role that a stage has trained.

    Attributes:
        stage: the stage's name.
        role: which role.
        base: the model that it stands on: hub name or folder.
        inputs: what decided the stage's result, as in ``stage.json``.
        record: what its training reported.
        run: the run's folder, whose manifest says the rest.
        algorithm: the class of the method; None where its code is not to be run.
    """

    stage: str
    role: str
    base: str
    inputs: Mapping[str, Any]
    record: Mapping[str, Any]
    run: Path
    algorithm: Any = None

    @property
    def method(self) -> str:
        """What the method is called."""
        return label(str(self.inputs.get("method", "given")))


def card_of(trained: Trained, more: Sequence[Section] = (), *, merged: bool = False) -> Card:
    """Return the card of a role.

    Args:
        trained: what is known of it.
        more: sections that follow how it was trained, such as what an evaluation has found.
        merged: whether it is a model with weights of its own, rather than an adapter.
    """
    base, manifest = hub_model(trained.base), _manifest(trained.run)
    data, terms = _dataset(manifest), terms_of(trained.base)
    told = told_by(trained.algorithm) if trained.algorithm is not None else ""
    papers = [f"arxiv:{number}" for number in dict.fromkeys(ARXIV.findall(told))]
    fields = {
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": KINDS[trained.role],
        **({"base_model": base.name, "base_model_relation": "finetune" if merged else "adapter"} if base else {}),
        **({"datasets": [data]} if data and HUB_DATA.fullmatch(data) else {}),
        **terms,
        "tags": ["preflab", trained.method, trained.role, *(() if merged else ("lora",)), *papers],
    }
    what = f"preflab's {code(trained.method)} has trained" if "method" in trained.inputs else "preflab was given"
    kind = "A model" if merged else "A LoRA adapter"
    place = code(base.name if base else Path(trained.base).name)
    blocks = [f"{kind} that {what} as a {trained.role}, on {place}{'' if base else ', a model of a folder'}."]
    sections = [
        Section("To open it", [source(_opening(trained, base is not None, merged=merged), "python"), *_read(trained)]),
        Section("Method", [block(told, "text") if told else "", *_settings(trained)]),
        Section("Data", _data(trained, data)),
        Section("What it stands on", [table(["", ""], _stands_on(trained))]),
        *more,
        Section("Licence", [_licence(terms, place)]),
        Section("How it was made", _made(trained, manifest)),
    ]
    return Card(trained.stage, fields, blocks, sections)


# ---- the method --------------------------------------------------------------------------------------


def told_by(algorithm: Any) -> str:
    """Return what a method's class, and the one that it stands for, say first of themselves: title and loss."""
    native = algorithm.native if algorithm.kind == "trainer" else None
    lines: list[str] = []
    for cls in (algorithm, native) if native else (algorithm,):
        lines += [_first(sys.modules[cls.__module__].__doc__), _first(cls.__doc__)]
    return "\n".join(dict.fromkeys(line for line in lines if line))


def _first(text: str | None) -> str:
    """Return a docstring's first paragraph as one line."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def _settings(trained: Trained) -> list[str]:
    """Return the settings that are not the method's own defaults, those of its adapters besides."""
    inputs, algorithm = trained.inputs, trained.algorithm
    usual: dict[str, Any] = as_dict(LoraSettings())
    if algorithm is not None:
        usual |= {**as_dict(algorithm.Config()), **as_dict(TrainConfig(**algorithm.training))}
    found = {name: value for part in ("config", "train", "lora") for name, value in mapping(inputs, part).items()}
    rows = [
        [code(name), code(_shown(value)), code(_shown(usual[name])) if name in usual else "–"]
        for name, value in found.items()
        if name not in usual or value != usual[name]
    ]
    if not rows:
        return ["All settings are the method's own defaults."]
    return ["Settings other than the defaults:", table(["setting", "here", "default"], rows)]


def _shown(value: Any) -> str:
    plain = crash.struck(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, default=str)


# ---- data, and what it stands on ---------------------------------------------------------------------


def _data(trained: Trained, name: str | None) -> list[str]:
    data = mapping(trained.inputs, "data")
    splits = [
        [code(split), code(about.get("rows", "–")), code(about.get("fingerprint", "–"))]
        for split, about in mapping(data, "splits").items()
        if isinstance(about, Mapping)
    ]
    called = f", {code(name)}" if name else ""
    return [f"World: {code(data.get('world', 'not known'))}{called}.", table(["split", "rows", "fingerprint"], splits)]


def _dataset(manifest: Mapping[str, Any]) -> str | None:
    """Return the data set's name on the hub, or its file's, without the folders of this machine."""
    given = mapping(mapping(manifest, "config"), "world").get("dataset")
    if not isinstance(given, str):
        return None
    return given if HUB_DATA.fullmatch(given) and not Path(given).exists() else Path(given).name


def _stands_on(trained: Trained) -> list[list[str]]:
    inputs, base = trained.inputs, hub_model(trained.base)
    keys = StandsOn.said(inputs)
    at = f", commit {code(base.revision)}" if base and base.revision else ""
    prints = mapping(inputs, "data").get("model_fingerprint")
    called = code(base.name if base else Path(trained.base).name) + at
    rows = [
        ["base", called if base else f"{called}, fingerprint {code(prints)}"],
        ["start", _stage(trained.run, keys.sft) if keys.sft else "the base as it is"],
        ["reward", _stage(trained.run, keys.reward) if keys.reward else "–"],
        ["seed", code(inputs.get("seed", "–"))],
    ]
    record = trained.record
    rows += [[name, f"{record[name]:,}"] for name in ("steps", "tokens") if isinstance(record.get(name), int)]
    return rows


def _stage(run: Path, key: object) -> str:
    """Return a stage of a run by its key, or the key of what is none: a function, or an ensemble."""
    stages = run / "stages"
    found = [path.name for path in stages.glob(f"*-{key}") if path.is_dir()] if HEX.fullmatch(str(key)) else []
    return f"stage {code(found[0])}" if found else f"no single stage: {code(key)}"


# ---- how it is opened, and was made ------------------------------------------------------------------


POLICY = """\
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

place = "."  # this folder, or its name on the hub
model = AutoPeftModelForCausalLM.from_pretrained(place)
tokenizer = AutoTokenizer.from_pretrained(place)"""

CLASSIFIER = """\
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

place = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(place)
base = AutoModelForSequenceClassification.from_pretrained(
    BASE, num_labels=1, pad_token_id=tokenizer.pad_token_id
)
model = PeftModel.from_pretrained(base, place)"""

MERGED = """\
from transformers import AutoModelFor{kind}, AutoTokenizer

place = "."  # this folder, or its name on the hub
model = AutoModelFor{kind}.from_pretrained(place)
tokenizer = AutoTokenizer.from_pretrained(place)"""


def _opening(trained: Trained, public: bool, *, merged: bool) -> str:
    scalar = trained.role in SCALAR
    if merged:
        return MERGED.format(kind="SequenceClassification" if scalar else "CausalLM")
    name = public and hub_model(trained.base)
    return CLASSIFIER.replace("BASE", json.dumps(name.name) if name else "BASE") if scalar else POLICY


def _read(trained: Trained) -> list[str]:
    """Say how the score of a reward or value model is read."""
    if trained.role not in SCALAR:
        return []
    return [
        "Its one label is the score of a prompt with its response, which ends in its end token. It is read at the last "
        "token that is not padding: pad as the tokenizer beside it does, or ask for one text at a time. Scores are as "
        "the head gives them: `normalisation.json` has the mean and deviation that training divided out, those of the "
        "start's own answers. Only differences between answers to one prompt mean anything."
    ]


def _licence(terms: Mapping[str, str], base: str) -> str:
    if terms:
        return f"That of {base}, whose weights it changes. The data may have terms of their own."
    return f"What {base} may be used for, and this with it, is not said in its files here: see where it comes from."


def _made(trained: Trained, manifest: Mapping[str, Any]) -> list[str]:
    given = manifest.get("command")
    words = [word for word in given if isinstance(word, str)] if isinstance(given, list) else []
    versions = mapping(trained.inputs, "versions")
    command = crash.without_secrets(" ".join([*words[:1], shlex.join(words[1:])]))
    return [
        block(command, "sh") if words else "By Python code; the run has no manifest that says more.",
        ", ".join(f"{code(name)} {code(version)}" for name, version in versions.items()),
    ]


def _manifest(run: Path) -> dict[str, Any]:
    try:
        return read_object(run / MANIFEST)
    except UserError:  # there need be none
        return {}


def mapping(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of what somebody may have written by hand; nothing where it is no mapping."""
    found = content.get(name)
    return found if isinstance(found, Mapping) else {}
