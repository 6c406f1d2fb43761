import dataclasses
import json
import sys
import time

import pytest

from benchmarks.end_to_end import __main__ as end_to_end
from benchmarks.end_to_end import ours
from benchmarks.end_to_end.memory import Cost, measured
from benchmarks.end_to_end.work import LORA, MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS, WORKS, Job, prepare
from benchmarks.workloads import TRL_1_12
from preflab.data.encoding import Encoder, load_tokenizer
from preflab.errors import UserError
from preflab.eval.pipeline.comparing import COMPARE
from preflab.eval.pipeline.entries import CompareConfig
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.workers import at_a_time

TOY = WORKS["toy"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(TOY, tmp_path_factory.mktemp("toy"))


def rows(prepared, name):
    with open(f"{prepared[1]}/{name}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def session(job, *more):
    return Session.read("", COMPARE, argv=[*ours.command(job)[2:], *more])


# ---- the work ----------------------------------------------------------------------------------------


def test_a_share_of_the_steps_leaves_whole_rollouts():
    work = WORKS["embedded"].scaled(0.3)
    assert (work.sft.steps, work.reward.steps, work.dpo.steps, work.ppo.steps) == (19, 225, 38, 36)
    assert WORKS["embedded"].scaled(1) == WORKS["embedded"]
    assert min(stage.steps for stage in WORKS["llama-60m"].scaled(0.01)[1:4]) == 1
    assert WORKS["llama-60m"].scaled(0.01).ppo.steps == 4


def test_a_job_comes_back_as_it_was_written():
    job = Job(TOY, (0, 2), "base", "rows", "out")
    assert Job.read(job.written()) == job


@pytest.mark.parametrize("name", WORKS)
def test_preflab_is_asked_for_what_the_scripts_do(name, prepared, tmp_path):
    work = WORKS[name]
    asked = session(Job(work, (0, 1, 2), prepared[0], "", str(tmp_path)))
    start, reward = asked.stage_methods()
    dpo, ppo = map(asked.method, asked.config(CompareConfig).algorithms)
    for stage, method in ((work.sft, start), (work.reward, reward), (work.dpo, dpo), (work.ppo, ppo)):
        train = method.train
        assert (train.max_steps, train.optimiser_batch, train.learning_rate) == stage
        assert (train.micro_batch, train.warmup_steps, train.lr_scheduler_type) == (stage.batch, 0, "cosine")
    assert ppo.config.steps_per_rollout(ppo.train) * work.ppo.batch == work.epochs * work.rollout
    assert work.ppo.steps % ppo.config.steps_per_rollout(ppo.train) == 0
    assert (asked.lora.lora_rank, asked.lora.lora_alpha) == (LORA["r"], LORA["lora_alpha"])
    assert asked.run.seeds == (0, 1, 2)


def test_the_embedded_work_is_what_compare_does_of_itself(prepared, tmp_path):
    own = Session.read("", COMPARE, argv=[])
    asked = session(Job(WORKS["embedded"], (0, 1, 2), prepared[0], "", str(tmp_path)))
    for one, other in zip(own.stage_methods(), asked.stage_methods(), strict=True):
        assert one.config == other.config
        assert one.train.learning_rate == other.train.learning_rate
    for name in ("dpo", "ppo"):
        one, other = own.method(name), asked.method(name)
        assert one.config == other.config
        free = {"max_steps": 0, "num_train_epochs": 0.5, "train_batch_size": None}
        settings = [{**dataclasses.asdict(method.train), **free} for method in (one, other)]
        assert settings[0] == settings[1]
    same = ("eval_prompts", "eval_pairs", "eval_temperature")
    assert all(getattr(own.evaluation, field) == getattr(asked.evaluation, field) for field in same)
    assert own.run.seeds == asked.run.seeds
    assert at_a_time(own, timed=False) == at_a_time(asked, timed=False)
    # Of 2,000 demonstrations and 4,000 pairs.
    assert WORKS["embedded"].sft.steps == 2000 * own.stage_methods()[0].train.num_train_epochs // 32
    assert WORKS["embedded"].reward.steps == 4000 * own.stage_methods()[1].train.num_train_epochs // 16
    assert WORKS["embedded"].dpo.steps == 4000 * own.method("dpo").train.num_train_epochs // 32


# ---- both sides --------------------------------------------------------------------------------------


def test_trl_reads_the_very_tokens_that_preflab_does(prepared, tmp_path, monkeypatch):
    from benchmarks.end_to_end import trl_given

    job = Job(TOY, (0,), *prepared, str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["trl_given", job.written()])
    trl_given.main()
    [found] = json.loads((tmp_path / "trl_given.json").read_text())

    encoder = Encoder(load_tokenizer(prepared[0]), MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS)
    demonstrations = [
        {"prompt": row["prompt"], "response": row["completion"].strip()} for row in rows(prepared, "demonstrations")
    ]
    texts = rows(prepared, "pairs")
    pairs = [{name: text.strip() for name, text in row.items()} for row in texts]
    single = encoder.encode_demonstrations(demonstrations)[0]
    double, dropped = encoder.encode_pairs(pairs)
    assert not any(dropped.values())
    assert found["sft"]["tokens"] == sum(len(g.prompt_ids) + len(g.response_ids[0]) for g in single)
    both = sum(2 * len(g.prompt_ids) + sum(map(len, g.response_ids)) for g in double)
    assert found["reward"]["tokens"] == found["dpo"]["tokens"] == both
    assert [found[stage]["rows"] for stage in ("sft", "reward", "dpo")] == [600, 1200, 1200]
    assert [found[stage]["steps"] for stage in ("sft", "reward", "dpo")] == [6, 12, 12]
    assert (tmp_path / "0" / "reward" / "model.safetensors").is_file()
    assert len(json.loads((tmp_path / "0" / "baseline.json").read_text())) == TOY.prompts


@pytest.mark.slow
@pytest.mark.skipif(not TRL_1_12.exists(), reason="no environment with TRL 1.12; make trl-1.12")
def test_both_sides_do_the_same_work(tmp_path, monkeypatch):
    monkeypatch.setattr(end_to_end, "THREADS", ())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # nothing is timed, and others may need the cores
    mine, theirs = end_to_end.pair("toy", TOY, (0,), None, tmp_path)
    for stage in end_to_end.STAGES:
        for what in ("steps", "rows"):
            assert mine.found[stage][what] == theirs.found[stage][what] > 0
    for stage in ("sft", "reward", "dpo"):
        assert mine.found[stage]["tokens"] == theirs.found[stage]["tokens"] > 0
    assert theirs.found["ppo"]["sampled"] == mine.found["ppo"]["rows"]  # one epoch
    for side in (mine, theirs):
        assert side.cost.resident > 0
        assert side.cost.memory > 0
        assert side.found["ppo"].keys() >= {"gold", "wins", "accuracy"}


def test_sides_that_did_not_do_the_same_are_refused():
    mine = {stage: {"steps": 2.0, "rows": 8.0} for stage in end_to_end.STAGES}
    end_to_end.check_same(mine, mine)
    with pytest.raises(RuntimeError, match=r"rows of dpo are 8\.0 by preflab and 9\.0 by TRL"):
        end_to_end.check_same(mine, {**mine, "dpo": {"steps": 2.0, "rows": 9.0}})


def test_a_row_has_medians_of_pairs():
    figures = {"gold": 0.5, "wins": 0.6, "accuracy": 0.7, "seconds": 3.0}
    found = dict.fromkeys(end_to_end.STAGES, figures)

    def side(seconds, mebibytes):
        return end_to_end.Side(Cost(seconds, mebibytes * 2**20, 50 * 2**20), found)

    pairs = [(side(1, 100), side(2, 400)), (side(1, 100), side(4, 200)), (side(1, 100), side(3, 200))]
    row = end_to_end.row("toy", TOY, (0,), pairs)
    assert len(row) == len(end_to_end.HEADINGS)
    assert row[1:10] == [
        "6, 12, 12, 4",
        "1",
        "3",
        "**3.00** [2.00, 4.00]",
        "1",
        "3",
        "100",
        "200",
        "**0.50** [0.25, 0.50]",
    ]
    assert "accuracy of reward 0.70 / 0.70" in row[-1]
    assert end_to_end.over_seeds([{"dpo": {"gold": 1.0}}, {"dpo": {"gold": 2.0}}]) == {"dpo": {"gold": 1.5}}


@pytest.mark.parametrize("options", [["--works", "embeded"], ["--pairs", "0"], ["--share", "0"]])
def test_mistakes_on_the_command_line_are_answered(options):
    with pytest.raises(UserError):
        end_to_end.main(options)


# ---- memory ------------------------------------------------------------------------------------------

FORKS = """
import os, time
held = bytes(96 * 2**20)[::1] and bytearray(b"x" * (96 * 2**20))
children = [os.fork() or (time.sleep(1.5), os._exit(0)) for _ in range(2)]
time.sleep(1.2)
"""


def test_what_a_fork_shares_counts_once(tmp_path):
    began = time.perf_counter()
    cost = measured([sys.executable, "-c", FORKS], tmp_path / "log")
    assert 96 * 2**20 < cost.resident < cost.memory * 1.5
    assert cost.memory < 2 * 96 * 2**20
    assert 1 < cost.seconds <= time.perf_counter() - began


def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="no such thing"):
        measured([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path / "log")
