"""The words of the page, each explained once: where they stand as the title of a link, and all of them at its end."""

from __future__ import annotations

from preflab.eval.metrics import METRICS
from preflab.eval.metrics.measures import fixed
from preflab.eval.metrics.reward import GOLD
from preflab.eval.records.comparison import Comparison
from preflab.eval.report.text import finite

TERMS = {
    "kl": (
        "KL",
        "How far a policy has moved from the reference: KL(π‖π_ref) per response, in nats; 0 has not moved. Everywhere "
        "on this page it is one estimate: the KL of the next-token distributions, exact at every position and summed "
        "over the positions of the answers to the test prompts (Rao-Blackwellised). Of answers chosen among samples, "
        "which have no such distribution, it is their mean log-ratio.",
    ),
    "log-ratio": (
        "log-ratio",
        "log π(y|x)/π_ref(y|x) of an answer that was drawn. Its mean estimates the KL too, with more noise and below 0 "
        "by chance (k1): it is logged in training, kept to check the sampling, and nowhere called KL.",
    ),
    "gold": (
        "gold reward",
        "What the judge says of an answer. It stands on the judge’s own scale, with the judge’s own zero, in every "
        "table and figure.",
    ),
    "proxy": (
        "proxy reward",
        "What the reward model says that methods were trained against, on a scale and with a zero of its own. It rises "
        "by design; where gold reward does not, it is being exploited.",
    ),
    "win-rate": (
        "win rate",
        "The share of test prompts on which a method’s answer is better than that of the start, a tie as half: 50 % is "
        "no better, no worse. Length-controlled: what it would be if both were equally long.",
    ),
    "start": (
        "start",
        "The policy that training starts from. Where nothing else is said it is the reference too, whose KL is 0.",
    ),
    "reference": ("reference", "The policy that distances are counted from, π_ref."),
    "seed": (
        "training seed",
        "One run of a method: with another seed it sees data in another order and samples other answers. One seed says "
        "something of one trained model, several say something of the method.",
    ),
    "replication": (
        "replication",
        "A training seed for which the start, the reward model or the sample of preferences is made anew too, so that "
        "their chance is in the intervals.",
    ),
    "interval": (
        "95\u00a0% interval",
        "A range made so that 95 of 100 such ranges hold the true value: over test prompts, and over training seeds "
        "where there are several.",
    ),
    "holm": (
        "Holm’s correction",
        "Makes p-values larger by how many tests there are, so that of all tests together one in twenty finds "
        "something where there is nothing. A method is called better where the corrected p is below 0.05.",
    ),
    "detectable": (
        "no detectable difference",
        "The corrected p is not below 0.05. That is no proof of equality: beside it stands the true difference that "
        "would have been seen in four cases of five.",
    ),
    "elo": (
        "rating",
        "Strength by who wins against whom (Bradley-Terry), in Elo points with mean 1000: 100 points more win 64 % of "
        "the prompts.",
    ),
    "attainable": (
        "best attainable",
        "The most gold reward that any policy could have at that KL; and the share of that gain which a method has.",
    ),
    "best": (
        "best of n",
        "The answer with the highest gold reward among n of the reference; its KL is at most log n − (n − 1)/n, which "
        "is where it is drawn.",
    ),
}
"""What a term is called, and what it is, by the end of its address on the page."""


def glossary(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return every term, with what is particular to this comparison."""
    found = dict(TERMS)
    title, text = found["gold"]
    judge, start = comparison.judge, comparison.methods.get(comparison.baseline or "")
    gold = start.figures.get(GOLD.key) if start else None
    text += f" Judge: {judge.name}." if judge and judge.kind == "scores" else ""
    text += f" The start has {fixed(gold.mean)}." if gold and finite(gold.mean) else ""
    found["gold"] = title, text
    return found


def columns() -> dict[str, str]:
    """Return what each heading of a table of figures means, by the heading."""
    every = (measure for metric in METRICS.values() for measure in metric.measures)
    return {measure.heading: measure.what.replace("`", "") for measure in every if measure.heading}
