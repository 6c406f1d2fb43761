"""Configs: types, bounds, near misses, YAML under the command line, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from preflab.errors import UserError, near_misses
from preflab.errors.answering import run_recipe
from preflab.settings.command_line import CommandLine
from preflab.settings.fields import Text, as_dict, build, build_section, merge, option
from preflab.settings.plain_yaml import read_yaml
from preflab.settings.training import LoraSettings, RolloutConfig, TrainConfig
from preflab.settings.values import parse_text


@dataclass(frozen=True)
class Plain:
    """One field of each kind."""

    rate: float = option(0.5, "a share", minimum=0.0, maximum=1.0)
    count: int = option(3, "a number", minimum=1)
    name: str = option("x", "a word")
    quick: bool = option(False, "a switch")
    kind: Literal["a", "b"] = option("a", "a choice")
    limit: int | None = option(None, "a number or none")
    names: tuple[str, ...] = option((), "words")
    folder: Path = option(Path("runs"), "a folder")
    extra: dict[str, int] = option({}, "others")

    def __post_init__(self):
        if self.count == 13:
            raise ValueError("count 13 brings bad luck; take 12")


@dataclass(frozen=True)
class Other:
    """Shares one field with `Plain`."""

    rate: float = option(0.5, "a share")
    steps: int = option(1, "steps")


# ---- building ----------------------------------------------------------------------------------------


def test_values_become_the_annotated_types():
    made = build(
        Plain,
        {"rate": 1, "count": 5, "quick": True, "kind": "b", "limit": 4, "names": ["u", "v"], "folder": "out"},
        "here",
    )
    assert made == Plain(1.0, 5, "x", True, "b", 4, ("u", "v"), Path("out"))
    assert isinstance(made.rate, float)
    assert build(Plain, {"limit": None}, "here").limit is None
    assert build(Plain, {"rate": "1e-4"}, "here").rate == 1e-4, "YAML 1.1 reads 1e-4 as text"
    assert build(Plain, {"extra": {"k": 2}}, "here").extra == {"k": 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": "high"}, "here: rate is 'high' .*float"),
        ({"rate": True}, "here: rate is True"),
        ({"rate": 1.5}, "here: rate is 1.5; it must be at least 0.0 and at most 1.0"),
        ({"rate": -0.1}, "at least 0.0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"rate": None}, "rate is None"),
        ({"count": 0}, "count is 0; it must be at least 1$"),
        ({"count": 2.5}, "count is 2.5 .*int"),
        ({"count": True}, "count is True .*int"),
        ({"count": "3"}, "count is '3' .*int"),
        ({"name": 3}, "name is 3 .*str"),
        ({"quick": "yes"}, "quick is 'yes' .*bool"),
        ({"kind": "c"}, "kind is 'c'; choose one of a, b"),
        ({"names": "u"}, "names is 'u' .*tuple"),
        ({"names": [1]}, "names is 1 .*str"),
        ({"extra": [1]}, "extra is"),
        ({"limit": 1.5}, "limit is 1.5 .*int"),
        ({"count": 13}, "here: count 13 brings bad luck; take 12"),
        ({"conut": 3}, "here: unknown field 'conut' .*did you mean 'count'"),
        ({"zzz": 3}, "unknown field 'zzz'; known: rate, count"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(UserError, match=message):
        build(Plain, values, "here")


def test_configs_are_frozen_and_defaults_are_not_shared():
    with pytest.raises(FrozenInstanceError):
        Plain().rate = 1.0
    assert Plain().extra is not Plain().extra


def test_as_dict_is_plain():
    assert as_dict(Plain(names=("u",), folder=Path("a/b"))) == {
        "rate": 0.5,
        "count": 3,
        "name": "x",
        "quick": False,
        "kind": "a",
        "limit": None,
        "names": ["u"],
        "folder": "a/b",
        "extra": {},
    }
    assert build(Plain, as_dict(Plain(names=("u",))), "here") == Plain(names=("u",))


def test_merge_shares_values_out():
    made = merge({"plain": Plain, "other": Other}, {"rate": 0.25, "steps": 4, "count": 2}, "here")
    assert made == {"plain": Plain(rate=0.25, count=2), "other": Other(rate=0.25, steps=4)}
    with pytest.raises(UserError, match=r"unknown field 'step' .*'steps'"):
        merge({"plain": Plain, "other": Other}, {"step": 4}, "here")


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        ("1e-3", float, 1e-3),
        ("word", str, "word"),
        ("Yes", bool, True),
        ("off", bool, False),
        ("none", int | None, None),
        ("7", int | None, 7),
        ("a, b,", tuple[str, ...], ("a", "b")),
        ("1,2", tuple[int, ...], (1, 2)),
        ("2", Literal[1, 2], 2),
    ],
)
def test_text_is_read_as_its_type(text, hint, value):
    assert parse_text(text, hint, "--here") == value


@pytest.mark.parametrize(
    ("text", "hint"), [("x", int), ("1.5", int), ("x", float), ("maybe", bool), ("1,x", tuple[int, ...])]
)
def test_unreadable_text_is_a_users_error(text, hint):
    with pytest.raises(UserError, match="--here is"):
        parse_text(text, hint, "--here")


# ---- files and command line --------------------------------------------------------------------------


def write(folder, text):
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def parse(line, *, sections=False):
    command_line = CommandLine("test", {"plain": Plain, "other": Other}, sections=sections)
    values, parts = command_line.read(line.split())
    return merge(command_line.classes, values, "here"), parts


def test_options_override_the_file(tmp_path):
    path = write(tmp_path, "rate: 0.75\ncount: 7\nnames: [u, v]\n")
    made, _ = parse(f"--config {path} --count 9 --quick --limit none --folder out")
    assert made["plain"] == Plain(rate=0.75, count=9, names=("u", "v"), quick=True, folder=Path("out"))
    assert made["other"] == Other(rate=0.75)
    made, _ = parse(f"--config {write(tmp_path, 'quick: true')} --quick false")
    assert made["plain"].quick is False


def test_sections_are_collected(tmp_path):
    path = write(tmp_path, "count: 7\nppo:\n  gamma: 0.9\n")
    made, parts = parse(f"--config {path} --ppo.gae-lambda 0.5 --dpo.beta=0.3 --ppo.gamma 1", sections=True)
    assert made["plain"].count == 7
    assert parts == {"ppo": {"gamma": "1", "gae_lambda": "0.5"}, "dpo": {"beta": "0.3"}}


def test_sections_are_typed_when_their_class_is_known():
    made = build_section({"plain": Plain}, {"rate": Text("0.25"), "limit": Text("none"), "count": 4}, "ppo")
    assert made == {"plain": Plain(rate=0.25, count=4)}
    with pytest.raises(UserError, match="ppo: rate is 'x'"):
        build_section({"plain": Plain}, {"rate": Text("x")}, "ppo")
    with pytest.raises(UserError, match=r"ppo: unknown field 'rte' .*'rate'"):
        build_section({"plain": Plain}, {"rte": Text("1")}, "ppo")


@pytest.mark.parametrize(
    ("line", "sections", "message"),
    [
        ("--cuont 3", False, "unknown option '--cuont' .*'--count'"),
        ("--ppo.gamma 1", False, "unknown option"),
        ("stray", True, "unknown option 'stray'"),
        ("--ppo.gamma", True, "needs a value"),
        ("--count", False, "expected one argument"),
        ("--count x", False, "--count is 'x'"),
        ("--count 0", False, "count is 0"),
        ("--kind c", False, "choose one of a, b"),
        ("--coun 4", False, "unknown option"),
    ],
)
def test_mistakes_on_the_command_line_are_named(line, sections, message):
    with pytest.raises(UserError, match=message):
        parse(line, sections=sections)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "mapping"),
        ("a: [1\n", "not readable YAML"),
        ("3: x\n", "mapping"),
        ("cuont: 3\n", "unknown field 'cuont'.*'count'"),
        ("ppo: {gamma: 1}\n", "unknown field 'ppo'"),
        ("count: many\n", "count is 'many'"),
    ],
)
def test_mistakes_in_the_file_are_named(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        parse(f"--config {write(tmp_path, text)}")


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_yaml(tmp_path / "none.yaml")
    assert read_yaml(write(tmp_path, "# nothing\n")) == {}
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match="not readable"):
        read_yaml(path)


def test_help_names_every_field_and_default(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for expected in ("--rate", "a share", "[default: 0.5]", "--steps", "--quick"):
        assert expected in shown


# ---- our own settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [LoraSettings, TrainConfig, RolloutConfig])
def test_settings_explain_every_field_and_bear_their_own_defaults(cls):
    assert build(cls, as_dict(cls()), "here") == cls()
    assert all(field.metadata["help"] for field in cls.__dataclass_fields__.values())


def test_rollouts_are_whole_numbers_of_optimiser_batches():
    train = TrainConfig(per_device_train_batch_size=8, gradient_accumulation_steps=3)
    assert train.optimiser_batch == 24
    RolloutConfig(rollout_prompts=48).check(train)
    assert RolloutConfig(rollout_prompts=48, rollout_epochs=4).steps_per_rollout(train) == 8
    with pytest.raises(ValueError, match=r"rollout_prompts \(50\).*8 × 3 = 24\); set rollout_prompts to 48"):
        RolloutConfig(rollout_prompts=50).check(train)
    with pytest.raises(ValueError, match="set rollout_prompts to 24"):
        RolloutConfig(rollout_prompts=4).check(train)


def test_a_loop_without_steps_is_refused():
    for values in ({"max_steps": 0}, {"num_train_epochs": 0.0}):
        with pytest.raises(UserError, match="no step to train"):
            build(TrainConfig, values, "here")


# ---- errors ------------------------------------------------------------------------------------------


def test_near_misses():
    assert near_misses("cuont", ["count", "rate"]) == " (did you mean 'count'?)"
    assert near_misses("zzz", ["count", "rate"]) == ""


def test_a_recipe_answers_mistakes_in_one_line(capsys):
    def main():
        raise UserError("this is wrong")

    with pytest.raises(SystemExit) as stop:
        run_recipe(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: this is wrong\n"


def test_configs_and_methods_import_without_torch():
    modules = "preflab.settings.fields, preflab.method.registry, algorithms.dpo, algorithms.ppo, preflab.worlds"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- numbers and texts that no run can use -----------------------------------------------------------


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


def test_a_field_written_in_two_ways_is_refused(tmp_path):
    path = write(tmp_path, "eval-size: 1\neval_size: 2\n")

    @dataclass(frozen=True)
    class Sized:
        """One field of two words."""

        eval_size: int = option(1, "a size")

    with pytest.raises(UserError, match="eval_size stands there twice"):
        CommandLine("test", {"sized": Sized}).read(["--config", str(path)])
