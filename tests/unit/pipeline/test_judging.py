"""``--judge``: one road to every judge, for compare.py and evaluate.py alike."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from preflab.errors import UserError
from preflab.eval.comparison.contests import by_gold
from preflab.eval.judges import PLANTED, EndpointConfig, EndpointJudge, HumanVerdicts, JudgeSpec, judge_sentences
from preflab.eval.pipeline.bringing import Brought
from preflab.eval.pipeline.judging import (
    ByAnswers,
    JudgeConfig,
    check_held,
    judging,
    local,
    open_judge,
    open_people,
    open_rewards,
)
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.showing import judge_lines
from preflab.eval.pipeline.standing import maximised_by
from preflab.eval.records.comparison import Judge
from preflab.eval.records.figures import Figure
from preflab.eval.settings import EvalConfig
from preflab.eval.subjects import RewardSubject

NOTHING = Brought("auto", ())
URL = EndpointConfig(judge_url="http://localhost:1/v1", judge_model="m")


@pytest.fixture
def folder(tmp_path):
    """A reward adapter, a policy adapter, classifiers with one label and with two, a stage and a file of verdicts."""
    adapters = {"reward": "SEQ_CLS", "policy": "CAUSAL_LM", "stage/reward": "SEQ_CLS"}
    models = {"classifier": ["one"], "labels": ["one", "two"]}
    for name in (*adapters, *models):
        (tmp_path / name).mkdir(parents=True)
    for name, task in adapters.items():
        (tmp_path / name / "adapter_config.json").write_text(
            json.dumps({"task_type": task, "peft_type": "LORA", "r": 1, "lora_alpha": 1})
        )
        (tmp_path / name / "adapter_model.safetensors").write_bytes(name.encode())
    for name, labels in models.items():
        config = {"architectures": ["XForSequenceClassification"], "id2label": dict(enumerate(labels))}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    (tmp_path / "stage" / "stage.json").write_text("{}")
    row = {"prompt": "p", "first": "a", "second": "b", "verdict": "first"}
    (tmp_path / "verdicts.jsonl").write_text(json.dumps(row))
    return tmp_path


@pytest.mark.parametrize("name", ["reward", "stage", "classifier"])
def test_every_reward_model_judges(folder, name):
    (judge,) = open_judge({"judge": JudgeConfig(str(folder / name)), "endpoint": EndpointConfig()})
    assert isinstance(judge, RewardSubject)
    assert judge.adapter == (name != "classifier")


def test_several_reward_models_judge_together(folder):
    both = f"{folder / 'reward'},{folder / 'classifier'}"
    judge = open_judge({"judge": JudgeConfig(both), "endpoint": EndpointConfig()})
    assert [one.adapter for one in judge] == [True, False]
    (folder / "a,b").mkdir()
    (folder / "reward").rename(folder / "a,b" / "reward")
    (judge,) = open_judge({"judge": JudgeConfig(str(folder / "a,b" / "reward")), "endpoint": EndpointConfig()})
    with pytest.raises(UserError, match="--judge names one twice"):
        open_judge({"judge": JudgeConfig("x,x"), "endpoint": EndpointConfig()})


def test_the_other_judges(folder, tmp_path):
    assert open_judge({"judge": JudgeConfig(), "endpoint": EndpointConfig()}) is None
    verdicts = open_judge({"judge": JudgeConfig(str(folder / "verdicts.jsonl")), "endpoint": EndpointConfig()})
    assert isinstance(verdicts, HumanVerdicts)
    endpoint = EndpointConfig(judge_url="http://localhost:1/v1", judge_model="m", judge_cache=str(tmp_path / "cache"))
    assert isinstance(open_judge({"judge": JudgeConfig("endpoint"), "endpoint": endpoint}), EndpointJudge)


@pytest.mark.parametrize(
    ("spec", "endpoint", "parts"),
    [
        (
            "nowhere",
            EndpointConfig(),
            ["--judge takes 'endpoint'", "verdicts or a reward model", "nowhere"],
        ),
        ("", EndpointConfig(), ["--judge"]),
        ("policy", EndpointConfig(), ["--judge", "policy is a policy adapter"]),
        ("labels", EndpointConfig(), ["--judge", "2 labels"]),
        ("endpoint", EndpointConfig(), ["--judge-url"]),
        ("auto", URL, ["--judge is 'auto'; add --judge endpoint"]),
        ("reward", URL, ["--judge endpoint"]),
        ("verdicts.jsonl", EndpointConfig(judge_timeout=9.0), ["--judge-timeout is for --judge endpoint"]),
    ],
    ids=str,
)
def test_what_judges_nothing_is_answered(folder, monkeypatch, spec, endpoint, parts):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as answer:
        open_judge({"judge": JudgeConfig(spec), "endpoint": endpoint})
    for part in parts:
        assert part in str(answer.value)


def test_a_flag_is_named_where_no_reward_model_is(folder):
    with pytest.raises(UserError, match=r"--reward-model takes a reward model: .*policy is a policy adapter"):
        open_rewards("--reward-model", [str(folder / "policy")])


class Opened(RewardSubject):
    """A reward model whose weights nobody loads."""

    def judge(self, experiment, config):
        return "opened"


def asked(judge, maximised, own=lambda: None):
    experiment = SimpleNamespace(world=SimpleNamespace(model="m"))
    return judging(experiment, EvalConfig(), judge, own, maximised)  # type: ignore[arg-type]


def test_a_given_reward_model_gives_gold_and_nothing_else_is_trained(folder):
    given = Opened(str(folder / "classifier"), "reward model", adapter=False)
    found = asked([given], [folder / "reward"], own=pytest.fail)
    assert found.scores is not None
    assert found.scores.open == "opened"
    assert found.scores.key == f"given-{given.key}"
    assert found.decide is by_gold
    assert found.described() == Judge(name=f"reward model {given.source}", kind="scores", warning=None)


def test_the_reward_that_was_maximised_is_found_out_as_judge(folder):
    copy = folder / "copy"
    copy.mkdir()
    for path in (folder / "reward").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    facts = asked([Opened(str(copy))], [folder / "reward"]).about
    assert facts is not None
    assert "TRAINED AGAINST" in facts.warning
    hub = asked([Opened(str(folder / "reward"))], [folder / "classifier", "owner/name"]).about
    assert hub is not None
    assert hub.warning is None
    assert local("owner/name") == "owner/name"
    assert local(str(copy)) == copy


@pytest.mark.parametrize(
    ("names", "found"),
    [(["dpo", "reward"], []), (["dpo", "ppo"], [PLANTED]), (["best-of-n"], [PLANTED])],
    ids=["nobody", "a policy", "a choice of samples"],
)
def test_nothing_is_maximised_where_no_method_reads_a_reward(names, found):
    session = Session({"policy_reward": "gold"})
    assert maximised_by(session, [None], [session.method(name) for name in names], NOTHING) == found


def test_the_worlds_own_judge():
    planted = JudgeSpec(PLANTED, "key", (PLANTED,), pytest.fail)
    for maximised, warned in (([PLANTED], True), (["another"], False), ([], False)):
        facts = asked(None, maximised, own=lambda: planted).about
        assert facts is not None
        assert (facts.warning is not None) == warned
    assert asked(None, []) == (None, None, None)


def test_a_judge_that_compares_reports_at_the_end(folder):
    found = asked(HumanVerdicts(folder / "verdicts.jsonl"), [])
    assert isinstance(found.decide, ByAnswers)
    facts = found.described()
    assert facts is not None
    assert facts.kind == "compares"
    assert facts.report["missing"] == 0


def test_people_beside_a_judge(folder):
    path = str(folder / "verdicts.jsonl")
    assert open_people(JudgeConfig()) is None
    people = open_people(JudgeConfig(human_verdicts=path))
    assert isinstance(people, ByAnswers)
    assert isinstance(people.judge, HumanVerdicts)
    with pytest.raises(ValueError, match="verdicts say nothing of a judge that they are"):
        JudgeConfig(path, human_verdicts=path)
    with pytest.raises(UserError, match=r"absent\.jsonl"):
        open_people(JudgeConfig(human_verdicts=str(folder / "absent.jsonl")))
    check_held(people, 2)
    check_held(None, 0)
    with pytest.raises(UserError, match="nobody judges here: give their file as --judge"):
        check_held(people, 0)
    with pytest.raises(UserError, match="no answers of two policies are compared"):
        check_held(people, 1)


def test_an_endpoint_that_gave_the_reward_is_found_out_as_judge(tmp_path):
    values = {"world": "function", "model": "m", "reward": "endpoint", "policy_reward": "gold"}
    where = {"reward_endpoint_url": "http://localhost:1/v1", "reward_endpoint_model": "m"}
    session = Session({**values, **where})
    maximised = maximised_by(session, [None], [session.method("ppo")], NOTHING)
    for model, warned in (("m", True), ("another", False)):
        config = EndpointConfig(judge_url="http://localhost:1/v1", judge_model=model, judge_cache=str(tmp_path))
        facts = asked(EndpointJudge(config), maximised).about
        assert facts is not None
        assert (facts.warning is not None) == warned


def test_what_a_judge_says_of_itself():
    report = {
        **{"missing": 1371, "inconsistent": 0.234, "shown_first": 0.5, "unparsed": 3, "refused": 0},
        **{"answers": 2296, "prompt_tokens": 688800, "completion_tokens": 45920, "cost": 2.18},
        "agreement": {"observed": 0.8, "corrected": None},
    }
    judge = Judge(name="m\x1b[2J", kind="compares", warning="beware", report=report)
    text = " ".join(judge_sentences(judge))
    for part in ("1,371 pairs had no", "On 23 % of", "first with 50 %", "3 replies", "agree on 80 % of", "cost 2.18."):
        assert part in text
    assert "refused" not in text
    assert judge_lines(judge) == ["Warning, judge: beware", f"Judge: m\x1b[2J. {text}"]
    share = Figure(0.713, 0.69, 0.735, 1000)
    labels = "The judge agrees with the labels of 71.3 % [69.0, 73.5] of 1,000 held-out pairs."
    scores = Judge(name="reward model m", kind="scores", warning=None, heldout_accuracy=share)
    assert judge_lines(scores) == [f"Judge: reward model m. {labels}"]
    assert judge_lines(Judge(name="planted reward", kind="scores", warning=None)) == judge_lines(None) == []
    odd = {"missing": "many", "inconsistent": None, "cost": 1, "agreement": "yes", "sentences": 3}
    assert judge_sentences(replace(judge, report=odd)) == []
