"""AlpacaEval's own length-controlled win rate of our annotations, and ours."""

from __future__ import annotations

import json

import numpy as np
import pytest
from peers import HERE, export, python_of, run_in, write_lines
from scipy.special import expit

from preflab.disk.files import write_json
from preflab.eval.metrics import load
from preflab.eval.statistics import length_controlled_win_rate
from preflab.eval.statistics.lasso import cross_validated

SETS = {
    # name: games, log-odds at equal length, effect of length, share of ties, mean characters of model and baseline
    "no bias": (805, 0.4, 0.0, 0.0, (400, 400)),
    "longer wins": (805, 0.0, 1.5, 0.05, (600, 380)),
    "shorter wins": (400, 0.6, -1.0, 0.1, (300, 420)),
    "few, many ties": (128, -0.3, 0.8, 0.4, (420, 400)),
    "nearly all won": (256, 2.5, 0.5, 0.02, (500, 420)),
}
DRAWS = 5


def simulated(name, seed=0):
    """Return games and texts: rows of samples of a model, and of its reference, with gold scores that decide."""
    count, theta, phi, ties, means = SETS[name]
    draw = np.random.default_rng([seed, *name.encode()])
    lengths = [np.maximum(draw.gamma(4.0, mean / 4.0, count).astype(int), 1) for mean in means]
    longer = lengths[0] - lengths[1]
    won = draw.random(count) < expit(theta + phi * np.tanh(longer / longer.std()))
    gold = np.where(draw.random(count) < ties, 0.0, np.where(won, 1.0, -1.0))
    rows = [
        [
            {"prompt": f"Question {i}.", "response": "a" * int(n), "gold": float(g)}
            for i, (n, g) in enumerate(zip(side, score, strict=True))
        ]
        for side, score in zip(lengths, (gold, np.zeros(count)), strict=True)
    ]
    return rows


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """AlpacaEval's figures of every set and draw, from files that `preflab export` wrote."""
    python_of("alpaca_eval")
    folder, files = tmp_path_factory.mktemp("alpaca"), []
    for name in SETS:
        for seed in range(DRAWS):
            place = folder / f"{name} {seed}"
            for side, rows in zip(("model", "reference"), simulated(name, seed), strict=True):
                (place / side).mkdir(parents=True)
                write_lines(place / side / "samples.jsonl", rows)
            if seed == 0:
                export(place / "model", "--annotations", "a.json", "--against", place / "reference", cwd=place)
            else:
                from preflab.eval.exports import alpaca_annotations

                write_json(place / "a.json", alpaca_annotations(*simulated(name, seed), "preflab", "baseline"))
            files.append(str(place / "a.json"))
    write_json(folder / "request.json", {"annotations": files, "answer": str(folder / "answer.json")})
    run_in("alpaca_eval", [HERE / "in_alpaca_eval.py", folder / "request.json"], cwd=folder)
    found = iter(json.loads((folder / "answer.json").read_text()))
    return {(name, seed): (next(found), json.loads((folder / f"{name} {seed}" / "a.json").read_text()))
            for name in SETS for seed in range(DRAWS)}  # fmt: skip


def columns(rows):
    """Return wins and characters that the model's answers have more, of annotations."""
    longer = [len(row["output_2"]) - len(row["output_1"]) for row in rows]
    return np.array([row["preference"] - 1.0 for row in rows]), np.array(longer, dtype=float)


@pytest.mark.parametrize("name", SETS)
def test_win_rates_at_equal_length(theirs, name):
    """By AlpacaEval's fit within a tenth of a point; our own prior is as near to its model without a penalty."""
    for seed in range(DRAWS):
        found, rows = theirs[name, seed]
        won, longer = columns(rows)
        assert found["win_rate"] == pytest.approx(100 * won.mean(), abs=1e-9)
        alike = 100 * length_controlled_win_rate(won, longer, fit="alpaca_eval").win_rate.mean
        by_prior = 100 * length_controlled_win_rate(won, longer).win_rate.mean
        weight = cross_validated(won[None, None], np.tanh(longer / longer.std(ddof=1))[None, None]).weight
        rate = found["length_controlled_winrate"]
        print(
            f"{name:15} {seed} raw {found['win_rate']:6.2f} theirs {rate:6.2f} alike {alike - rate:+.3f} "
            f"prior {by_prior - rate:+.3f} without penalty {by_prior - found['unpenalised']:+.3f} "
            f"C {found['weight']:.4g} {weight:.4g}"
        )
        assert abs(alike - rate) <= 0.1
        # Which of two weights that predict alike is the better one, liblinear's tolerance decides; what is left of the
        # penalty then is little. One tied game more moves a rate by half a game at the most.
        assert weight == pytest.approx(found["weight"]) or min(weight, found["weight"]) > 1.0
        assert abs(by_prior - found["unpenalised"]) <= 50.0 / len(rows) + 0.02


def test_the_metric_has_the_fit_as_an_option(theirs):
    found, rows = theirs["longer wins", 0]
    won, longer = columns(rows)
    computed = load("length_controlled_win_rate").compute(games=won, longer=longer, fit="alpaca_eval")
    assert 100 * computed["length_controlled_win_rate"] == pytest.approx(found["length_controlled_winrate"], abs=0.1)
