"""A config from a file and options, and every mistake in them named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from plain_configs import Other, Plain

from preflab.errors import Shown, UserError
from preflab.experiment.sections import MethodSections
from preflab.settings.command_line import CommandLine
from preflab.settings.fields import Text, build_section, merge, option
from preflab.settings.plain_yaml import read_yaml


def write(folder, text):
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def parse(line, *, sections=False):
    known = MethodSections() if sections else None
    command_line = CommandLine("test", {"plain": Plain, "other": Other}, sections=known)
    values, parts = command_line.read(line.split())
    return merge(command_line.classes, values, "here"), parts


def test_options_override_the_file(tmp_path):
    path = write(tmp_path, "rate: 0.75\ncount: 7\nnames: [u, v]\n")
    made, _ = parse(f"--config {path} --count 9 --quick --limit none --folder out")
    assert made["plain"] == Plain(rate=0.75, count=9, names=("u", "v"), quick=True, folder=Path("out"))
    assert made["other"] == Other(rate=0.75)
    for off in ("--quick false", "--quick=false", "--no-quick", "--no_quick", "--quick --no-quick"):
        made, _ = parse(f"--config {write(tmp_path, 'quick: true')} {off}")
        assert made["plain"].quick is False


@pytest.mark.parametrize("line", ["--names a b c", "--names a,b,c", "--names=a b c", "--names x --names a b c"])
def test_lists_are_several_words(line):
    assert parse(line)[0]["plain"].names == ("a", "b", "c")


def test_of_two_values_the_last_counts_which_is_said(caplog):
    made, parts = parse("--rate 0.25 --rate 0.5 --ppo.gamma 1 --ppo.gamma 0.5 --count 4 --count 4", sections=True)
    assert made["plain"].rate == 0.5
    assert parts == {"ppo": {"gamma": "0.5"}}
    assert [record.getMessage() for record in caplog.records] == [
        "--rate is given twice; what counts is the last, '0.5'",
        "--ppo.gamma is given twice; what counts is the last, '0.5'",
    ]
    with pytest.raises(UserError, match=r"b\.yaml does not exist"):
        parse("--config a.yaml --config b.yaml")


def test_words_that_begin_with_a_dash_are_values_where_they_are_numbers_or_follow_an_equals_sign():
    assert parse("--names -1 -.5")[0]["plain"].names == ("-1", "-.5")
    assert parse("--name=--x")[0]["plain"].name == "--x"
    assert parse("--name -")[0]["plain"].name == "-"


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
        ("--ppo.gamma", True, "--ppo.gamma needs a value"),
        ("--count", False, "--count needs a value"),
        ("--count 3 4", False, "--count takes one value, and '4' follows it"),
        ("--ppo.gamma 1 2", True, "--ppo.gamma takes one value, and '2' follows it"),
        ("--no-quick true", False, "--no-quick takes no value, and 'true' follows it"),
        ("--no-count", False, "unknown option '--no-count'"),
        ("-count 3", False, "unknown option '-count' .*'--count'"),
        ("--ppo.gama 1", True, r"ppo: unknown field 'gama' \(did you mean '--ppo.gamma'"),
        ("--pppo.gamma 1", True, r"unknown section 'pppo' \(did you mean 'ppo'"),
        ("--ppo.count 1", True, "ppo: unknown field 'count', which is a setting of the run; write --count"),
        ("--plain.count 1", True, "unknown section 'plain': count is a setting of the run; write --count"),
        ("--gamma 1", True, "unknown option '--gamma': it is a setting of .*ppo"),
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
    with pytest.raises(Shown) as stop:
        parse("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for expected in ("--rate", "a share", "[default: 0.5]", "--steps", "--quick"):
        assert expected in shown


def test_a_field_written_in_two_ways_is_refused(tmp_path):
    path = write(tmp_path, "eval-size: 1\neval_size: 2\n")

    @dataclass(frozen=True)
    class Sized:
        """One field of two words."""

        eval_size: int = option(1, "a size")

    with pytest.raises(UserError, match="eval_size stands there twice"):
        CommandLine("test", {"sized": Sized}).read(["--config", str(path)])
