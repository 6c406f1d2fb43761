"""A judge's win rate corrected by people, and how far they agree, held to other ways of computing the same."""

from __future__ import annotations

import numpy as np
import pytest

from preflab.eval.statistics import FEWEST_VERDICTS, agreement, interval, prediction_powered

N = 300


def verdicts(rng, *, right=0.8, rate=0.55, shape=(N,)):
    """What people say, and a judge that errs for the first of two methods alone."""
    human = rng.choice([1.0, 0.5, 0.0], p=[rate - 0.05, 0.1, 0.95 - rate], size=shape)
    judged = np.where((human < 1.0) & (rng.random(shape) > right), 1.0, human)
    return human, judged


def asked(human, count):
    """The first `count` of them; prompts come in no order."""
    some = np.full_like(human, np.nan)
    some[..., :count] = human[..., :count]
    return some


def by_hand(judged, human):
    """PPI++ (arXiv 2311.01453, sections 2 and 6) as it stands there: n labelled, N unlabelled apart from them.

    ``mean(Y) + λ (mean of the unlabelled f − mean of the labelled f)``, ``λ = cov(Y, f) / ((1 + n/N) var(f))``, and the
    variance ``var(Y − λf)/n + λ² var(f)/N``.
    """
    labelled = np.isfinite(human)
    y, f, others = human[labelled], judged[labelled], judged[~labelled]
    n, many = len(y), len(others)
    weight = np.cov(y, f)[0, 1] / np.var(f, ddof=1) / (1 + n / many)
    mean = y.mean() + weight * (others.mean() - f.mean())
    return mean, np.sqrt(np.var(y - weight * f, ddof=1) / n + weight**2 * np.var(judged, ddof=1) / many)


def test_the_estimate_is_that_of_the_paper_whose_unlabelled_prompts_are_others():
    human, judged = verdicts(np.random.default_rng(0))
    for count in (20, 100, 250):
        some = asked(human, count)
        mean, error = by_hand(judged, some)
        found = prediction_powered(judged, some)
        assert found.estimate.mean == pytest.approx(mean, abs=1e-12)
        assert found.estimate.n == count
        half = (found.estimate.high - found.estimate.low) / 2
        # Student's quantile and the added verdict, in place of the normal one of very many.
        assert 1.96 * error * 0.99 < half < 1.96 * error * (1.25 if count == 20 else 1.05)


def test_the_estimate_is_a_regression_read_at_the_judges_mean():
    human, judged = verdicts(np.random.default_rng(1))
    slope, level = np.polyfit(judged[:60], human[:60], 1)
    found = prediction_powered(judged, asked(human, 60))
    assert found.estimate.mean == pytest.approx(level + slope * judged.mean(), abs=1e-12)
    assert found.weight == pytest.approx(slope, abs=0.02)


def test_a_judges_lean_is_taken_out_and_its_interval_is_narrower_than_peoples_alone():
    rng, off, narrower = np.random.default_rng(2), [], []
    for _ in range(200):
        human, judged = verdicts(rng, right=0.85)
        some = asked(human, 60)
        found, alone = prediction_powered(judged, some).estimate, interval(human[:60], rate=False)
        off.append((judged.mean() - 0.55, found.mean - 0.55))
        narrower.append((found.high - found.low) / (alone.high - alone.low))
    judge, corrected = np.mean(off, axis=0)
    assert judge > 0.04
    assert abs(corrected) < 3 * np.std([row[1] for row in off]) / np.sqrt(200)
    assert np.mean(narrower) < 0.8


@pytest.mark.parametrize(("right", "count"), [(0.6, 50), (0.95, 20)])
def test_the_interval_holds_what_people_would_say(right, count):
    """95 of 100, give or take three standard errors of 400 draws; the judge's own holds it in fewer than half."""
    rng, held, judges = np.random.default_rng(3), 0, 0
    for _ in range(400):
        human, judged = verdicts(rng, right=right)
        found, judge = prediction_powered(judged, asked(human, count)).estimate, interval(judged, rate=True)
        held += found.low <= 0.55 <= found.high
        judges += judge.low <= 0.55 <= judge.high
    assert held / 400 > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400)
    assert judges / 400 < (0.05 if right == 0.6 else 0.95)


def test_a_judge_without_an_opinion_leaves_people_alone():
    human, _ = verdicts(np.random.default_rng(4))
    found = prediction_powered(np.full(N, 0.5), asked(human, 100))
    alone = interval(human[:100], rate=False)
    assert found.weight == 0.0
    assert found.estimate.mean == pytest.approx(alone.mean)
    assert found.estimate.high - found.estimate.low == pytest.approx(alone.high - alone.low, rel=0.02)


def test_a_judge_that_is_never_wrong_on_few_verdicts_is_not_taken_for_one_that_never_is():
    """With 15 of 15 alike, one in five may still be otherwise (Wilson, 95 %)."""
    human, _ = verdicts(np.random.default_rng(5))
    found, judge = prediction_powered(human, asked(human, 15)).estimate, interval(human, rate=True)
    assert found.mean == pytest.approx(human.mean())
    assert found.low <= found.mean <= found.high
    assert found.high - found.low > 1.3 * (judge.high - judge.low)


