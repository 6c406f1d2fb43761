"""Trackers: each stage a run of its own, told apart, finished; nothing without being asked, and no secrets."""

from __future__ import annotations

import json
import os

import pytest
import stub_trackers
from tiny import make_groups, settings, train

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.errors import UserError
from preflab.method.configured import make_method
from preflab.tracking import runs, trackers
from preflab.tracking.runs import Tracking, asked, check_trackers, group_of, report
from preflab.tracking.trackers import TRACKERS, Outcome, Run
from preflab.worlds import WorldConfig

TRAIN = {"per_device_train_batch_size": 8, "max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2}
STUBS = {"wandb": stub_trackers.wandb, "trackio": stub_trackers.trackio, "mlflow": stub_trackers.mlflow}
OUTCOME = Outcome({"dpo/gold_reward": 0.5}, ("method", "mean"), [["dpo", 0.5]], "dpo is better", None)


def followed(tracking, name, folder, values=TRAIN, seed=0):
    """Train a method as a stage is trained, and return what was logged of it."""
    method = make_method("dpo", values)
    about = {"seed": seed, "data": {"world": "reviews"}}
    with tracking.following(name, method, about) as open_method:
        changes = {"report_to": open_method.train.report_to, "extra": open_method.train.extra}
        return train(DPO(DPOConfig()), folder, groups=make_groups(), max_steps=2, **changes)[2]


@pytest.fixture(params=list(STUBS))
def stub(request, monkeypatch):
    return request.param, STUBS[request.param](monkeypatch)


def test_each_stage_is_a_run_by_its_name_and_group_and_is_finished(stub, tmp_path, capsys):
    name, package = stub
    tracking = Tracking((name,), "mine-abc", tmp_path)
    for stage in ("dpo-seed0", "dpo-seed1"):
        lines = followed(tracking, stage, tmp_path / stage, seed=int(stage[-1]))
    assert [run.name for run in package.runs] == ["dpo-seed0", "dpo-seed1"]
    assert all(run.ended in (0, "FINISHED") for run in package.runs)
    last = package.runs[-1]
    logged = {key.rpartition("/")[2]: value for row in last.logged for key, value in row.items()}
    assert logged["accuracy"] == lines[-1]["accuracy"]
    assert "mine-abc" in str(last.about)
    assert {"dpo", "seed1", tmp_path.name} <= set(json.loads(json.dumps(tags_of(last))))
    assert "Created" not in capsys.readouterr().out, "results alone go to stdout"


def tags_of(run):
    tags = run.about.get("tags") or run.about["config"]["tags"]
    return list(tags.values()) if isinstance(tags, dict) else list(tags)


def test_a_stage_that_fails_leaves_no_run_open(stub, tmp_path):
    name, package = stub
    tracking, method = Tracking((name,), "g", tmp_path), make_method("dpo", TRAIN)

    def breaks(stage):
        with tracking.following(stage, method, {}):
            if name == "trackio":  # transformers begins it
                package.init(project="preflab", name="another")
            raise KeyError(stage)

    for stage in ("one", "two"):
        with pytest.raises(KeyError):
            breaks(stage)
    assert [run.ended in (1, "FAILED") or name == "trackio" for run in package.runs] == [True, True]
    assert all(run.ended is not None for run in package.runs)


def test_the_result_is_a_run_of_the_group(stub, tmp_path):
    name, package = stub
    page = tmp_path / "report.html"
    page.write_text("<p>all of it</p>")
    run = Run("mine-result", "mine-abc", ("result", "mine"), {"seeds": [0]}, tmp_path)
    assert report([name], run, OUTCOME._replace(page=page)) == [name]
    (found,) = package.runs
    assert found.name == "mine-result"
    assert found.ended is not None
    assert "0.5" in str([found.logged, found.summary])
    assert "dpo is better" in str([found.logged, found.summary])
    if name != "trackio":  # which has no place for a page
        assert "report.html" in str(found.logged) or "all of it" in str(found.logged)


def test_a_tracker_that_fails_costs_no_result(stub, tmp_path, monkeypatch, caplog):
    name, package = stub
    monkeypatch.setenv("WANDB_API_KEY", "abcdef123456")

    def broken(**_):
        raise OSError("no way there with abcdef123456")

    package.init = package.start_run = broken
    assert report([name], Run("r", "g", (), {}, tmp_path), OUTCOME) == []
    assert "did not take the result" in caplog.text
    assert "abcdef" not in caplog.text


def test_a_run_that_cannot_be_ended_costs_nothing_that_was_trained(stub, tmp_path, caplog):
    name, package = stub

    def broken(*_, **__):
        raise OSError("no way there")

    package.finish = package.end_run = broken
    assert followed(Tracking((name,), "g", tmp_path), "dpo-seed0", tmp_path / "dpo")
    assert "did not end its run: OSError: no way there" in caplog.text


def test_a_run_that_cannot_be_begun_ends_the_command_in_one_line(stub, tmp_path):
    name, package = stub

    def broken(**_):
        raise OSError("no way there, https://me:word@host")

    package.init = package.start_run = broken
    with pytest.raises(
        UserError, match=f"{name} cannot begin the run dpo-seed0: OSError: no way there, https://[*]{{3}}host"
    ):
        followed(Tracking((name,), "g", tmp_path), "dpo-seed0", tmp_path / "dpo")
    assert package.runs == []


def test_settings_are_logged_without_secrets(monkeypatch, tmp_path):
    package = stub_trackers.wandb(monkeypatch)
    values = {**TRAIN, "extra": {"hub_token": "hf_abcdefghijk", "label": "https://me:pass@host/x"}}
    method = make_method("dpo", values)
    with Tracking(("wandb",), "g", tmp_path).following("dpo-seed0", method, {"seed": 0}):
        pass
    said = json.dumps(package.runs[0].about["config"])
    assert '"beta": 0.1' in said
    assert "hf_abc" not in said
    assert "pass@" not in said


def test_wandb_gets_metrics_and_nothing_of_the_folder_it_is_called_from(monkeypatch, tmp_path):
    package = stub_trackers.wandb(monkeypatch)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    report(["wandb"], Run("r", "g", ("t" * 100,), {}, tmp_path), OUTCOME)
    about = package.runs[0].about
    assert (about["project"], about["dir"], about["tags"]) == ("ours", str(tmp_path), ["t" * 64])
    given = about["settings"]
    assert (given.save_code, given.disable_git, given.console) == (False, True, "off")


def test_a_run_of_ones_own_is_logged_to_and_left_open(monkeypatch, tmp_path):
    package = stub_trackers.wandb(monkeypatch)
    mine = package.init(name="mine")
    followed(Tracking(("wandb",), "g", tmp_path), "dpo-seed0", tmp_path / "dpo")
    assert package.runs == [mine]
    assert mine.ended is None
    assert mine.logged


def test_spaces_are_private_unless_asked_otherwise(monkeypatch, tmp_path):
    package = stub_trackers.trackio(monkeypatch)
    followed(Tracking(("trackio",), "g", tmp_path), "dpo-seed0", tmp_path / "dpo")
    assert package.runs[0].about["private"] is True
    assert package.runs[0].about["project"] == "preflab"
    assert package.runs[0].about["group"] == "g"


# ---- asking ------------------------------------------------------------------------------------------


def test_nothing_is_opened_unless_asked(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(runs, "open_at", lambda *given: opened.append(given))
    for names in ((), ("none",)):
        method = make_method("dpo", {**TRAIN, "report_to": names})
        with Tracking(names, "g", tmp_path).following("dpo", method, {}) as same:
            assert same is method
    assert opened == []


def test_what_methods_and_the_run_ask_for_is_asked_once():
    assert asked(("wandb", "none"), ("tensorboard", "wandb")) == ("wandb", "tensorboard")


def test_following_leaves_the_method_as_it_is(monkeypatch, tmp_path):
    stub_trackers.wandb(monkeypatch)
    method = make_method("dpo", {**TRAIN, "extra": {"run_name": "my own"}})
    before = method.identity()
    with Tracking(("wandb",), "g", tmp_path).following("dpo-seed0", method, {}) as other:
        assert other.train.report_to == ("wandb",)
        assert other.train.extra == {"run_name": "my own", "project": "preflab"}
    assert method.identity() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wand", r"there is no tracker 'wand' \(did you mean 'wandb'"),
        ("all", "would log to whatever is installed"),
        ("\x1b[2J", r"there is no tracker '\\x1b\[2J'"),
    ],
)
def test_what_is_no_tracker_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        check_trackers([name])


@pytest.mark.parametrize("name", list(TRACKERS))
def test_what_is_not_installed_is_said_with_what_to_install(name, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=f"{name}: {name} is not installed; pip install {name}"):
        check_trackers([name])
    check_trackers(["none", "swanlab"])


def test_wandb_must_be_logged_in_or_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(trackers, "find_spec", lambda package: package)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    kept = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(kept))
    with pytest.raises(UserError, match="not logged in; wandb login, or set WANDB_MODE=offline"):
        check_trackers(["wandb"])
    kept.write_text("machine api.wandb.ai\n  login user\n  password abc\n")
    kept.chmod(0o600)
    check_trackers(["wandb"])
    kept.write_text("machine elsewhere.org\n  login user\n  password abc\n")
    with pytest.raises(UserError, match="not logged in"):
        check_trackers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(["wandb"])


def test_a_group_is_the_folder_and_what_its_runs_share(tmp_path):
    one = group_of(tmp_path / "mine", WorldConfig(), settings())
    assert one.startswith("mine-")
    assert one == group_of(tmp_path / "." / "mine", WorldConfig(), settings())
    assert one != group_of(tmp_path / "mine", WorldConfig(quick=True), settings())


def test_tensorboards_variable_is_as_it_was(monkeypatch, tmp_path):
    board = trackers.TensorBoard()
    monkeypatch.setattr(board, "_writer", lambda place: Quiet())
    run = Run("dpo-seed0", "g", (), {}, tmp_path)
    monkeypatch.delenv(board.variable, raising=False)
    with board.following(run):
        assert os.environ[board.variable] == str(tmp_path / "tensorboard" / "dpo-seed0")
    assert board.variable not in os.environ
    monkeypatch.setenv(board.variable, str(tmp_path / "boards"))
    with board.following(run):
        assert os.environ[board.variable] == str(tmp_path / "boards" / "g" / "dpo-seed0")
    assert os.environ[board.variable] == str(tmp_path / "boards")


class Quiet:
    """A writer that writes nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def add_text(self, *_):
        pass
