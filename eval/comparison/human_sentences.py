"""What people's verdicts say of a judge and of its verdict, in sentences. Names in them are untrusted."""

from __future__ import annotations

from preflab.eval.metrics.measures import percent
from preflab.eval.records.comparison import Summary
from preflab.eval.records.figures import Figure
from preflab.eval.records.humans import HumanPair, Humans
from preflab.eval.statistics import FEWEST_VERDICTS


def contested(summary: Summary) -> str:
    """Return which findings of the judge people's verdicts leave open or contradict; nothing where they bear it out."""
    winners = {(pair.first, pair.second): pair.winner for pair in summary.pairwise if pair.winner}
    pairs = summary.humans.pairs if summary.humans else ()
    found = [(pair, winners.get((pair.first, pair.second))) for pair in pairs if pair.corrected]
    return " ".join(_contested(pair, winner) for pair, winner in found if winner and pair.better != winner)


def _contested(pair: HumanPair, winner: str) -> str:
    """Return why a finding does not stand: a difference that is not there, or one to the other side."""
    assert pair.corrected is not None
    loser = pair.second if winner == pair.first else pair.first
    rate = pair.corrected if winner == pair.first else _turned(pair.corrected)
    said = f"the win rate of {winner} over {loser} is {_share(rate)} once corrected by {pair.verdicts} human verdicts"
    if pair.better is None:
        return f"People do not bear this out: {said}, which does not leave out no difference."
    return f"People contradict this: {said}."


def human_sentences(humans: Humans) -> list[str]:
    """Return how far the judge agrees with people, and for every pair the win rate by the judge, by them, by both."""
    found = [_agreement(humans), *_annotators(humans), *(_pair(pair) for pair in humans.pairs)]
    if humans.unmatched:
        found.append(
            f"{humans.unmatched:,} of the {humans.verdicts:,} pairs in {humans.name} are no answers of two methods "
            "here, and count for nothing."
        )
    return found


def _agreement(humans: Humans) -> str:
    share, kappa = humans.agreement, humans.kappa
    if share is None:
        return f"No answers compared here are among the {humans.verdicts:,} pairs in {humans.name}."
    beyond = f"; kappa, which sets off chance, {kappa.mean:.2f} [{kappa.low:.2f}, {kappa.high:.2f}]" if kappa else ""
    return f"The judge agrees with people on {_share(share)} of {share.n:,} pairs of answers{beyond}."


def _annotators(humans: Humans) -> list[str]:
    """Return how far people agree among themselves, and how several verdicts on a pair count."""
    said = humans.annotators
    if said is None:
        return []
    share = Figure(said["observed"], said["observed_low"], said["observed_high"], said["pairs"])
    beyond = f"; kappa {said['corrected']:.2f}" if said["corrected"] is not None else ""
    return [
        f"Two or more of {said['annotators']} annotators judged {share.n:,} of the pairs in {humans.name}; two of them "
        f"agree on {_share(share)}{beyond}. A pair counts once, by the mean of its verdicts."
    ]


def _pair(pair: HumanPair) -> str:
    names = f"{pair.first} against {pair.second}"
    if pair.judged is None or pair.human is None or pair.corrected is None or pair.weight is None:
        return (
            f"{names}: {pair.verdicts} human verdicts, {FEWEST_VERDICTS} or more on the answers of one training seed "
            "are needed to correct the judge by."
        )
    better = f"; {pair.better} is better" if pair.better else "; no detectable difference"
    return (
        f"{names}, win rate: {_share(pair.judged)} by the judge, {_share(pair.human)} by {pair.human.n} human verdicts "
        f"alone, {_share(pair.corrected)} by both, the judge counting {pair.weight:.2f}{_about(pair)}{better}."
    )


def _about(pair: HumanPair) -> str:
    """Return what the win rates are about, where that is less than the methods."""
    if pair.of_seeds == 1 or pair.seeds == pair.of_seeds:
        return ""
    models = "the models of one" if pair.seeds == 1 else f"those of {pair.seeds}"
    return f", about {models} of {pair.of_seeds} training seeds"


def _turned(rate: Figure) -> Figure:
    """Return the win rate as the other method has it."""
    return Figure(1.0 - rate.mean, 1.0 - rate.high, 1.0 - rate.low, rate.n)


def _share(figure: Figure) -> str:
    return f"{percent(figure.mean)} % [{percent(figure.low)}, {percent(figure.high)}]"
