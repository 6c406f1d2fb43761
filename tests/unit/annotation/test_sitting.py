"""One annotator's way through the pairs: drawn, resumed, undone, and never written twice."""

from __future__ import annotations

import json

import pytest
from annotation_site import rows_in

from preflab.eval.annotation.log import VerdictLog
from preflab.eval.annotation.pairs import Pair, drawn
from preflab.eval.annotation.sitting import Sitting


def order(pairs, log, annotator="Ada", seed=0):
    """Return what is shown, in order, by skipping through."""
    sitting, seen = Sitting(pairs, log, annotator, seed), []
    while shown := sitting.current:
        seen.append((shown.pair.prompt, *shown.responses))
        sitting.skip(shown)
    return seen


def judge_all(sitting, choices):
    for choice in choices:
        sitting.judge(sitting.current, choice)


def test_order_and_places_are_drawn_for_each_annotator_and_seed(pairs, log):
    ada = order(pairs, log)
    assert ada == order(pairs[::-1], log), "whatever the order in the file"
    assert sorted(prompt for prompt, *_ in ada) == [pair.prompt for pair in pairs]
    for other in (order(pairs, log, "Bob"), order(pairs, log, seed=1)):
        assert [prompt for prompt, *_ in other] != [prompt for prompt, *_ in ada]
        assert set(other) != set(ada), "other places"
        assert {prompt for prompt, *_ in other} == {prompt for prompt, *_ in ada}


def test_places_say_nothing_of_which_model_is_named_first(pairs, log):
    """Who knows the seed can work out what anybody sees: which of two texts stands first in the alphabet."""
    turned = [Pair(pair.prompt, pair.second, pair.first) for pair in pairs]
    assert order(turned, log) == order(pairs, log)


def test_places_are_even(log):
    many = [Pair(str(i), "x", "y") for i in range(400)]
    left = sum(responses[0] == "x" for _, *responses in order(many, log))
    assert 150 < left < 250  # five standard deviations of a fair coin


def test_a_limit_draws_the_same_pairs_for_all(pairs, log):
    few = drawn(pairs, 0, 3)
    assert len(few) == 3
    assert few == drawn(pairs[::-1], 0, 8)[:3], "a larger limit keeps them"
    assert {p for p, *_ in order(few, log)} == {p for p, *_ in order(few, log, "Bob")}


def test_a_verdict_is_of_the_response_that_stood_there(pairs, log):
    sitting = Sitting(pairs, log, "Ada", 0)
    for choice in "1212t12t":
        shown = sitting.current
        assert sitting.judge(shown, choice)
        row = rows_in(log.path)[-1]
        better = {"1": shown.responses[0], "2": shown.responses[1]}.get(choice)
        assert row["verdict"] == ("tie" if better is None else "first" if better == row["first"] else "second")
        assert (row[row["shown"]["1"]], row[row["shown"]["2"]]) == shown.responses
        assert row["models"] == {"first": "zebra-method", "second": "quagga-method"}
    assert (sitting.current, sitting.judged, sitting.total) == (None, 8, 8)


def test_the_second_time_nothing_is_written(pairs, log):
    sitting = Sitting(pairs, log, "Ada", 0)
    shown = sitting.current
    assert sitting.judge(shown, "1")
    assert sitting.judge(shown, "1"), "it stands, having been given"
    assert not sitting.judge(shown, "2"), "another one stands"
    assert not sitting.judge(shown, "t")
    sitting.skip(shown)
    assert len(rows_in(log.path)) == sitting.judged == 1
    assert sitting.skipped == 0


def test_what_stands_is_known_whichever_response_a_file_calls_first(pairs, log):
    shown = Sitting(pairs, log, "Ada", 0).current
    row = {"prompt": shown.pair.prompt, "first": shown.pair.second, "second": shown.pair.first, "verdict": "first"}
    log.append({**row, "annotator": "Ada"})
    again = Sitting(pairs, log, "Ada", 0)
    assert again.judge(shown, str(1 + shown.responses.index(shown.pair.second)))
    assert not again.judge(shown, str(1 + shown.responses.index(shown.pair.first)))
    assert len(rows_in(log.path)) == 1


