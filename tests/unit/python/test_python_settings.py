"""Keyword arguments as settings: each to its place, and what has none refused with what was meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import preflab
from preflab.algorithms.dpo import DPO
from preflab.errors import UserError
from preflab.eval.pipeline.comparing import COMPARE
from preflab.eval.pipeline.training import TRAIN
from preflab.eval.python.objects import Later
from preflab.eval.python.settings import asked

PLACE = "preflab.algorithms.dpo:DPO"


def test_each_setting_has_its_place():
    found = asked(
        "compare",
        COMPARE,
        {
            "model": Path("M"),
            "dataset": "D",
            "seeds": 3,
            "max_steps": 5,
            "sft": {"max_steps": 2},
            "online_dpo": {"beta": 1},
        },
        algorithms=["dpo", DPO],
        methods={DPO: {"beta": 0.5}, "reinforce++": {"max_steps": 1}},
    )
    assert found.values == {"model": "M", "dataset": "D", "seeds": [0, 1, 2], "max_steps": 5}
    assert found.sections == {
        PLACE: {"beta": 0.5},
        "reinforce++": {"max_steps": 1},
        "sft": {"max_steps": 2},
        "online-dpo": {"beta": 1},
    }
    assert found.names == ("dpo", PLACE)


def test_a_setting_and_a_method_of_one_name_are_told_apart_by_what_they_are():
    assert asked("compare", COMPARE, {"sft": "none"}).values == {"sft": "none"}
    assert asked("compare", COMPARE, {"sft": {"max_steps": 1}}).sections == {"sft": {"max_steps": 1}}


def test_a_class_goes_by_its_own_name():
    assert asked("compare", COMPARE, {"DPO": {"beta": 2.0}}, algorithms=[DPO]).sections == {PLACE: {"beta": 2.0}}


def test_the_settings_of_the_one_method_stand_among_the_others():
    found = asked(
        "train", TRAIN, {"beta": 0.2, "learning_rate": 1e-3, "heldout_fraction": 0.3}, algorithms="dpo", flat=True
    )
    assert (found.values, found.sections) == ({"heldout_fraction": 0.3}, {"dpo": {"beta": 0.2, "learning_rate": 1e-3}})


@pytest.mark.parametrize("seeds", [[4, 5], (4, 5), range(4, 6)])
def test_seeds_are_a_number_of_them_or_themselves(seeds):
    assert asked("compare", COMPARE, {"seeds": seeds}).values["seeds"] == [4, 5]


def test_columns_may_be_a_dict():
    assert asked("compare", COMPARE, {"columns": {"chosen": "a"}}).values == {"columns": ["chosen=a"]}


def test_objects_wait_until_settings_are_right():
    values = asked("compare", COMPARE, {"dataset": [{"prompt": "a"}], "prompts": ["x"], "model": object()}).values
    assert all(isinstance(values[name], Later) for name in ("dataset", "prompts", "model"))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: preflab.compare(["dpo"], modl="M"), "compare: unknown setting 'modl' (did you mean 'model'"),
        (lambda: preflab.compare(["dop"]), "unknown method 'dop' (did you mean"),
        (lambda: preflab.compare([3]), "a method is named, or given as a class, and not as 3"),
        (lambda: preflab.compare(3), "methods are named, or given as classes, and not as 3"),
        (lambda: preflab.compare(["dpo"], dpo={"bet": 1}), "dpo: unknown field 'bet' (did you mean 'beta'"),
        (lambda: preflab.compare(["dpo"], dpo=0.2), "dpo takes the method's settings as a dict"),
        (
            lambda: preflab.compare(["dpo"], onlin_dpo={"beta": 1}),
            "unknown section 'onlin_dpo' (did you mean 'online-dpo'",
        ),
        (lambda: preflab.compare(["dpo"], methods={"dpo": 3}), "methods['dpo'] is 3; it must be a dict"),
        (lambda: preflab.compare(["dpo"], dpo={"beta": 1}, methods={"dpo": {"beta": 2}}), "beta of dpo is given twice"),
        (lambda: preflab.compare(["dpo"], seeds=0), "seeds is 0; give how many, 1 or more, or list them"),
        (lambda: preflab.compare(["dpo"], seeds="0,1"), "seeds is '0,1'; give how many"),
        (lambda: preflab.compare(["dpo"], seeds=True), "seeds is True"),
        (lambda: preflab.compare(["dpo"], model="M", tokenizer=object()), "tokenizer goes with a model that is loaded"),
        (lambda: preflab.compare(["dpo"], tokenizer=object()), "tokenizer goes with a model that is loaded"),
        (
            lambda: preflab.compare(["dpo"], sft=torch.nn.Linear(1, 1)),
            "sft is a loaded Linear, and it takes a name or a folder",
        ),
        (lambda: preflab.train("dpo", bet=1), "train: unknown setting 'bet' (did you mean 'beta'"),
        (lambda: preflab.train(["dpo", "kto"]), "train takes one method"),
        (lambda: preflab.train("dpo", beta=1, dpo={"beta": 2}), "beta of dpo is given twice"),
        (lambda: preflab.evaluate("runs/x"), "models is 'runs/x'; give a dict of models"),
        (lambda: preflab.evaluate({"a b": "x"}), "the name 'a b' must be of letters"),
    ],
)
def test_mistakes_are_said(call, said):
    with pytest.raises(UserError) as raised:
        call()
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"heldout_fraction": 2.0}, "heldout_fraction is 2.0; it must be at least 0.0 and at most 0.8"),
        ({"long_prompt": "drop"}, "unknown setting 'long_prompt' (did you mean 'long_prompts'"),
        ({"dpo": {"beta": "much"}}, "beta"),
        ({"sampled": {"bta": 1}}, "sampled: unknown field 'bta'"),
    ],
)
def test_nothing_is_written_before_the_other_settings_are_right(tmp_path, settings, said):
    output = tmp_path / "run"
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(UserError) as raised:
        preflab.compare(["dpo"], model=object(), dataset=rows, output=output, cache=tmp_path / "cache", **settings)
    assert said in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_an_object_leaves_no_run_folder(tmp_path, tiny_model_path):
    output = tmp_path / "run"
    with pytest.raises(UserError, match="dataset, row 2 is 'text'"):
        preflab.compare(["dpo"], model=tiny_model_path, dataset=[{"prompt": "a"}, "text"], output=output)
    with pytest.raises(UserError, match="has no usable row"):
        preflab.compare(["dpo"], model=tiny_model_path, dataset=[{"prompt": "a"}], output=output)
    assert not output.exists()


def test_mistakes_are_answered_before_torch_is_imported():
    code = """
import sys
import preflab
rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
for call in (
    lambda: preflab.compare(["dpo"], modl="M"),
    lambda: preflab.compare(["dpo"], dataset=rows, heldout_fraction=3.0),
    lambda: preflab.train("dpo", dataset=rows, model="M", beta="x"),
    lambda: preflab.evaluate({"x": "y"}, eval_prompts=0),
):
    try:
        call()
    except preflab.UserError:
        continue
    raise SystemExit(1)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