def test_equal_answers_are_ties_of_which_people_need_not_be_asked():
    human, judged = verdicts(np.random.default_rng(6))
    alike = np.zeros((1, N), dtype=bool)
    alike[:, 200:] = True
    with_ties = prediction_powered(judged, asked(human, 50), alike=alike)
    without = prediction_powered(judged[:200], asked(human, 50)[:200])
    assert with_ties.estimate.mean == pytest.approx((2 * without.estimate.mean + 0.5) / 3)
    # What the judge or anybody says of them changes nothing.
    said = np.where(alike[0], 1.0, asked(human, 50))
    assert prediction_powered(np.where(alike[0], 0.0, judged), said, alike=alike) == with_ties


def test_seeds_have_rectifiers_of_their_own_and_the_interval_is_as_wide_as_they_differ():
    rng = np.random.default_rng(7)
    human, judged = verdicts(rng, shape=(3, N))
    some = asked(human, 80)
    found = prediction_powered(judged, some)
    single = [prediction_powered(row, few).estimate for row, few in zip(judged, some, strict=True)]
    assert found.estimate.mean == pytest.approx(np.mean([one.mean for one in single]), abs=0.01)
    # On one seed the judge leans otherwise, and people show it: a rectifier for all would hide it.
    judged[0] = np.where(rng.random(N) < 0.4, 0.0, judged[0])
    human[0] = verdicts(rng, rate=0.8)[0]
    apart = prediction_powered(judged, asked(human, 80)).estimate
    assert apart.high - apart.low > 1.5 * (found.estimate.high - found.estimate.low)


def test_rows_that_share_a_model_count_as_one():
    human, judged = verdicts(np.random.default_rng(8), shape=(3, N))
    some = asked(human, 80)
    shared = prediction_powered(judged, some, models=[0, 1, 0])
    rows = [prediction_powered(row, few).estimate.mean for row, few in zip(judged, some, strict=True)]
    assert shared.estimate.mean == pytest.approx(((rows[0] + rows[2]) / 2 + rows[1]) / 2, abs=0.01)
    assert shared.estimate.mean != prediction_powered(judged, some).estimate.mean
    # Two groups, one degree of freedom.
    assert shared.estimate.high - shared.estimate.low > 0.2


def test_what_makes_no_estimate_is_refused():
    human, judged = verdicts(np.random.default_rng(9))
    with pytest.raises(ValueError, match=f"9 answers of seed 0; {FEWEST_VERDICTS} are the fewest"):
        prediction_powered(judged, asked(human, 9))
    with pytest.raises(ValueError, match="shapes"):
        prediction_powered(judged[:10], asked(human, 20))
    with pytest.raises(ValueError, match=r"judged holds 2\.0"):
        prediction_powered(judged + 2.0 * (judged == 0), asked(human, 20))
    with pytest.raises(ValueError, match="judged holds nan"):
        prediction_powered(np.where(judged == 1, np.nan, judged), asked(human, 20))
    with pytest.raises(ValueError, match="level"):
        prediction_powered(judged, asked(human, 20), level=95)


# ---- agreement ---------------------------------------------------------------------------------------


def test_agreement_beyond_chance_by_hand():
    """8 of 10 alike; the judge ties on none, people on two: chance is 0·0.2 + 1·0.8/2."""
    judge = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 0.0])
    human = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0.5, 0.5])
    found = agreement(judge, human)
    assert found.share.mean == pytest.approx(0.8)
    assert found.kappa.mean == pytest.approx((0.8 - 0.4) / 0.6)
    share = interval([1.0] * 8 + [0.0] * 2, rate=True)
    assert (found.share.low, found.share.high) == (share.low, share.high)
    assert found.kappa.low == pytest.approx((share.low - 0.4) / 0.6)
    assert found.kappa.high == pytest.approx((share.high - 0.4) / 0.6)


def test_it_does_not_matter_which_response_is_called_first_nor_how_sure_several_people_are():
    rng = np.random.default_rng(10)
    human, judged = verdicts(rng)
    turned = rng.random(N) < 0.5
    assert agreement(np.where(turned, 1 - judged, judged), np.where(turned, 1 - human, human)) == agreement(
        judged, human
    )
    assert agreement(judged, 0.5 + (human - 0.5) / 3) == agreement(judged, human)


def test_kappa_is_nought_for_coins_one_for_the_same_and_nothing_where_all_are_ties():
    rng = np.random.default_rng(11)
    coins = rng.integers(0, 2, (2, 20_000)).astype(float)
    assert abs(agreement(*coins).kappa.mean) < 3 / np.sqrt(20_000)
    assert agreement(coins[0], coins[0]).kappa.mean == 1.0
    assert agreement(coins[0], coins[0]).kappa.low < 1.0
    assert agreement([0.5, 0.5], [0.5, 0.5]).kappa is None


def test_answers_to_one_prompt_are_no_independent_ones():
    human, judged = verdicts(np.random.default_rng(12))
    prompts = np.arange(N) // 3
    thrice = agreement(np.repeat(judged[:100], 3), np.repeat(human[:100], 3), prompts).share
    once = agreement(judged[:100], human[:100]).share
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.02)
    with pytest.raises(ValueError, match="same pairs"):
        agreement(judged, human[:5])
