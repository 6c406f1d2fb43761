"""Values that mean nothing or two things are refused, those with one meaning read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from preflab.errors import UserError
from preflab.settings.command_line import CommandLine
from preflab.settings.fields import build, merge, option
from preflab.settings.plain_yaml import read_yaml


@dataclass(frozen=True)
class Numbers:
    """Fields that name no bounds of their own, seeds that do, and a value of any type."""

    share: float = option(0.5, "a number")
    size: int = option(3, "a whole number")
    large: float = option(1.0, "work", maximum=1e30)
    seeds: tuple[int, ...] = option((0,), "seeds", minimum=0, maximum=99)
    label: str = option("", "a text that may be empty")
    extra: dict[str, Any] = option({}, "anything")


LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{f'*{before},' * 10}]\n" for before, name in zip("abcd", "bcde", strict=True)
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("share: .inf", ["share is inf", "finite"]),
        ("share: -.inf", ["share is -inf", "finite"]),
        ("share: .nan", ["share is nan", "finite"]),
        ("share: 1.0e+999", ["share is inf", "finite"]),
        ("share: 1e999", ["share is inf", "finite"]),
        ("share: 1" + "0" * 390, ["share is inf", "finite"]),
        ("share: 1e13", ["share is 10000000000000.0", "at most 1000000000000.0"]),
        ("share: '1_0'", ["share is '1_0'", "float"]),
        ("size: 3000000000", ["size is 3000000000", "at most 2147483647"]),
        ("size: -3000000000", ["at least -2147483647"]),
        ("size: 1" + "0" * 390, ["size is 1000", "…", "at most 2147483647"]),
        ("size: 1" + "0" * 5000, ["line 1", "5001 digits"]),
        ("size: 3.0", ["size is 3.0 (float)", "write 3"]),
        ("size: '3'", ["without quotes"]),
        ("large: 1e31", ["at most 1e+30"]),
        ("seeds: [1, 100]", ["seeds is 100", "at most 99"]),
        ("seeds: [-1]", ["seeds is -1", "at least 0"]),
        ("label: yes", ["label is True (bool)", "in quotes"]),
        ("size: 2026-13-45", ["size is '2026-13-45' (str)", "int"]),
        ("size: 2026-11-05", ["size is '2026-11-05' (str)", "int"]),
        ("size: 017", ["line 1", "017", "one number in YAML 1.1 and another elsewhere"]),
        ("size: 1:30", ["line 1", "1:30"]),
        ("share: 1:30.5", ["line 1", "1:30.5"]),
        ("size: 1\nshare: 2\nsize: 3", ["line 3", "'size' stands there twice, first in line 1"]),
        ("extra: {a: {b: 1, b: 2}}", ["'b' stands there twice"]),
        ("extra: {1: 2}", ["1 is read as int"]),
        ("extra: {on: 2}", ["on is read as bool"]),
        ("extra: {[1]: 2}", ["read as seq"]),
        ("extra: {a: .nan}", ["extra: 'a' is nan"]),
        ("extra: {a: [1, {b: 1.0e+30}]}", ["extra: 'a': 'b' is 1e+30"]),
        ("extra: !!set {a, b}", ["line 1", "set"]),
        ("extra: {a: !!binary aGk=}", ["line 1", "binary"]),
        ("size: !!python/object/apply:os.getpid []", ["line 1", "python/object"]),
        ("label: \"a\\0b\"", ["label is", "no text"]),
        ("label: \"a\\ud800b\"", ["label is", "no text"]),
        ("label: \x00", ["not readable YAML"]),
        ("label: \x1b[2J", ["not readable YAML"]),
        (f"label: {'x' * 5000}", ["5,000 characters"]),
        ("seeds: ['']", ["seeds is empty"]),
        ("size: ' '", ["size is empty"]),
        ("[" * 5000, ["nested too deeply"]),
        ("extra: {a: &x {b: *x}}", ["holds itself"]),
        (LAUGHS, ["aliases", "10,000"]),
        ("size: 1\n---\nsize: 2", ["another document"]),
        ("#" * 200_001, ["larger than 200,000 bytes"]),
    ],
    ids=lambda x: x[:24].encode("unicode_escape").decode() if isinstance(x, str) else "",
)  # fmt: skip
def test_values_that_mean_nothing_or_two_things_are_refused(text, parts, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError) as refused:
        build(Numbers, read_yaml(path), "here")
    assert all(part in str(refused.value) for part in parts), refused.value
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("share: 1e-4\nsize: 1_000\nlarge: 1e29", Numbers(share=1e-4, size=1000, large=1e29)),
        ("size: 0x10\nlabel: ''", Numbers(size=16)),
        ("label: 2026-13-45", Numbers(label="2026-13-45")),
        ("label: '017'", Numbers(label="017")),
        (
            "extra: {a: &x [1, yes, ~, {b: 2.5}], c: *x}",
            Numbers(extra={"a": [1, True, None, {"b": 2.5}], "c": [1, True, None, {"b": 2.5}]}),
        ),
        ("extra: {<<: &x {a: 1}, a: 2}", Numbers(extra={"a": 2})),
        ("\ufeffsize: 4", Numbers(size=4)),
    ],
)
def test_values_with_one_meaning_are_read(text, expected, tmp_path):
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "mine.yaml").write_text(text.lstrip("\ufeff") if encoding == "utf-16" else text, encoding=encoding)
        assert build(Numbers, read_yaml(tmp_path / "mine.yaml"), "here") == expected


def test_what_is_no_config_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no file"):
        read_yaml(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read|does not exist"):
        read_yaml(tmp_path / ("x" * 300))


@pytest.mark.parametrize("text", ["1" + "0" * 5000, "1e999", "-inf", "nan", "３x"])
def test_options_are_held_to_the_same_bounds(text):
    for name in ("share", "size"):
        line = CommandLine("test", {"numbers": Numbers})
        with pytest.raises(UserError, match=rf"{name} is"):
            merge(line.classes, line.read([f"--{name}={text}"])[0], "here")


def test_a_name_of_a_megabyte_is_answered_in_a_line():
    with pytest.raises(UserError) as refused:
        build(Numbers, {"x" * 10**6: 1}, "here")
    assert len(str(refused.value)) < 300