def test_what_was_skipped_comes_again_when_asked_for_or_next_time(pairs, log):
    sitting = Sitting(pairs, log, "Ada", 0)
    first = sitting.current
    sitting.skip(first)
    judge_all(sitting, "1" * 7)
    assert (sitting.current, sitting.skipped, sitting.judged) == (None, 1, 7)
    assert Sitting(pairs, log, "Ada", 0).current == first
    sitting.show_skipped()
    assert (sitting.current, sitting.skipped) == (first, 0)
    sitting.undo()
    assert (sitting.judged, sitting.current != first) == (6, True), "the last verdict, not the skip"
    judge_all(sitting, "11")
    assert sitting.judged == 8


def test_undo_goes_back_through_earlier_sessions_and_leaves_others_alone(pairs, log):
    ada, bob = (Sitting(pairs, log, name, 0) for name in ("Ada", "Bob"))
    asked = [ada.current]
    ada.judge(ada.current, "1")
    asked.append(ada.current)
    ada.judge(ada.current, "2")
    judge_all(bob, "1t")
    before = log.path.read_bytes().splitlines()
    ada = Sitting(pairs, log, "Ada", 0)
    ada.skip(ada.current)
    assert ada.undo(), "the skip"
    assert ada.undo()
    assert ada.current == ada.named(asked[1].name) == asked[1]
    assert log.path.read_bytes().splitlines() == [before[0], *before[2:]], "Bob's, to the byte"
    assert ada.undo()
    assert not ada.undo()
    assert (ada.judged, ada.last, ada.current) == (0, None, asked[0])
    assert [row["annotator"] for row in rows_in(log.path)] == ["Bob", "Bob"]
    assert bob.judged == 2
    ada.judge(ada.current, "t")
    log.close()
    assert len(VerdictLog(log.path).verdicts()) == 3


def test_undo_opens_a_pair_that_a_file_has_twice(pairs, log):
    sitting = Sitting(pairs, log, "Ada", 0)
    sitting.judge(sitting.current, "1")
    log.append({**rows_in(log.path)[0], "verdict": "tie"})
    sitting = Sitting(pairs, log, "Ada", 0)
    assert sitting.judged == 1
    sitting.undo()
    assert (sitting.judged, rows_in(log.path)) == (0, [])


def test_a_note_is_kept_and_the_file_is_read_as_ever(pairs, log):
    sitting = Sitting(pairs, log, "Ada", 0)
    sitting.judge(sitting.current, "1", "both are\u2028odd \ud800")
    sitting.judge(sitting.current, "1")
    first, second = (json.loads(line) for line in log.path.read_text(encoding="utf-8").split("\n")[:2])
    assert first["note"] == "both are\u2028odd \ud800"
    assert "note" not in second
    assert len(log.verdicts()) == 2


def test_a_pair_of_another_sitting_has_no_name_here(pairs, log):
    shown = Sitting(pairs, log, "Ada", 0).current
    for other in (Sitting(pairs, log, "Bob", 0), Sitting(pairs, log, "Ada", 1)):
        assert other.named(shown.name) is None
    assert Sitting(pairs, log, "Ada", 0).named(shown.name) == shown


def test_rows_without_an_annotator_are_nobodys(pairs, log):
    row = {"prompt": pairs[0].prompt, "first": pairs[0].first, "second": pairs[0].second, "verdict": "tie"}
    log.append(row)
    assert log.annotators() == [""]
    assert Sitting(pairs, log, "Ada", 0).judged == 0
    assert Sitting(pairs, log, "", 0).judged == 1


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_file_that_is_put_away_while_it_is_open_is_not_written_to(what, pairs, log):
    from preflab.errors import UserError

    sitting = Sitting(pairs, log, "Ada", 0)
    sitting.judge(sitting.current, "1")
    log.path.unlink()
    if what == "replaced":
        log.path.write_text("")
    open_before = sitting.current
    with pytest.raises(UserError, match="was removed or replaced while it was open"):
        sitting.judge(sitting.current, "1")
    with pytest.raises(UserError, match="was removed or replaced"):
        sitting.undo()
    assert (sitting.current, sitting.judged) == (open_before, 1)
