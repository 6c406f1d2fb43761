"""What ``comparison.json`` says of where uncertainty comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Parts of a squared standard error, which add up to 1.

    Attributes:
        seeds: that of the seeds.
        prompts: that of the prompts.
        rest: that of what is left.
    """

    seeds: float
    prompts: float
    rest: float


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Of what the variance of a difference between two methods is made, as standard deviations of one value.

    With S seeds and N prompts the squared standard error is seeds²/S + prompts²/N + rest²/SN.

    Attributes:
        seeds: of what a seed gives to all prompts: where each is a replication, with all that it draws anew. Null
            where a method has one seed, of which nothing is known.
        prompts: of what a prompt gives to all seeds; with one seed, of all that differs between prompts.
        rest: of what is left: the sampled answer, and what a seed makes of a prompt.
        groups: 1 where seeds are paired within replications, 2 where those of two methods are independent, 0 with one
            seed.
        training_seeds: S.
        tested_prompts: N.
        shares: what part of the squared standard error each of the three makes.
    """

    seeds: float | None
    prompts: float
    rest: float
    groups: int
    training_seeds: int
    tested_prompts: int
    shares: Shares


@dataclass(frozen=True, kw_only=True)
class Replications:
    """What replications give to mean gold rewards, as standard deviations over replications.

    Attributes:
        shared: what one gives to all of its methods: by its start, its reward model, its preferences. It cancels in
            the difference of two.
        own: what it gives to one method alone: by that method's training and samples.
        methods: how many were held against each other.
        training_seeds: how many replications there are.
    """

    shared: float
    own: float
    methods: int
    training_seeds: int
