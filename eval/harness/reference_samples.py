"""What the reference's own responses are worth: the ground of the oracle line and of the best-of-n curve."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from preflab import ranks
from preflab.eval.conformance.exact import Exact
from preflab.eval.frontier import Oracle, exact_oracle
from preflab.eval.judges import Judge
from preflab.eval.settings import EvalConfig
from preflab.experiment.experiment import Experiment
from preflab.model.roles import Roles
from preflab.progress import tracked
from preflab.seeds import derive

Array = NDArray[np.float64]

PROMPTS_AT_ONCE = 32


@torch.no_grad()
def sample_rewards(experiment: Experiment, roles: Roles, judge: Judge, config: EvalConfig) -> Array:
    """Return the judge's scores of the reference's samples, ``[N, M]``, M = ``config.oracle_samples``.

    Args:
        experiment: gives prompts and sampler.
        roles: the policy role stands where training starts, which is the reference.
        judge: gives gold rewards.
        config: sizes and temperature.
    """
    many, sampler = config.oracle_samples, experiment.sampler(batch_size=config.eval_batch_size)
    groups = experiment.eval_prompts[: config.eval_prompts]
    parts = []
    for at in tracked(range(0, len(groups), PROMPTS_AT_ONCE), "reference: samples", "part"):
        asked = groups[at : at + PROMPTS_AT_ONCE]
        seed = derive(config.eval_seed, "oracle", at)
        ids = [group.prompt_ids for group in asked]
        batch = sampler(roles, "policy", ids, k=many, temperature=config.eval_temperature, seed=seed).batch
        prompts = [experiment.world.eval_prompts[group.row]["prompt"] for group in asked]
        texts = [
            [
                experiment.tokenizer.decode(row[mask], skip_special_tokens=True).strip()
                for row, mask in zip(*x, strict=True)
            ]
            for x in zip(batch.response_ids, batch.response_mask, strict=True)
        ]
        parts.append(np.array(ranks.once(partial(judge, batch, prompts, texts)), dtype=np.float64))
    return np.concatenate(parts)


def enumerated_oracle(experiment: Experiment, config: EvalConfig) -> Oracle | None:
    """Return the exact line of the evaluation prompts, at the temperature of the evaluation.

    None where responses cannot be enumerated. The reference is the bare base: a world that can be enumerated has no
    demonstrations.
    """
    if not experiment.world.cut:
        return None
    exact = Exact(experiment, config.eval_temperature)
    place = {tuple(group.prompt_ids): x for x, group in enumerate(exact.groups)}
    groups = experiment.eval_prompts[: config.eval_prompts]
    rows: Any = [place[tuple(group.prompt_ids)] for group in groups]
    return exact_oracle(exact.reference.numpy()[rows], exact.rewards.numpy()[rows])
