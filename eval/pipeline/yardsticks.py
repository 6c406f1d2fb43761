"""The stages that a comparison has beside its methods': the judge's own reward model, the baseline, the oracle line."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.disk.stages import Stage
from preflab.eval.subjects import START, Ground, ScoringJudge, Subject, TrainedPolicy, TrainedReward, evaluate_subject
from preflab.experiment.identity import StandsOn
from preflab.method.configured import Method
from preflab.method.contract import decoder_of
from preflab.settings.fields import as_dict

if TYPE_CHECKING:
    from preflab.eval.frontier import Oracle
    from preflab.eval.judges import JudgeSpec
    from preflab.eval.records.figures import Figure
    from preflab.eval.records.records import Records
    from preflab.eval.settings import EvalConfig
    from preflab.experiment.foundation import Foundation

JUDGE = "judge"
"""The stage that trains the world's own, and what that of its evaluation is called after."""

BASELINE, LINE = "baseline", "reference-samples"
"""What the evaluations of the start's draws are called after, and the stage of the oracle line."""

LINE_TOLERANCE = 0.05  # of the oracle line; what the default number of samples can keep up to a nat or so


def own_judge(foundation: Foundation, sft: Stage | None, config: EvalConfig) -> JudgeSpec | None:
    """Return who gives gold rewards: r*, or a reward model on data of its own.

    None where there is neither (``--gold-fraction 0``): figures that need a judge are then left out.
    """
    from preflab.eval.judges import HeldOutRewardModel, JudgeSpec, planted

    experiment = foundation.experiment
    if experiment.world.gold is not None:
        return planted(experiment.world)
    if not len(experiment.world.gold_pairs):
        return None
    stage = experiment.train(JUDGE, foundation.reward, seed=1, sft=sft, groups=experiment.gold_pairs)
    folder = stage.folder / "reward"
    opens = partial(HeldOutRewardModel, folders=[folder], batch_size=config.eval_batch_size)
    return JudgeSpec("held-out reward model", stage.key, (folder,), opens)


def subject_of(method: Method, stage: Stage) -> Subject:
    """Return what a method's stage trained, for its evaluation."""
    if method.needs.trains[0] == "reward":
        return TrainedReward(stage)
    return TrainedPolicy(stage, decoder_of(method.algorithm))


def baseline(ground: Ground) -> list[Records]:
    """Let the policy that training starts from answer every prompt several times; win rates are against these."""
    return [evaluate_subject(BASELINE, START, one) for one in baseline_draws(ground)]


def baseline_draws(ground: Ground) -> list[Ground]:
    """Return where each of the baseline's answers is drawn."""
    config = replace(ground.config, eval_pairs=2)  # only its answers are asked for
    # Of each replication others: one policy's luck is not to be every policy's.
    first = config.baseline_draws * ground.seed + 1
    return [ground._replace(seed=-draw, config=config) for draw in range(first, first + config.baseline_draws)]


def labels_kept(ground: Ground) -> Figure | None:
    """Return on what share of held-out pairs the judge agrees with the data's labels, people's as a rule.

    None where labels are drawn from a planted reward, which says nothing of people, and where nobody gives scores.
    """
    from preflab.eval.comparison.preferences import summarise_heldout
    from preflab.eval.metrics.heldout_accuracy import HELDOUT_ACCURACY
    from preflab.eval.records.figures import Figure
    from preflab.eval.records.typed import from_json

    if ground.judge is None or ground.experiment.world.gold is not None:
        return None
    records = evaluate_subject(JUDGE, ScoringJudge(ground.judge), ground)
    return from_json(Figure | None, summarise_heldout([records.preferences])[HELDOUT_ACCURACY.key])


def oracle_line(ground: Ground) -> tuple[Oracle, Any] | None:
    """Return the oracle line of the evaluation prompts, and the gold rewards ``[N, M]`` that it was drawn from.

    The line is exact, and there are no samples, where every response can be enumerated. None where nobody judges.
    """
    import numpy as np

    from preflab.eval.frontier import sampled_oracle
    from preflab.eval.harness.reference_samples import enumerated_oracle

    if ground.judge is None:
        return None
    exact = enumerated_oracle(ground.experiment, ground.config)
    if exact is not None:
        return exact, None
    if not ground.config.oracle_samples:
        return None
    rewards = np.load(line_stage(ground, ground.judge).folder / "rewards.npy", allow_pickle=False)
    return sampled_oracle(rewards, LINE_TOLERANCE), rewards


def line_stage(ground: Ground, judge: JudgeSpec) -> Stage:
    """Sample the start, for the oracle line, and let the judge score it."""
    import numpy as np

    config, experiment = ground.config, ground.experiment

    def work(folder: Path) -> dict[str, Any]:
        from preflab.eval.harness.reference_samples import sample_rewards

        roles = experiment.open_roles(("policy",), sft=ground.sft, reward=None)
        rewards = sample_rewards(experiment, roles, judge.open(roles), config)
        np.save(folder / "rewards.npy", rewards, allow_pickle=False)
        return {"prompts": config.eval_prompts, "samples": config.oracle_samples}

    start = StandsOn.of(ground.sft, None).start()
    inputs = {**experiment.identity(), **start, "judge": judge.key, "config": as_dict(config)}
    return experiment.run.stage(LINE, inputs, work)
