"""`score` and `compare_scores`: the harness's own numbers, models as they were, and a difference with its interval."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pandas
import pytest
import torch
from preference_files import preference_rows, write_rows
from transformers import AutoConfig, LlamaForSequenceClassification

import preflab
from preflab.errors import UserError
from preflab.eval.statistics import compare as paired

ROWS = preference_rows(60)
STEPS = {"max_steps": 4, "per_device_train_batch_size": 4}
TEMPLATE = "{% for m in messages %}{{ '<s> ' + m['content'] + ' </s> ' }}{% endfor %}"


@pytest.fixture(scope="module")
def classifier(tiny_model_path):
    torch.manual_seed(2)
    model = LlamaForSequenceClassification(AutoConfig.from_pretrained(tiny_model_path, num_labels=1))
    model.score.weight.data.normal_()
    return model


@pytest.fixture(scope="module")
def saved(classifier, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    classifier.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tiny_model_path, tmp_path_factory):
    return preflab.train(
        "reward",
        model=tiny_model_path,
        dataset=preference_rows(60, seed=3),
        output=tmp_path_factory.mktemp("trained"),
        max_prompt_tokens=8,
        max_response_tokens=8,
        lora_rank=4,
        evaluate=False,
        sft="none",
        **STEPS,
    )


@pytest.fixture(scope="module")
def first(classifier, tiny_tokenizer):
    return preflab.score(classifier, ROWS, tokenizer=tiny_tokenizer)


@pytest.fixture(scope="module")
def second(trained):
    return preflab.score(trained, ROWS)


@pytest.mark.parametrize("which", ["saved", "trained"])
def test_scores_are_those_of_the_harness(which, request, tmp_path, tiny_model_path):
    reward = request.getfixturevalue(which)
    found = preflab.score(reward, ROWS)
    preflab.evaluate(
        {"scorer": reward},
        model=tiny_model_path,
        heldout=ROWS,
        generate=False,
        output=tmp_path / "run",
        max_prompt_tokens=8,
        max_response_tokens=8,
        eval_pairs=60,
    )
    from preflab.disk.files import read_jsonl

    [stage] = (tmp_path / "run" / "stages").glob("eval-scorer-*")
    rows = read_jsonl(stage / "preferences.jsonl")
    ours = np.array(found.scores)
    theirs = np.array([(row["chosen_score"], row["rejected_score"]) for row in rows])
    assert len(ours) == len(theirs) == 60
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_loaded_classifier_scores_as_its_folder_does_and_stays_as_it_was(classifier, saved, tiny_tokenizer):
    classifier.train()
    before = copy.deepcopy(classifier)
    words = copy.deepcopy(tiny_tokenizer).get_vocab()
    found = preflab.score((classifier, tiny_tokenizer), ROWS)
    np.testing.assert_allclose(found.scores, preflab.score(saved, ROWS).scores, atol=1e-6)
    assert all(module.training for module in classifier.modules())
    for weight, other in zip(classifier.parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, other)
        assert weight.requires_grad == other.requires_grad
        assert weight.grad is None
    assert classifier.config.to_dict() == before.config.to_dict()
    assert tiny_tokenizer.get_vocab() == words
    assert found.name == "LlamaForSequenceClassification"


def test_rows_in_every_form_have_the_same_scores(first, classifier, tiny_tokenizer, tmp_path):
    for rows in (pandas.DataFrame(ROWS), write_rows(tmp_path / "pairs.jsonl", ROWS)):
        again = preflab.score(classifier, rows, tokenizer=tiny_tokenizer)
        assert (again.scores, again.data) == (first.scores, first.data)


def test_dialogues_are_written_by_the_models_own_template(classifier, tiny_tokenizer):
    words = copy.deepcopy(tiny_tokenizer)
    words.chat_template = TEMPLATE
    turns = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            **{k: [{"role": "assistant", "content": row[k].strip()}] for k in ("chosen", "rejected")},
        }
        for row in ROWS[:4]
    ]
    found = preflab.score((classifier, words), turns)
    for row, (chosen, _) in zip(ROWS[:4], found.scores, strict=True):
        text = f"<s> {row['prompt']} </s> <s> {row['chosen'].strip()} </s> "
        ids = tiny_tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            expected = copy.deepcopy(classifier).eval()(input_ids=ids).logits.item()
        assert chosen == pytest.approx(expected, abs=1e-5)


def test_single_responses_have_a_score_each(first, classifier, tiny_tokenizer):
    rows = [{"prompt": row["prompt"], "response": row[side]} for row in ROWS for side in ("chosen", "rejected")]
    found = preflab.score(classifier, rows, tokenizer=tiny_tokenizer)
    assert found.scores == pytest.approx([score for pair in first.scores for score in pair], abs=1e-5)
    assert found.accuracy is None
    assert len(found) == 120
    assert "120 responses" in str(found)


def test_bad_rows_keep_their_numbers(classifier, tiny_tokenizer, caplog):
    found = preflab.score(classifier, [ROWS[0], {"prompt": "word1"}, ROWS[1]], tokenizer=tiny_tokenizer)
    assert [row["row"] for row in found.rows] == [1, 3]
    assert "1 bad rows dropped" in caplog.text
    with pytest.raises(UserError, match="pairs has bad rows"):
        preflab.score(classifier, [ROWS[0], {"prompt": "word1"}], tokenizer=tiny_tokenizer, bad_rows="refuse")


def test_a_result_says_how_many_are_ranked_as_labelled(first):
    right = np.mean([(a > b) + 0.5 * (a == b) for a, b in first.scores])
    assert first.accuracy.mean == pytest.approx(right)
    assert first.accuracy.low < right < first.accuracy.high
    assert f"{100 * right:.1f} %" in str(first)
    assert "of 60 pairs" in str(first)
    assert list(first.to_pandas()["row"]) == list(range(1, 61))
    assert first.to_dict()["preferences"]["accuracy"]["mean"] == pytest.approx(right)
    assert "60 pairs" in first._repr_html_()


def test_two_scores_are_compared_pair_by_pair(first, second):
    found = preflab.compare_scores(first, second)
    right = [np.array([(a > b) + 0.5 * (a == b) for a, b in one.scores]) for one in (first, second)]
    expected = paired(right[0], right[1])
    assert found.difference.mean == pytest.approx(right[0].mean() - right[1].mean())
    assert (found.difference.low, found.difference.high) == pytest.approx(
        (expected.estimate.low, expected.estimate.high)
    )
    assert found.p == pytest.approx(expected.p)
    assert [one.mean for one in found.accuracies] == pytest.approx([one.mean() for one in right])
    assert str(found).startswith("Of 60 pairs, ranked as labelled: LlamaForSequenceClassification ")
    assert f"is better than {first.name}: {-100 * found.difference.mean:+.1f} percentage points" in str(found)
    turned = preflab.compare_scores(second, first)
    assert turned.difference.mean == pytest.approx(-found.difference.mean)
    assert turned.p == pytest.approx(found.p)
    assert list(found.to_pandas().index) == [found.first, found.second, "difference"]
    assert "points" in found._repr_html_()


def better(first, count):
    """Return scores that rank so many pairs as labelled."""
    rows = tuple({**row, "chosen_score": float(at < count), "rejected_score": 0.5} for at, row in enumerate(first.rows))
    return dataclasses.replace(first, name=f"right {count}", rows=rows)


def test_a_difference_beyond_chance_is_said_and_chance_is_not(first):
    clear = preflab.compare_scores(better(first, 55), better(first, 20))
    assert clear.p < 0.001
    assert clear.difference.low > 0
    assert "right 55 is better than right 20: +58.3 percentage points" in clear.sentence
    turned = preflab.compare_scores(better(first, 20), better(first, 55))
    assert "right 55 is better than right 20: +58.3 percentage points" in turned.sentence
    none = preflab.compare_scores(better(first, 30), better(first, 29))
    assert "No detectable difference" in none.sentence
    assert "four times in five" in none.sentence
    same = preflab.compare_scores(first, first)
    assert same.p == 1.0
    assert same.difference.mean == 0.0
    assert "No detectable difference" in same.sentence


def test_pairs_of_one_prompt_are_one_another(first):
    alone = preflab.compare_scores(better(first, 40), better(first, 30))
    grouped = [
        dataclasses.replace(one, rows=tuple({**row, "group": str(at // 10)} for at, row in enumerate(one.rows)))
        for one in (better(first, 40), better(first, 30))
    ]
    together = preflab.compare_scores(*grouped)
    assert together.difference.mean == pytest.approx(alone.difference.mean)
    assert together.p > 10 * alone.p, "one prompt's ten pairs are not ten prompts"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c, t, p: preflab.score(c, ROWS), "needs its tokenizer beside it, and none is given"),
        (lambda c, t, p: preflab.score(c, [], tokenizer=t), "pairs is empty"),
        (lambda c, t, p: preflab.score(c, ["text"], tokenizer=t), "pairs, row 1 is 'text'; a row is a dict"),
        (
            lambda c, t, p: preflab.score(c, ROWS, tokenizer=t, columns={"chosn": "a"}),
            "score: columns names the field 'chosn'",
        ),
        (lambda c, t, p: preflab.score(c, ROWS, tokenizer=t, model="M"), "loaded with its own; leave it out"),
        (lambda c, t, p: preflab.score(str(p), ROWS), "score takes a reward model, and"),
        (lambda c, t, p: preflab.score(str(p), ROWS, tokenizer=t), "tokenizer goes with a reward model that is loaded"),
        (lambda c, t, p: preflab.score("nowhere", ROWS), "nowhere does not exist"),
        (
            lambda c, t, p: preflab.score(c, [{**ROWS[0], "prompt": "word1 " * 200}], tokenizer=t),
            "reads 128 tokens, and a prompt with its response takes",
        ),
        (
            lambda c, t, p: preflab.score(c, [{"prompt": "a", "completion": "b", "label": True}], tokenizer=t),
            "single responses with a label",
        ),
        (
            lambda c, t, p: preflab.compare_scores(preflab.score(c, ROWS, tokenizer=t), 3),
            "takes two results of preflab.score",
        ),
        (
            lambda c, t, p: preflab.compare_scores(*(preflab.score(c, rows, tokenizer=t) for rows in (ROWS, ROWS[:9]))),
            "scores of different rows",
        ),
        (
            lambda c, t, p: preflab.compare_scores(*[preflab.score(c, ROWS[:1], tokenizer=t)] * 2),
            "one pair was scored by both",
        ),
    ],
)
def test_mistakes_are_answered(classifier, tiny_tokenizer, tiny_model_path, call, said):
    with pytest.raises(UserError) as raised:
        call(classifier, tiny_tokenizer, tiny_model_path)
    assert said in str(raised.value)
