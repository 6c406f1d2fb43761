"""Methods by name and by place."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from preflab.errors import UserError
from preflab.method import registry
from preflab.method.contract import Algorithm, Prepares
from preflab.settings.fields import build

MINE = '''
"""A method as a person would write it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preflab import LossMethod, Pairwise, option


@dataclass(frozen=True)
class MineConfig:
    beta: float = option(0.1, "strength", minimum=0.0)
    kind: Literal["a", "b"] = option("a", "choice")


class Mine(Pairwise):
    Config = MineConfig

    def pair_loss(self, pair):
        return -self.config.beta * pair.margin


class Half(LossMethod):
    Config = MineConfig


class Bare:
    Config = MineConfig

    def loss(self, batch, scores): ...
'''


@pytest.fixture
def points(monkeypatch):
    """Let the registry see these entry points alone."""

    def use(*pairs):
        found = [EntryPoint(name, value, registry.GROUP) for name, value in pairs]
        monkeypatch.setattr(registry, "entry_points", lambda group: found)
        registry.registered.cache_clear()

    yield use
    monkeypatch.undo()
    registry.registered.cache_clear()


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return path


def test_built_in_methods_take_the_common_road():
    names = registry.registered()
    assert {"dpo", "ppo", "reward", "sft"} <= set(names)
    for name in ("dpo", "ppo", "reward", "sft"):
        method = registry.load(name)
        assert isinstance(method(method.Config()), Algorithm), name
    assert isinstance(registry.load("ppo")(registry.load("ppo").Config()), Prepares)


def test_unknown_names_get_near_misses():
    with pytest.raises(UserError, match=r"unknown method 'mine.py'; .*FILE.py:CLASS"):
        registry.load("mine.py")
    with pytest.raises(UserError, match=r"unknown method 'dop' \(did you mean .*'dpo'.*known: .*ppo"):
        registry.load("dop")


def test_an_empty_registry_says_what_to_do(points):
    points()
    with pytest.raises(UserError, match="pip install"):
        registry.load("dpo")


def test_duplicates_are_refused(points):
    points(("dpo", "preflab.algorithms.dpo:DPO"), ("dpo", "elsewhere:DPO"))
    with pytest.raises(UserError, match=r"'dpo' is registered twice: preflab.algorithms.dpo:DPO .* elsewhere:DPO"):
        registry.registered()


def test_the_same_object_twice_is_no_duplicate(points):
    points(("dpo", "preflab.algorithms.dpo:DPO"), ("dpo", "preflab.algorithms.dpo:DPO"))
    assert registry.load("dpo").__name__ == "DPO"


def test_listing_imports_nothing(points):
    points(("broken", "no_such_module:Thing"), ("hollow", "preflab.algorithms.dpo:NoSuchName"))
    assert list(registry.registered()) == ["broken", "hollow"]
    for name in ("broken", "hollow"):
        with pytest.raises(UserError, match=f"method '{name}' .*cannot be imported"):
            registry.load(name)


def test_a_file_of_ones_own(mine):
    method = registry.load(f"{mine}:Mine")
    config = build(method.Config, {"beta": 0.5, "kind": "b"}, "mine")
    assert isinstance(method(config), Algorithm)
    assert (config.beta, config.kind) == (0.5, "b")


def test_a_file_is_named_apart_from_installed_modules(mine):
    import sys

    other = mine.with_name("json.py")
    mine.rename(other)
    before = sys.modules["json"]
    assert registry.load(f"{other}:Mine").__name__ == "Mine"
    assert sys.modules["json"] is before


def test_a_module_of_ones_own():
    assert registry.load("preflab.algorithms.dpo:DPO") is registry.load("dpo")


def test_what_lacks_the_contract_is_refused(mine):
    with pytest.raises(UserError, match=r"lacks loss, needs, __init__; see docs"):
        registry.load(f"{mine}:Half")
    with pytest.raises(UserError, match=r"lacks kind; inherit preflab\.Pairwise, PolicyGradient or LossMethod"):
        registry.load(f"{mine}:Bare")


def test_wrong_places_are_named(mine):
    for place, message in (
        (f"{mine}:Mien", "has no 'Mien' .*'Mine'"),
        (f"{mine.with_name('none.py')}:Mine", "does not exist"),
        ("no.such.module:Thing", "cannot be imported"),
        ("preflab.algorithms.dpo:", "must have the form"),
        (":Thing", "must have the form"),
    ):
        with pytest.raises(UserError, match=message):
            registry.load(place)


def test_an_edit_of_the_functions_that_methods_are_made_of_makes_other_methods(monkeypatch):
    ppo, dpo = registry.load("ppo"), registry.load("dpo")
    before = registry.source_hash(ppo), registry.source_hash(dpo)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == "advantages_and_ratios.py"))
    after = registry.source_hash(ppo), registry.source_hash(dpo)
    assert before[0] != after[0]
    assert before[1] != after[1]
