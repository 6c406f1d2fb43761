"""What cases of models share: copies of the kit's models that are changed, and the commands that use them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.cases import CANARY, Case, Right, words

DATA = words("--dataset kit/pairs.jsonl --config kit/tiny.yaml --output out")
CODE = f"import pathlib; pathlib.Path('{CANARY}').touch()\n"
Change = Callable[[Path], object]


def changed(change: Change, kind: str = "model") -> Callable[[Path], None]:
    """Return what copies a model of the kit as ``model`` and changes the copy."""

    def make(folder: Path) -> None:
        shutil.copytree(folder / "kit" / kind, folder / "model")
        change(folder / "model")

    return make


def base(name: str, change: Change, right: tuple[Right, ...], *more: str, kind: str = "model") -> Case:
    """Return a case in which the changed model is the base of everything."""
    return Case(f"models/{name}", ("sft.py", "--model", "model", *DATA, *more), right, changed(change, kind))


def judged(name: str, change: Change, right: tuple[Right, ...]) -> Case:
    """Return a case in which the changed model is a policy that is evaluated beside an ordinary base."""
    command = ("evaluate.py", "--models", "other=model", "--model", "kit/model", *DATA)
    return Case(f"models/{name}, evaluated", command, right, changed(change))


def scoring(name: str, change: Change, right: tuple[Right, ...], role: str) -> Case:
    """Return a case in which the changed classifier gives rewards."""
    command = ("evaluate.py", "--models", "a=kit/adapter", role, "model", "--model", "kit/model", *DATA)
    return Case(f"models/{name}, {role}", command, right, changed(change, "classifier"))


def write(name: str, content: bytes | str) -> Change:
    return lambda model: (model / name).write_bytes(content.encode() if isinstance(content, str) else content)


def both(*changes: Change) -> Change:
    return lambda model: [change(model) for change in changes]


def gone(name: str) -> Change:
    return lambda model: (model / name).unlink()


def as_folder(name: str) -> Change:
    return lambda model: ((model / name).unlink(missing_ok=True), (model / name).mkdir())


def remote(file: str, key: str) -> Change:
    """Return what names Python code beside the model in a JSON file."""

    def change(model: Path) -> None:
        (model / "evil.py").write_text(CODE.replace(f"'{CANARY}'", repr(str(model.parent / CANARY))))
        path = model / file
        path.write_text(
            json.dumps(
                json.loads(path.read_text())
                | {
                    "auto_map": {key: ["evil.Thing", None] if "Tok" in key else "evil.Thing"},
                    "model_type": "evil" if file == "config.json" else "x",
                }
            )
        )

    return change
