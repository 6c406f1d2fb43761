"""The annotator's page: blind, harmless, in step with the file of verdicts, several annotators side by side."""

from __future__ import annotations

import re

import pytest
from annotation_site import NAMES, Visitor, rows_in
from hostile import HOSTILE

from preflab.eval.annotation.pairs import Pair
from preflab.eval.annotation.sitting import Sitting

UNSEEN = re.compile(r"[^\n -~\u00a0-\U000e0000]|[\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def shown_to(visitor, presses):
    """Return what is shown while these buttons are pressed."""
    seen = []
    for button in presses:
        seen.append(tuple(visitor.texts))
        visitor.send(button)
    return seen


# ---- what is shown -----------------------------------------------------------------------------------


def test_pairs_come_as_the_sitting_draws_them(site, pairs, log):
    sitting, expected = Sitting(pairs, log, "Ada", 3), []
    while shown := sitting.current:
        expected.append((shown.pair.prompt, *shown.responses))
        sitting.skip(shown)
    assert shown_to(Visitor(site(seed=3)), "s" * 8) == expected


def test_nothing_says_whose_an_answer_is(site):
    client, answers = site(), []
    visitor = Visitor(client)
    for button in "12tsu1":
        answers.append(visitor.send(button))
    answers += [client.get(path) for path in ("", "summary", "summary?annotator=Ada", "page.css", "page.js", "nowhere")]
    answers += [visitor.send("1", pair="nothing"), client.post("judge", data={"do": "1"})]
    while visitor.open().text.count('dir="auto"'):
        answers.append(visitor.send("1"))
    assert "All 8 pairs are judged" in answers[-1].text
    for answer in [one for last in answers for one in (last, *last.history)]:
        everything = answer.text + str(answer.headers) + str(answer.url)
        assert not [name for name in (*NAMES, "models", "verdicts.jsonl") if name in everything]
    # Names of pairs are the same whichever model comes first, and say nothing of it (`test_sitting`).
    assert all(re.fullmatch("[0-9a-f]{24}", name) for name in re.findall('name="pair" value="(.*?)"', answers[0].text))


@pytest.mark.parametrize("text", [*HOSTILE.values(), "</textarea></div>\t</form>", "&lt;b&gt; &amp;#x202e;"])
def test_texts_are_texts(text, site, log):
    visitor = Visitor(site([Pair(f"p {text}", f"x {text}", f"y {text}")]))
    page = visitor.page.text
    assert len(visitor.texts) == 3
    assert not UNSEEN.search(page)
    for tag in ("<script>", "<img", "<svg", "<!--<", "onerror='", "onload=window.canary=1>"):
        assert tag not in page
    assert page.count("<script") == page.count('<script src="page.js" defer></script>') == 1
    assert page.count("</form>") == page.count("</textarea>") == 1
    if text.isprintable():
        assert visitor.texts[0] == f"p {text}"
    visitor.send("t")
    assert {rows_in(log.path)[0][name] for name in ("first", "second")} == {f"x {text}", f"y {text}"}, "as they are"


def test_a_book_is_cut_and_says_so(site, log):
    book = "word " * 200_000
    visitor = Visitor(site([Pair("p", book, "y")]))
    assert len(visitor.page.content) < 300_000
    assert "… 800,0" in visitor.page.text
    visitor.send("1")
    assert book in rows_in(log.path)[0].values()


def test_an_answer_of_nothing_is_not_an_empty_box(site):
    assert "<em>(nothing)</em>" in Visitor(site([Pair("p", " \n", "y")])).page.text


def test_names_are_texts_too(site, log):
    row = {"prompt": "prompt 0:", "first": "lorem 0", "second": "ipsum 0", "verdict": "tie"}
    for name in ("<b>Eve</b>\u202e", "", "Bob"):
        log.append({**row, "annotator": name})
    client = site()
    for page in (client.get("").text, client.get("summary").text):
        assert "&lt;b&gt;Eve&lt;/b&gt;\\u202e" in page
        assert "(no name)" in page
        assert not UNSEEN.search(page)
    assert 'href="judge?annotator=%3Cb%3EEve%3C/b%3E%E2%80%AE"' in client.get("").text
    assert "1 of 8 judged" in client.get("judge", params={"annotator": "<b>Eve</b>\u202e"}).text


# ---- what is written ---------------------------------------------------------------------------------


def test_a_verdict_is_on_disk_before_the_next_pair_is_shown(site, log):
    visitor = Visitor(site())
    for count, button in enumerate("12t12", 1):
        _, left, right = visitor.texts
        answer = visitor.send(button, note="  it\r\nrambles " if count == 2 else "")
        assert [one.status_code for one in (*answer.history, answer)] == [303, 200]
        rows = rows_in(log.path)
        assert len(rows) == count
        row = rows[-1]
        better = {"1": left, "2": right}.get(button)
        assert row["verdict"] == ("tie" if better is None else "first" if better == row["first"] else "second")
        assert (row[row["shown"]["1"]], row[row["shown"]["2"]]) == (left, right)
        assert row["annotator"] == "Ada"
        assert row.get("note") == ("it rambles" if count == 2 else None)
        assert f"{count} of 8 judged" in answer.text
        assert visitor.texts[1:] != [left, right]


def test_the_same_form_sent_twice_is_one_verdict(site, log):
    visitor = Visitor(site())
    sent = visitor.fields
    first = visitor.send("1").text
    assert visitor.send("1", sent).text == first, "nothing is said of a button struck twice"
    assert "the verdict given then stands" in visitor.send("2", sent).text
    visitor.send("s", sent)
    assert "1 of 8 judged<" in visitor.page.text
    assert len(rows_in(log.path)) == 1


def test_undo_sent_twice_takes_one_verdict_back(site, log):
    visitor = Visitor(site())
    assert " disabled>" in visitor.page.text
    seen = shown_to(visitor, "12")
    sent = visitor.fields
    assert "judge this pair again" in visitor.send("u").text
    assert tuple(visitor.texts) == seen[1]
    visitor.send("u", sent)
    assert tuple(visitor.texts) == seen[1]
    assert len(rows_in(log.path)) == 1
    visitor.send("u")
    assert tuple(visitor.texts) == seen[0]
    assert "There is nothing to undo" in visitor.send("u").text
    assert rows_in(log.path) == []


def test_what_was_skipped_is_shown_again_at_the_end(site, log):
    visitor = Visitor(site())
    [skipped] = shown_to(visitor, "s")
    shown_to(visitor, "1" * 7)
    assert "7 of 8 pairs are judged, and 1 skipped." in visitor.page.text
    visitor.send("again")
    assert tuple(visitor.texts) == skipped
    assert "All 8 pairs are judged" in visitor.send("2").text
    assert tuple(visitor.send("u") and visitor.texts) == skipped
    assert len(rows_in(log.path)) == 7


def test_another_start_goes_on_where_this_one_was_left(site, log):
    seen = shown_to(Visitor(site()), "s12")
    visitor = Visitor(site())
    assert "2 of 8 judged" in visitor.page.text
    assert tuple(visitor.texts) == seen[0], "what was skipped is open again"
    before = log.path.read_bytes()
    visitor.send("u")
    assert tuple(visitor.texts) == seen[2]
    visitor.send("2")
    assert log.path.read_bytes() == before
    assert tuple(visitor.texts) == seen[0]


def test_a_form_of_an_earlier_start_or_another_seed_writes_nothing(site, log):
    old = Visitor(site())
    now = Visitor(site(seed=1))
    assert now.client.post("judge", data={**old.fields, "do": "1"}).status_code == 403
    answer = now.send("1", {**old.fields, "secret": now.fields["secret"]})
    assert "nothing was written" in answer.text
    assert rows_in(log.path) == []


def full(descriptor):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_said_and_nothing_counts(site, log, monkeypatch, caplog):
    visitor = Visitor(site())
    sent, seen = visitor.fields, visitor.texts
    with monkeypatch.context() as failing:
        failing.setattr("os.fsync", full)
        answer = visitor.send("1")
    assert answer.status_code == 500
    assert "could not be written, and does not count" in answer.text
    assert str(log.path) not in answer.text
    assert "No space left" in caplog.text
    assert rows_in(log.path) == []
    visitor.open()
    assert (visitor.texts, visitor.fields) == (seen, sent)


# ---- several annotators ------------------------------------------------------------------------------


def test_annotators_have_an_order_and_progress_of_their_own(site, log):
    client = site()
    ada, bob = Visitor(client), Visitor(client, "Bob")
    seen = {"Ada": [], "Bob": []}
    for _ in range(8):
        for one in (ada, bob):
            seen[one.name].append(one.texts[0])
            one.send("1")
    assert seen["Ada"] != seen["Bob"]
    assert sorted(seen["Ada"]) == sorted(seen["Bob"])
    assert [row["annotator"] for row in rows_in(log.path)] == ["Ada", "Bob"] * 8
    bob.send("u")
    assert [row["annotator"] for row in rows_in(log.path)].count("Ada") == 8
    first = client.get("").text
    assert re.findall(r"<bdi>(\w+)</bdi></a> <span class=\"note\">(\d) of 8", first) == [("Ada", "8"), ("Bob", "7")]
    summary = client.get("summary", params={"annotator": "Bob"}).text
    assert "Of 7 pairs that two or more of 2 annotators judged" in summary
    assert 'href="judge?annotator=Bob"' in summary
    assert "<table>" not in summary
    Visitor(client, "Cleo").send("t")
    assert client.get("summary").text.count("<tr><th") == 4, "a heading, and every two"


def test_nobody_leaves_a_trace_by_looking(site, log):
    client = site()
    for number in range(200):
        client.get("judge", params={"annotator": f"n{number}"})
    assert "Go on" not in client.get("").text
    assert log.path.read_bytes() == b""


def test_only_so_many_annotators_come(site, monkeypatch):
    monkeypatch.setattr("preflab.eval.annotation.web.site.MOST_ANNOTATORS", 2)
    client = site()
    for name in ("Ada", "Bob"):
        Visitor(client, name).send("s")
    assert Visitor(client, "Eve").send("s").status_code == 429
    assert Visitor(client, "Ada").send("1").status_code == 200


@pytest.mark.parametrize("name", ["", " \t ", "a\u202eb", "a\x00", "\u200b", "x" * 61])
def test_what_is_no_name_is_refused(name, site):
    answer = site().get("judge", params={"annotator": name})
    assert answer.status_code == 400
    assert "A name has 1 to 60 characters" in answer.text


def test_one_annotator_is_not_two_by_spaces_or_capitals(site):
    client = site()
    Visitor(client, "  Ada \u00a0 L. ").send("1")
    assert "1 of 8 judged" in Visitor(client, "Ada L.").page.text
    answer = client.get("judge", params={"annotator": "ada l."})
    assert answer.status_code == 400
    assert "There is an annotator Ada L. already" in answer.text


def test_where_one_is_named_by_the_command_nobody_else_judges(site, log):
    log.append({"prompt": "p", "first": "a", "second": "b", "verdict": "tie", "annotator": "Bob"})
    client = site(annotator="Ada")
    assert client.get("").url.path == "/judge"
    Visitor(client).send("1")
    assert client.get("judge", params={"annotator": "Bob"}).status_code == 403
    assert "Bob" not in client.get("summary").text.partition("Agreement")[0]
