"""Where a method's points stand against the oracle line."""

from __future__ import annotations

from numpy.typing import ArrayLike

from preflab.eval.frontier.oracle import Oracle
from preflab.eval.frontier.tables import Array, as_table, estimate
from preflab.eval.records.figures import Figure
from preflab.eval.records.frontier import UnderTheLine
from preflab.eval.statistics import Estimate, interval


def attainable(
    gold_reward: ArrayLike, kl: ArrayLike, oracle: Oracle, reference_reward: ArrayLike | None = None
) -> Estimate | None:
    """Return the share of the attainable reward that a method reaches at its KL.

        (J − J_ref) / (line(KL) − J_ref)

    Reward, KL and line of a prompt move together in the interval. Above 1 is noise, or a KL that is measured too
    low; below 0 is a method that does worse than the reference.

    Args:
        gold_reward: ``[S, N]`` (seeds x prompts) or ``[N]``.
        kl: the same of KL(π‖π_ref), nats.
        oracle: the line of the same N prompts, in the same order.
        reference_reward: ``[N]`` J_ref of each prompt; by default the oracle's own, which many samples give.

    Returns:
        None where the line is not trusted at that KL, or a KL or an attainable gain of 0 is within its interval:
        the share is then a ratio to nothing.

    Raises:
        ValueError: if the tables are not of the same prompts.
    """
    rewards, kls, line = _tables(gold_reward, kl, oracle)
    start = as_table(
        oracle.reference if reference_reward is None else reference_reward, "reference_reward", kls.shape[1]
    )
    gain, room = rewards - start, line - start
    if kls.mean() > oracle.trusted_kl or min(interval(table, rate=False).low for table in (kls, room)) <= 0:
        return None
    share = float(gain.mean() / room.mean())
    return estimate(share, (gain - share * room) / room.mean())


def under_the_line(gold_reward: ArrayLike, kl: ArrayLike, oracle: Oracle) -> UnderTheLine:
    """Check that a method lies on or under the oracle line, as every policy must.

    ``excess`` is J − line(KL) with its interval and ``holds`` whether that reaches down to 0: None where the line
    is not trusted. Where it does not hold, KL or reward is mismeasured, or chance put a policy above that is as good
    as can be: of those on the line it does so with one in forty. Arguments as of `attainable`.
    """
    rewards, kls, line = _tables(gold_reward, kl, oracle)
    excess, mean_kl = interval(rewards - line, rate=False), float(kls.mean())
    # float64 sums in another order differ by rounding.
    holds = excess.low <= 1e-9 * max(1.0, abs(float(line.mean())))
    known = bool(holds) if mean_kl <= oracle.trusted_kl else None
    return UnderTheLine(kl=mean_kl, excess=Figure.of(excess), holds=known)


def _tables(gold_reward: ArrayLike, kl: ArrayLike, oracle: Oracle) -> tuple[Array, Array, Array]:
    """Return rewards, KLs and what they contribute to the line at their mean KL, all ``[S, N]``."""
    prompts = len(oracle.reference)
    rewards, kls = as_table(gold_reward, "gold_reward", prompts), as_table(kl, "kl", prompts)
    if rewards.shape != kls.shape:
        raise ValueError(f"gold_reward {rewards.shape} and kl {kls.shape} must have the same shape")
    slope, bounds = oracle.parts(float(kls.mean()))
    return rewards, kls, slope * kls + bounds
