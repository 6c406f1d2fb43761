"""How many test prompts a comparison takes: refused below what could show anything, said where little can be seen."""

from __future__ import annotations

import logging
import math
from statistics import NormalDist

from preflab.errors import UserError
from preflab.eval.statistics import fewest_prompts
from preflab.experiment.opening import FEWEST

logger = logging.getLogger(__name__)

LEVEL, POWER = 0.95, 0.8
LARGE = 0.8
"""Standard deviations from which on a difference is called large (Cohen 1988, "Statistical Power Analysis", 2.2)."""


def fewest_rows(policies: int, asked: int) -> dict[str, int]:
    """Return how many rows of each split that is judged a comparison takes.

    Args:
        policies: how many are tested, every two of them, with the one that training starts from.
        asked: ``--eval-prompts``.

    Raises:
        UserError: if fewer prompts are asked for than could show any difference after correction.
    """
    pairs = math.comb(policies, 2)
    prompts = fewest_prompts(LEVEL, pairs) if pairs else FEWEST
    if asked < prompts:
        tests = f"{pairs} tests" if pairs > 1 else "one test"
        raise UserError(
            f"--eval-prompts is {asked}, and with fewer than {prompts} test prompts no difference could be significant "
            f"by its signs in {tests} of {policies} policies; give {prompts} at the least, some hundreds to see more"
        )
    return {"eval_prompts": prompts, "heldout": FEWEST}


def say_what_is_seen(policies: int, prompts: int) -> None:
    """Warn where a comparison would miss even large differences.

    Args:
        policies: as of `fewest_rows`.
        prompts: how many test prompts there are.
    """
    pairs = math.comb(policies, 2)
    if not pairs:
        return
    seen = detectable_effect(prompts, pairs)
    if seen > LARGE:
        logger.warning(
            "%d test prompts: a difference is seen four times in five only if it is %.1f of its deviation over prompts "
            "or more, which is very large; give more --eval-prompts, or held-out data",
            prompts,
            seen,
        )


def detectable_effect(prompts: int, pairs: int) -> float:
    """Return the difference, in standard deviations over prompts, that a test sees with a power of 80 %.

    ``(z(1 − α/2m) + z(0.8)) / √N``, by normal quantiles and for one seed each: what seeds differ by comes on top.

    Args:
        prompts: N.
        pairs: m tests that share the error α.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1.0 - (1.0 - LEVEL) / (2.0 * pairs)) + normal.inv_cdf(POWER)) / math.sqrt(prompts)
