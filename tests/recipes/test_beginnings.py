"""What a run needs at its end is checked at its beginning; a start that fails leaves no folder."""

from __future__ import annotations

import random
import shutil
import socket

import numpy as np
import pytest
import torch
from preference_files import preference_rows, write_rows

from preflab.errors import UserError
from preflab.eval.judges.settings import EndpointConfig
from preflab.eval.pipeline.comparing import COMPARE, compare
from preflab.eval.pipeline.entries import check_entries
from preflab.eval.pipeline.judging import JudgeConfig, open_judge
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.showing import check_report
from preflab.method.configured import make_method
from preflab.recipes.conformance import main as conformance
from preflab.settings.fields import build
from preflab.training.rehearsal import rehearse

SMALL = ["--threads", "1", "--max-prompt-tokens", "16", "--max-response-tokens", "8"]


@pytest.fixture
def opened(tiny_model_path, tmp_path):
    """Open a session on the tiny model and some rows, in a run folder that is not there yet."""

    def make(rows, *argv, methods=(), fewest=2):
        data = write_rows(tmp_path / "pairs.jsonl", rows)
        given = ["--model", tiny_model_path, "--dataset", data, "--output", tmp_path / "run", *SMALL, *argv]
        session = Session.read("test", COMPARE, argv=list(map(str, given)))
        judged = {"eval_prompts": fewest, "heldout": 2}
        return session.open([session.method(name) for name in methods], judged=judged)

    return make


def test_figures_need_two_held_out_prompts_and_pairs(opened, tmp_path, monkeypatch):
    assert opened(preference_rows(40)) is not None
    monkeypatch.setattr("preflab.experiment.experiment.Experiment.eval_prompts", ["one"])
    for fresh in (False, True):
        if fresh:
            shutil.rmtree(tmp_path / "run")
        with pytest.raises(UserError, match=r"1 held-out prompts are left .*at least 2; give more data"):
            opened(preference_rows(40))
        assert (tmp_path / "run").exists() == (not fresh), "what was there before stays"


def test_a_comparison_takes_as_many_test_prompts_as_can_show_a_difference(opened, tmp_path):
    with pytest.raises(
        UserError,
        match=r"held-out prompts are left .* significant by their signs take at least 500; give more",
    ):
        opened(preference_rows(40), fewest=500)
    assert not (tmp_path / "run").exists()


def test_too_few_test_prompts_are_answered_before_anything_is_trained(tiny_model_path, tmp_path):
    def session(rows, **values):
        data = write_rows(tmp_path / "pairs.jsonl", preference_rows(rows))
        given = {"model": str(tiny_model_path), "dataset": str(data), "output": str(tmp_path / "run"), **values}
        limits = {"max_prompt_tokens": 16, "max_response_tokens": 8, "algorithms": ("dpo", "ppo")}
        return Session({**limits, **given}, configs=COMPARE)

    with pytest.raises(UserError, match=r"--eval-prompts is 6, and with fewer than 7 test prompts"):
        compare(session(96, eval_prompts=6))
    with pytest.raises(UserError, match=r"held-out prompts are left .* take at least 7; give more data"):
        compare(session(40, heldout_fraction=0.1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["comparison.json", "manifest.json", "report"])
def test_what_is_in_the_way_of_a_result_is_named_first(name, opened, tmp_path):
    if name == "report":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / name).write_text("")
    else:
        (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{name} is (a|no) folder.*choose --output"):
        opened(preference_rows(40))


def test_little_space_is_said(opened, monkeypatch, caplog):
    monkeypatch.setattr("preflab.experiment.opening.LITTLE_SPACE", 2**70)
    opened(preference_rows(40))
    assert "MiB are free on the disk" in caplog.text


SETTINGS = {
    "tracker": ({"report_to": ["no_such_tracker"]}, "no_such_tracker"),
    "optimiser": ({"optim": "no_such_optimiser"}, "no_such_optimiser"),
    "package": ({"optim": "lomo"}, "lomo"),
    "schedule": ({"extra": {"lr_scheduler_kwargs": {"no_such": 1}}}, "no_such"),
    "engine": ({"extra": {"deepspeed": "no_such.json"}}, "deepspeed"),
    "sharding": ({"extra": {"fsdp": "nonsense"}}, "fsdp|nonsense"),
    "twice": ({"extra": {"max_steps": 3}}, "max_steps"),
    "unread": ({"extra": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor is not read"),
    "upload": ({"extra": {"push_to_hub": True}}, "push_to_hub is not read"),
    "unknown": ({"extra": {"learning_rat": 1}}, "learning_rat"),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_what_the_libraries_do_not_take_is_refused_before_training(kind):
    values, message = SETTINGS[kind]
    with pytest.raises(UserError, match=message) as refused:
        rehearse(make_method("dpo", values))
    assert str(refused.value).startswith("dpo: ")


def test_a_rehearsal_leaves_randomness_alone(opened, tmp_path):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for name in ("dpo", "ppo", "trl-dpo"):
        rehearse(make_method(name, {"optim": "adafactor", "extra": {"lr_scheduler_kwargs": {}}}))
    rehearse(make_method("best-of-n"))
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    with pytest.raises(UserError, match="no_such"):
        opened(preference_rows(40), "--dpo.report-to", "no_such", methods=["dpo"])
    assert not (tmp_path / "run").exists()


def test_a_budget_cannot_be_taken_from_what_trains_nothing():
    def checked(*algorithms, **budget):
        return check_entries(Session({"algorithms": algorithms, "match": "tokens", **budget}, configs=COMPARE))

    with pytest.raises(UserError, match="best-of-n trains nothing"):
        checked("best-of-n", "dpo")
    assert len(checked("dpo", "best-of-n")) == 2
    assert len(checked("best-of-n", "dpo", budget=1000.0)) == 2


def test_a_report_needs_what_draws_it(monkeypatch):
    monkeypatch.setattr("preflab.eval.pipeline.showing.find_spec", lambda name: None)
    check_report(False)
    with pytest.raises(UserError, match="matplotlib"):
        check_report(True)


def test_the_conformance_page_is_looked_for_first(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["conformance.py", "--docs", str(tmp_path)])
    with pytest.raises(UserError, match=r"holds no conformance.md"):
        conformance()


def test_an_endpoint_that_nobody_serves_is_said_before_training(tmp_path, monkeypatch, caplog):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as served:
        port = served.getsockname()[1]
        values = {"judge_url": f"http://127.0.0.1:{port}/v1", "judge_model": "m", "judge_cache": str(tmp_path)}
        open_judge({"judge": JudgeConfig("endpoint"), "endpoint": build(EndpointConfig, values, "here")})
        assert caplog.text == ""
    open_judge({"judge": JudgeConfig("endpoint"), "endpoint": build(EndpointConfig, values, "here")})
    assert f"nobody answers at judge_url http://127.0.0.1:{port}/v1" in caplog.text
    own = build(EndpointConfig, {**values, "judge_key_variable": "MY_OWN_KEY"}, "here")
    with pytest.raises(UserError, match="MY_OWN_KEY, which is to hold the judge's key, is not set"):
        open_judge({"judge": JudgeConfig("endpoint"), "endpoint": own})


def test_one_of_several_processes_is_answered_before_anything_is_opened(opened, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE is 2, and RANK is not set"):
        opened(preference_rows(40))
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert opened(preference_rows(40)) is not None
