"""The harness's batches: like lengths together, figures where their rows are."""

from __future__ import annotations

import pytest

from eval.harness import scored
from preflab.encoding import EncodedGroup, collate

LENGTHS = [(2, 9), (7, 1), (1, 1), (3, 8), (2, 1), (8, 2)]  # of prompt and response


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_scores_stand_where_their_rows_do_and_like_lengths_go_together(size):
    batch = collate([EncodedGroup([5] * p, [[6] * r], row) for row, (p, r) in enumerate(LENGTHS)], 0)
    asked = []

    def score(part):
        lengths = part.prompt_mask.sum(-1)
        asked.append([p + r for p, r in zip(lengths.tolist(), part.response_mask[:, 0].sum(-1).tolist(), strict=True)])
        return 100 * lengths[:, None] + part.response_mask.sum(-1)

    assert scored(score, batch, size) == [100 * p + r for p, r in LENGTHS]
    assert max(map(len, asked)) <= size
    assert [length for part in asked for length in part] == sorted(p + r for p, r in LENGTHS)
