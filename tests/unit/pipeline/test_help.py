"""``--help`` shows what would be used, from the layers that a run is made of."""

from __future__ import annotations

import re

import pytest

from preflab.errors import UserError
from preflab.eval.pipeline.comparing import COMPARE
from preflab.eval.pipeline.session import Session
from preflab.method import registry
from preflab.settings.command_line import as_written


def helped(capsys, *argv, flat=None, configs=None):
    """Return each option's value as the help of a recipe shows it, and the whole text."""
    with pytest.raises(SystemExit) as left:
        Session.read("A recipe.", configs, flat=flat, argv=[*argv, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    found = {}
    for option in re.split(r"^  (?=--)", text.partition("settings of methods")[0], flags=re.MULTILINE)[1:]:
        name, _, rest = option.partition(" ")
        if value := re.search(r"\[(default|given):\s+([^]]*)\]\s*\Z", rest.partition("\n\n")[0]):
            found[name.strip().removeprefix("--").replace("-", "_")] = (value[1], "".join(value[2].split()))
    return found, text


@pytest.fixture
def real(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    return ["--model", "owner/some-135M", "--dataset", str(tmp_path / "pairs.jsonl")]


@pytest.mark.parametrize("own", [False, True], ids=["reviews", "real"])
@pytest.mark.parametrize("name", registry.registered())
def test_every_methods_help_shows_what_its_run_would_use(name, own, real, capsys):
    argv = real if own else []
    shown, _ = helped(capsys, *argv, flat=name)
    session = Session.read("A recipe.", flat=name, argv=argv)
    settings = session.method(name).settings
    used = {field: as_written(value) for field, value in settings.items()}
    assert {field: shown.get(field, ("", ""))[1] for field in used} == {k: "".join(v.split()) for k, v in used.items()}
    assert shown["max_prompt_tokens"][1] == str(session.world.max_prompt_tokens)


def test_what_is_given_is_marked_and_moves_what_follows_from_it(real, capsys):
    shown, _ = helped(capsys, *real, "--learning-rate", "0.5", flat="dpo")
    assert shown["learning_rate"] == ("given", "0.5")
    assert shown["max_response_tokens"] == ("default", "512")
    assert helped(capsys, flat="dpo")[0]["max_response_tokens"] == ("default", "128")


def test_a_comparisons_help_shows_the_settings_of_its_methods(real, capsys):
    argv = [*real, "--algorithms", "ipo,rloo", "--rloo.learning-rate", "0.25"]
    _, text = helped(capsys, *argv, configs=COMPARE)
    session = Session.read("A recipe.", COMPARE, argv=argv)
    lines = dict(line.split(maxsplit=1) for line in text.partition("settings of methods")[2].splitlines()[1:])
    assert list(lines) == ["sft", "reward", "ipo", "rloo"]
    for name, line in lines.items():
        assert f"learning-rate {session.method(name).train.learning_rate}," in line


def test_options_that_no_run_could_use_do_not_keep_the_help_away(capsys):
    shown, text = helped(capsys, "--world", "real", flat="dpo")
    assert shown["learning_rate"][1] == "0.001"
    assert "values are those without these options, which cannot be used: config: the real world needs --model" in text


@pytest.mark.parametrize("where", ["option", "file"])
def test_one_setting_given_twice_is_refused_where_it_differs(where, tmp_path):
    options = ["--max-steps", "2", "--dpo.max-steps", "3"]
    if where == "file":
        (tmp_path / "mine.yaml").write_text("max_steps: 2\ndpo: {max_steps: 3}\n")
        options = ["--config", str(tmp_path / "mine.yaml")]
    with pytest.raises(UserError, match=r"--max-steps is 2 and --dpo\.max-steps is 3, which are one; keep one"):
        Session.read("A recipe.", flat="dpo", argv=options)
    same = Session.read("A recipe.", flat="dpo", argv=["--max-steps", "2", "--dpo.max-steps", "2"])
    assert same.method("dpo").train.max_steps == 2


def test_options_beat_the_file_whichever_of_the_two_names_they_use(tmp_path):
    for content in ("max_steps: 2\n", "dpo: {max_steps: 2}\n", "pair: {max_steps: 2}\n"):
        (tmp_path / "mine.yaml").write_text(content)
        for option in ("--max-steps", "--dpo.max-steps"):
            argv = ["--config", str(tmp_path / "mine.yaml"), option, "3"]
            assert Session.read("A recipe.", flat="dpo", argv=argv).method("dpo").train.max_steps == 3


@pytest.mark.parametrize(("value", "message"), [("0", "nothing is learnt"), ("-1", "at least 0")])
def test_a_learning_rate_at_which_nothing_is_learnt_is_refused(value, message):
    with pytest.raises(UserError, match=message):
        Session.read("A recipe.", flat="dpo", argv=["--learning-rate", value]).method("dpo")
