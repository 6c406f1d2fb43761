"""Methods and rewards that a person brings along: whatever they do wrong is answered by file and line."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint

import pytest
from tiny import train

from preflab.errors import PluginError, UserError
from preflab.method import registry
from preflab.method.configured import make_method
from preflab.method.plugins import brought_files
from preflab.rewards import RewardOptions, open_reward
from preflab.rewards.calls import LARGEST

METHOD = """
from __future__ import annotations
from dataclasses import dataclass, field, replace
import sys
import torch
from preflab import Batch, DecoderMethod, Loss, LossMethod, Mean, Needs, Pairwise, RolloutConfig, TrainerMethod, option
from preflab.method.contract import Needs

@dataclass(frozen=True)
class Settings:
    beta: float = option(0.1, "strength")

class Bare(LossMethod):
    Config = Settings
    needs = Needs("pair", ("policy",))
    def __init__(self, config): self.config = config
    def loss(self, batch, scores): return Loss(scores.logps.sum((1, 2)))

{body}
"""

PARTS = {
    "no class": ("Mine = Bare(None)", "no class"),
    "a function": ("def Mine(config): return Bare(config)", "no class"),
    "no loss": ("class Mine(LossMethod):\n    Config = Settings; needs = Bare.needs", "lacks loss, __init__; see"),
    "no pair_loss": ("class Mine(Pairwise): Config = Settings", "lacks pair_loss; see"),
    "no kind": ("class Mine:\n    Config = Settings; needs = Bare.needs", "lacks kind; inherit preflab.Pairwise"),
    "an unknown kind": ("class Mine(Bare): kind = 'lossy'", "is of the kind 'lossy', which there is not; inherit"),
    "a structure in part": (
        "class Mine:\n    kind, Config, needs = 'loss', Settings, Bare.needs",
        "lacks state, prepare, loss, .* inherit preflab.LossMethod, which",
    ),
    "no fit": ("class Mine(TrainerMethod):\n    Config = Settings; needs = Bare.needs", "lacks fit, __init__; see"),
    "fit of two": (
        "class Mine(TrainerMethod):\n    Config, needs, __init__ = Settings, Bare.needs, Bare.__init__\n"
        "    def fit(self, task, more): ...",
        r"fit has the arguments \(self, task, more\)",
    ),
    "no decode": (
        "class Mine(DecoderMethod):\n    Config = Settings; needs = Bare.needs",
        "lacks decode, __init__; see",
    ),
    "a plain class as Config": ("class Mine(Bare):\n    class Config: beta = 1", "must be a dataclass"),
    "Config is an object": ("class Mine(Bare): Config = Settings()", "must be a dataclass"),
    "no default": ("@dataclass\nclass C: beta: float\nclass Mine(Bare): Config = C", "Config.beta has no default"),
    "an unknown type": ("@dataclass\nclass C: beta: Flaot = 1.0\nclass Mine(Bare): Config = C", "NameError: .*Flaot"),
    "Config raises": (
        "@dataclass\nclass C:\n    def __post_init__(self): sys.exit(0)\nclass Mine(Bare): Config = C",
        "SystemExit: 0",
    ),
    "needs is a dict": ("class Mine(Bare): needs = {'responses': 'pair'}", "needs is .*must be a preflab.Needs"),
    "needs of nothing known": ("class Mine(Bare): needs = Needs('pears', ('policy',))", "needs.responses is 'pears'"),
    "a unit": ("class Mine(Bare): needs = Needs('pair', ('policy',), unit='word')", "needs.unit is 'word'"),
    "roles as text": ("class Mine(Bare): needs = Needs('pair', 'policy')", "needs.scores is 'policy'.*tuple"),
    "an unknown role": ("class Mine(Bare): needs = Needs('pair', ('critic',))", "needs.scores is .*critic"),
    "nothing learns": ("class Mine(Bare): needs = Needs('pair', ('reference',))", "the loss could not learn"),
    "no rollout settings": ("class Mine(Bare): needs = Needs('sampled', ('policy',))", "RolloutConfig"),
    "no prepare": (
        "class Mine(Bare):\n    Config = RolloutConfig\n    needs = Needs('sampled', ('policy',))",
        r"it defines no prepare\(rollout\)",
    ),
    "prepare of two": (
        "class Mine(Bare):\n    needs = Needs('pair', ('policy',), rollout=('policy',))\n"
        "    def prepare(self, rollout, more): ...",
        r"prepare has the arguments \(self, rollout, more\)",
    ),
    "loss of one": ("class Mine(Bare):\n    def loss(self, batch): ...", r"loss has the arguments \(self, batch\)"),
    "loss is async": ("class Mine(Bare):\n    async def loss(self, batch, scores): ...", "loss is async"),
    "loss is a number": ("class Mine(Bare): loss = 3", "loss is no function but 3"),
    "a training setting": ("class Mine(Bare): training = {'learning_rat': 1e-4}", "training: unknown field"),
    "a training value": ("class Mine(Bare): training = {'learning_rate': 'high'}", "training: learning_rate is 'high'"),
    "training is text": ("class Mine(Bare): training = 'fast'", "training is no mapping"),
    "a role unscored": (
        "class Mine(Bare): needs = Needs('pair', ('policy',), trains=('policy', 'value'))",
        "the loss could not learn; each role that learns must be scored",
    ),
    "a reference that learns": (
        "class Mine(Bare): needs = Needs('pair', ('policy', 'reference'), trains=('policy', 'reference'))",
        "the reference stands still",
    ),
    "an idle prepare": (
        "class Mine(Bare):\n    def prepare(self, rollout): ...",
        "it defines prepare, which is called where needs.rollout names roles, and it names none",
    ),
    "a loss that fits": (
        "class Mine(Bare):\n    def fit(self, task): ...",
        "it defines fit, a part of a TrainerMethod; it is a LossMethod, of which nothing calls it",
    ),
    "a loss that decodes": ("class Mine(Bare):\n    def decode(self, sampler): ...", "a part of a DecoderMethod"),
    "a state for all": ("class Mine(Bare): state = {'x': 0.0}", "would share; make it in __init__"),
    "raises": ("1 / 0\nclass Mine(Bare): ...", "ZeroDivisionError"),
    "exits": ("sys.exit(0)", "SystemExit: 0"),
    "leaves": ("raise GeneratorExit", "GeneratorExit"),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
    "an interrupt of its own": ("class Stop(KeyboardInterrupt): ...\nraise Stop('now')", "Stop: now"),
    "no syntax": ("class Mine(Bare: ...", "SyntaxError"),
    "its making fails": ("class Mine(Bare):\n    def __init__(self, config): raise OSError('no')", "OSError: no"),
    "its making exits": ("class Mine(Bare):\n    def __init__(self, config): sys.exit('bye')", "SystemExit: bye"),
}


def write(folder, template, body):
    path = folder / "mine.py"
    path.write_text(template.format(body=body), encoding="utf-8")
    return path


@pytest.mark.parametrize("part", PARTS)
def test_a_method_that_breaks_the_contract_is_refused_by_file_and_line(part, tmp_path):
    body, message = PARTS[part]
    path = write(tmp_path, METHOD, body)
    with pytest.raises(UserError, match=message) as refused:
        make_method(f"{path}:Mine")
    assert str(path) in str(refused.value)
    if part not in ("no class", "a function"):
        assert re.search(rf"{re.escape(str(path))}, line \d+", str(refused.value))


def test_needs_that_follow_from_the_config_are_held_to_the_contract_too(tmp_path):
    body = "class Mine(Bare):\n    def __init__(self, config): self.needs = Needs('pears', ('policy',))"
    with pytest.raises(UserError, match=r"Mine: needs.responses is 'pears'; choose one of demonstration"):
        make_method(f"{write(tmp_path, METHOD, body)}:Mine")


IDLE = {
    "score": ("ppo", "PPO", "PPO.prepare"),
    "feedback": ("rloo", "RLOO", "PolicyGradient.prepare"),
    "advantages": ("ppo", "PPO", "PPO.prepare"),
    "policy_loss": ("grpo", "GRPO", "TokenPolicyGradient.loss"),
    "value_loss": ("ppo", "PPO", "PPO.loss"),
    "normalised": ("grpo", "GRPO", "TokenPolicyGradient.loss"),
    "ratio": ("a2c", "A2C", "A2C.loss"),
    "optimum_of_loss": ("reinforce", "REINFORCE", "PolicyGradient.optimum"),
    "expected_advantages": ("rloo", "RLOO", "RLOO.optimum"),
}


@pytest.mark.parametrize("part", IDLE)
def test_a_part_of_a_policy_gradient_that_nothing_calls_is_refused_with_what_to_define(part, tmp_path):
    module, base, caller = IDLE[part]
    body = f"from preflab.algorithms.{module} import {base}\nclass Mine({base}):\n    def {part}(self, *given): ..."
    path = write(tmp_path, METHOD, body)
    wanted = rf"line \d+\): it defines {part}, which {caller} does not call; define {caller.split('.')[1]}"
    with pytest.raises(UserError, match=wanted):
        make_method(f"{path}:Mine")


HEARD = {
    "its own caller": (
        "class Mine(PPO):\n    def score(self, rollout): ...\n    def prepare(self, rollout): self.score(rollout)"
    ),
    "a caller of its base": (
        "class Base(PPO):\n    def prepare(self, rollout): self.score(rollout)\n"
        "class Mine(Base):\n    def score(self, rollout): ..."
    ),
    "a part that is there": "class Mine(GRPO):\n    def ratio(self, logps, behaviour_logps, mask): ...",
    "another part that is there": "class Mine(GRPO):\n    def expected_advantages(self, rewards, probabilities): ...",
    "no policy gradient": "class Mine(Bare):\n    def score(self): ...\n    def ratio(self): ...",
}


@pytest.mark.parametrize("body", HEARD.values(), ids=HEARD)
def test_a_part_that_something_calls_is_not_refused(body, tmp_path):
    imports = "from preflab.algorithms.grpo import GRPO\nfrom preflab.algorithms.ppo import PPO\n"
    registry.load(f"{write(tmp_path, METHOD, imports + body)}:Mine")


CALLS = {
    "raises": ("raise ValueError('no')", "ValueError: no"),
    "exits": ("sys.exit(0)", "SystemExit: 0"),
    "a typing error": ("return Loss(batch.feedback.margn)", "AttributeError: 'Labels' object has no attribute 'margn'"),
    "None": ("return None", "returned 'NoneType'"),
    "a tensor": ("return scores.logps.sum()", "returned 'Tensor'"),
    "a number in a Loss": ("return Loss(1.0)", "returned 'Loss'"),
    "no metrics": ("return Loss(scores.logps.sum((1, 2)), None)", "mapping of metrics"),
    "another shape": ("return Loss(scores.logps)", r"returned shape \(.*needs.unit is 'prompt'"),
    "whole numbers": ("return Loss(scores.logps.sum((1, 2)).long())", "torch.int64"),
    "no gradient": ("return Loss(scores.logps.sum((1, 2)).detach())", "do not depend on the scores of policy"),
    "a bare metric": ("return Loss(scores.logps.sum((1, 2)), {'x': 1.0})", "metric 'x' as float"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_loss_that_fails_in_training_is_answered_by_file_and_line(call, tmp_path):
    body, message = CALLS[call]
    path = write(tmp_path, METHOD, f"class Mine(Bare):\n    def loss(self, batch, scores):\n        {body}\n")
    with pytest.raises(UserError, match=message) as refused:
        train(make_method(f"{path}:Mine").fresh(), tmp_path / "run", max_steps=1)
    assert re.search(rf"Mine.loss .*{re.escape(str(path))}, line 2\d", str(refused.value))


def test_what_prepare_does_wrong_is_answered_too(tmp_path):
    needs = "    needs = Needs('pair', ('policy',), rollout=('policy',))\n    def prepare(self, rollout):\n        "
    for body, message in (("raise SystemExit", "prepare raised SystemExit"), ("return rollout", "returned Rollout")):
        path = write(tmp_path, METHOD, f"class Mine(Bare):\n{needs}{body}\n")
        with pytest.raises(UserError, match=message) as refused:
            train(make_method(f"{path}:Mine").fresh(), tmp_path / "run", max_steps=1)
        assert f"{path}, line" in str(refused.value)


def test_a_method_that_keeps_the_contract_trains(tmp_path):
    path = write(tmp_path, METHOD, "class Mine(Bare): ...")
    method = make_method(f"{path}:Mine")
    assert train(method.fresh(), tmp_path / "run", max_steps=1)[1].steps == 1
    assert brought_files(type(method.algorithm)) == {str(path)}


def test_our_own_methods_faults_are_no_plugins(tmp_path, monkeypatch):
    dpo = make_method("dpo")
    assert brought_files(type(dpo.algorithm)) == frozenset()
    monkeypatch.setattr(type(dpo.algorithm), "loss", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(dpo.fresh(), tmp_path / "run", max_steps=1)


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for folder, kind in (("a", "'p'"), ("b", "'q'")):
        (tmp_path / folder).mkdir()
        body = f"Kind = Literal[{kind}]\n@dataclass\nclass C: kind: Kind = {kind}\nclass Mine(Bare): Config = C"
        write(tmp_path / folder, METHOD.replace("import sys", "import sys\nfrom typing import Literal"), body)
    first, second = (f"{tmp_path / folder}/mine.py:Mine" for folder in "ab")
    classes = [registry.load(first), registry.load(second)]
    assert classes[0].__module__ != classes[1].__module__
    assert make_method(first, {"kind": "p"}).config.kind == "p"


def test_a_broken_package_stops_only_who_names_it(monkeypatch, tmp_path, caplog):
    (tmp_path / "broken_package.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    named = {"dpo": "preflab.algorithms.dpo:DPO", "bad": "broken_package:X"}
    points = [EntryPoint(name, value, registry.GROUP) for name, value in named.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry.registered.cache_clear()
    try:
        assert [cls.__name__ for cls in registry.load_all(["dpo"])] == ["DPO"]
        assert re.search(r"'bad' .*SystemExit: 0 .*broken_package.py, line 2", caplog.text)
        with pytest.raises(PluginError, match=r"broken_package\.py, line 2"):
            registry.load_all(["dpo", "bad"])
    finally:
        registry.registered.cache_clear()


# ---- rewards -----------------------------------------------------------------------------------------

REWARD = "import sys, numpy, torch\n{body}\n"
REWARDS = {
    "exits": ("def r(prompt, response): sys.exit(0)", "SystemExit: 0"),
    "leaves": ("def r(prompt, response): raise GeneratorExit", "GeneratorExit"),
    "an interrupt": ("class Stop(KeyboardInterrupt): ...\ndef r(prompt, response): raise Stop", "raised Stop"),
    "recursion": ("def r(prompt, response): return r(prompt, response)", "RecursionError"),
    "a generator": ("def r(prompt, response): yield 1.0", "yields"),
    "a class": ("class r:\n    def __init__(self, prompt, response): ...", "no function but a class"),
    "keywords": ("def r(prompt, response, *, scale): return 1.0", "scale"),
    "None": ("def r(prompt, response): pass", "returned None"),
    "text": ("def r(prompt, response): return '1.0'", r"returned '1.0' \(str\)"),
    "bytes": ("def r(prompt, response): return bytearray(b'1')", "bytearray"),
    "complex": ("def r(prompt, response): return 1j", "complex"),
    "a list": ("def r(prompt, response): return [1.0]", "list"),
    "two elements": ("def r(prompt, response): return torch.ones(2)", "Tensor"),
    "an array": ("def r(prompt, response): return numpy.ones(3)", "ndarray"),
    "an object": (
        "class N:\n    def __float__(self): 1 / 0\n    __repr__ = __float__\ndef r(prompt, response): return N()",
        "<N>",
    ),
    "infinite": ("def r(prompt, response): return numpy.float32('inf')", "returned inf"),
    "large": ("def r(prompt, response): return 1e31", "1e\\+30 at most"),
    "very large": ("def r(prompt, response): return 10 ** 5000", "<int>"),
    "not there": ("q = 1", "has no 'r'"),
    "at import": ("raise SystemExit(3)", "SystemExit: 3"),
}


def tried(path):
    reward = open_reward(RewardOptions(reward=f"{path}:r"))
    assert reward.repeats()
    return reward


@pytest.mark.parametrize("kind", REWARDS)
def test_a_reward_that_fails_is_answered_by_file_and_line(kind, tmp_path):
    body, message = REWARDS[kind]
    path = write(tmp_path, REWARD, body)
    with pytest.raises(UserError, match=message) as refused:
        tried(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("value", "expected"),
    [("True", 1.0), ("3", 3.0), ("numpy.float32(0.5)", 0.5), ("torch.tensor([2.0])", 2.0), (str(LARGEST), LARGEST)],
)
def test_whatever_is_a_number_is_a_reward(value, expected, tmp_path):
    path = write(tmp_path, REWARD, f"def r(prompt, response): return {value}")
    assert tried(path)(["a"], ["b"]) == [expected]


def test_a_methods_failing_checks_are_complaints(tmp_path):
    from preflab.eval.pipeline.conforming import check

    path = write(tmp_path, METHOD, "class Mine(Bare):\n    def loss(self, batch, scores): raise ValueError('no')")
    passed, complaints = check(make_method(f"{path}:Mine"))
    assert passed.startswith("0/")
    assert all(re.search(rf"raised ValueError: no \({re.escape(str(path))}, line \d+\)", line) for line in complaints)
