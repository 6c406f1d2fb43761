"""What of a config is in the keys of stages, and values that are a number or a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from preflab.errors import UserError
from preflab.settings.fields import Text, as_dict, build, build_section, deciding, option


@dataclass(frozen=True)
class Settings:
    rate: float = option(0.1, "in every key")
    size: int | Literal["auto"] = option(4, "in no key", minimum=1, maximum=8, keyed="never")
    cap: float | None = option(None, "in keys of those who set it", keyed="changed")
    names: list[str] = option([], "the same", keyed="changed")


def test_keys_hold_what_decides_a_result():
    assert deciding(Settings()) == {"rate": 0.1}
    assert deciding(Settings(size="auto", cap=2.0, names=["a"])) == {"rate": 0.1, "cap": 2.0, "names": ["a"]}
    assert as_dict(Settings()) == {"rate": 0.1, "size": 4, "cap": None, "names": []}, "records hold all"


@pytest.mark.parametrize("value", [4, "auto"])
def test_a_number_or_a_word(value):
    assert build(Settings, {"size": value}, "here").size == value


@pytest.mark.parametrize(
    ("value", "message"),
    [("often", "size is 'often' .*int.*, or auto"), (0, "at least 1"), (1.5, "int, or")],
)
def test_other_words_and_numbers_out_of_bounds_are_refused(value, message):
    with pytest.raises(UserError, match=message):
        build(Settings, {"size": value}, "here")


def test_words_on_the_command_line():
    for text, value in {"auto": "auto", "3": 3}.items():
        assert build_section({"x": Settings}, {"size": Text(text)}, "here")["x"].size == value
    with pytest.raises(UserError, match="of type int, or auto"):
        build_section({"x": Settings}, {"size": Text("otto")}, "here")
