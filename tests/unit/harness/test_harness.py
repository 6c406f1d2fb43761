"""The harness's batches: like lengths together, figures where their rows are."""

from __future__ import annotations

import os

import pytest

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup
from preflab.eval.harness.evaluate import _part
from preflab.model.in_parts import scored

LENGTHS = [(2, 9), (7, 1), (1, 1), (3, 8), (2, 1), (8, 2)]  # of prompt and response


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_scores_stand_where_their_rows_do_and_like_lengths_go_together(size):
    batch = collate([EncodedGroup([5] * p, [[6] * r], row) for row, (p, r) in enumerate(LENGTHS)], 0)
    asked = []

    def score(part):
        lengths = part.prompt_mask.sum(-1)
        asked.append([p + r for p, r in zip(lengths.tolist(), part.response_mask[:, 0].sum(-1).tolist(), strict=True)])
        return 100 * lengths[:, None] + part.response_mask.sum(-1)

    assert scored(score, batch, size).tolist() == [[100 * p + r] for p, r in LENGTHS]
    assert max(map(len, asked)) <= size
    assert [length for part in asked for length in part] == sorted(p + r for p, r in LENGTHS)


@pytest.mark.parametrize("size", [1, 2, 4, 6, 100])
def test_the_responses_of_a_prompt_go_together_as_many_as_the_size_allows(size):
    groups = [EncodedGroup([5] * p, [[6] * r, [6] * (r + 1), [6] * (r + 4)], row) for row, (p, r) in enumerate(LENGTHS)]
    asked = []

    def score(part):
        asked.append(part.response_ids.shape[:2].numel())
        return 100 * part.prompt_mask.sum(-1)[:, None] + part.response_mask.sum(-1)

    expected = [[100 * p + r, 100 * p + r + 1, 100 * p + r + 4] for p, r in LENGTHS]
    assert scored(score, collate(groups, 0), size).tolist() == expected
    assert max(asked) == min(size, 18) - (size == 4)  # whole prompts of three, where a whole one fits
    assert sum(asked) == 18


SPOILT = {
    "a digit flipped": lambda p: p.write_bytes(p.read_bytes().replace(b"1", b"3")),
    "cut at a line's end": lambda p: os.truncate(p, p.read_bytes().index(b"\n") + 1),
    "emptied": lambda p: os.truncate(p, 0),
    "a folder": lambda p: (p.unlink(), p.mkdir(), (p / "x").write_text("")),
    "digests flipped": lambda p: (p.parent / "SHA256SUMS").write_text("nothing\n"),
    "digests gone": lambda p: (p.parent / "SHA256SUMS").unlink(),
    "the other part's": lambda p: p.write_bytes((p.parent / "answers-128.jsonl").read_bytes()),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_damaged_part_of_a_killed_evaluation_is_made_again(tmp_path, caplog, name):
    made = []

    def part(at):
        return _part(tmp_path, f"answers-{at}.jsonl", lambda: made.append(at) or [{"ids": [at, 1]}, {"ids": [at, 2]}])

    first = part(0), part(128)
    assert (part(0), part(128)) == first
    assert made == [0, 128]
    SPOILT[name](tmp_path / "answers-0.jsonl")
    assert part(0) == first[0]
    assert made == [0, 128, 0]
    (said,) = (record.getMessage() for record in caplog.records)
    assert "evaluated again" in said
    assert part(0) == first[0]
    assert made == [0, 128, 0]


def test_a_file_that_nobody_vouches_for_is_no_part(tmp_path):
    (tmp_path / "preferences.jsonl").write_text('{"row": 0}\n')
    assert _part(tmp_path, "preferences.jsonl", lambda: [{"row": 1}]) == [{"row": 1}]
