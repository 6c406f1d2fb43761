"""The stages that comparisons are made of, each built once and reused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.pipeline.session import Session
from eval.settings import EvalConfig
from preflab.disk.stages import Stage
from preflab.settings.fields import as_dict

if TYPE_CHECKING:
    from eval.frontier import Oracle
    from eval.judges import JudgeSpec
    from eval.records.records import Records
    from preflab.experiment.experiment import Experiment
    from preflab.experiment.rewards import Rewards
    from preflab.sampling.sampler import Decoder, Sampler

LINE_TOLERANCE = 0.05  # of the oracle line; what the default number of samples can keep up to a nat or so


class Pipeline:
    """The stages that comparisons are made of, each built once and reused.

    Args:
        session: the settings.
        experiment: the open world and run.
    """

    def __init__(self, session: Session, experiment: Experiment) -> None:
        self.session, self.experiment = session, experiment

    def sft(self) -> Stage | None:
        """Fine-tune on the demonstrations; None where the world has none."""
        if not len(self.experiment.world.demonstrations):
            return None
        return self.experiment.train("sft", self.session.method("sft"))

    def reward_models(self, sft: Stage | None) -> list[Stage]:
        """Train the reward models, one or an ensemble; the first one's stage bears no number."""
        method = self.session.stage_methods()[1]
        names = ["reward", *(f"reward-{seed}" for seed in range(1, self.session.rewards.reward_ensemble))]
        return [self.experiment.train(name, method, seed=seed, sft=sft) for seed, name in enumerate(names)]

    def rewards(self, sft: Stage | None) -> Rewards | None:
        """Return what on-policy methods maximise, trained where it must be; None without pairs to train it on."""
        from preflab.experiment.rewards import Rewards

        settings = self.session.rewards
        if settings.policy_reward == "gold":
            return Rewards.of(self.experiment.gold_reward())
        if not len(self.experiment.world.pairs):
            return None
        return Rewards.ensemble(self.reward_models(sft), settings.reward_pool)

    def judge(self, sft: Stage | None) -> JudgeSpec | None:
        """Return who gives gold rewards: r*, or a reward model on data of its own.

        None where there is neither (``--gold-fraction 0``): figures that need a judge are then left out.
        """
        from eval.judges import HeldOutRewardModel, JudgeSpec, planted

        if self.experiment.world.gold is not None:
            return planted(self.experiment.world)
        if not len(self.experiment.world.gold_pairs):
            return None
        stage = self.experiment.train(
            "judge", self.session.stage_methods()[1], seed=1, sft=sft, groups=self.experiment.gold_pairs
        )
        folder, size = stage.folder / "reward", self.session.evaluation.eval_batch_size
        opens = partial(HeldOutRewardModel, folders=[folder], batch_size=size)
        return JudgeSpec("held-out reward model", stage.key, (folder,), opens)

    def baseline(self, **shared: Any) -> list[Records]:
        """Let the policy that training starts from answer every prompt several times; win rates are against these."""
        config = replace(self.session.evaluation, eval_pairs=2)  # only its answers are asked for
        draws = range(1, config.baseline_draws + 1)
        return [self.evaluate("baseline", None, seed=-draw, config=config, **shared) for draw in draws]

    def oracle(self, sft: Stage | None, judge: JudgeSpec) -> tuple[Oracle, Any] | None:
        """Return the oracle line of the evaluation prompts, and the gold rewards ``[N, M]`` that it was drawn from.

        The line is exact, and there are no samples, where every response can be enumerated.
        """
        import numpy as np

        from eval.frontier import sampled_oracle
        from eval.harness.reference_samples import enumerated_oracle, sample_rewards

        config, experiment = self.session.evaluation, self.experiment
        exact = enumerated_oracle(experiment, config)
        if exact is not None:
            return exact, None
        if not config.oracle_samples:
            return None

        def work(folder: Path) -> dict[str, Any]:
            roles = experiment.open_roles(("policy",), sft=sft, reward=None)
            rewards = sample_rewards(experiment, roles, judge.open(roles), config)
            np.save(folder / "rewards.npy", rewards, allow_pickle=False)
            return {"prompts": config.eval_prompts, "samples": config.oracle_samples}

        inputs = {
            **experiment.identity(),
            "sft": sft.key if sft else None,
            "judge": judge.key,
            "config": as_dict(config),
        }
        stage = experiment.run.stage("reference-samples", inputs, work)
        rewards = np.load(stage.folder / "rewards.npy", allow_pickle=False)
        return sampled_oracle(rewards, LINE_TOLERANCE), rewards

    def evaluate(
        self,
        name: str,
        trained: Stage | Rewards | None,
        *,
        sft: Stage | None,
        reward: Stage | Rewards | None,
        judge: JudgeSpec | None,
        role: str = "policy",
        seed: int = 0,
        decode: Callable[[Sampler], Decoder] | None = None,
        config: EvalConfig | None = None,
    ) -> Records:
        """Evaluate a trained policy or reward model; None stands for the policy training starts from.

        `decode` is the trained method's own (see `preflab.method.contract.Algorithm`), if it has one.
        """
        from eval.harness.evaluate import evaluate_policy, evaluate_reward_model
        from eval.records.records import Records

        config, experiment = config or self.session.evaluation, self.experiment
        inputs = {
            **experiment.identity(),
            "trained": trained.key if trained else None,
            "sft": sft.key if sft else None,
            "reward": reward.key if reward else None,
            "judge": judge.key if judge else None,
            # The number of other samples does not decide this one's figures.
            "config": {k: v for k, v in as_dict(config).items() if k not in ("baseline_draws", "oracle_samples")},
            "role": role,
            "seed": seed,
        }

        def work(folder: Path) -> dict[str, Any]:
            if role == "reward":
                roles = experiment.open_roles(("reward",), sft=sft, reward=trained)
                records = evaluate_reward_model(experiment, roles, config, title=name)
            else:
                wanted: Any = ("policy", "reference", "reward") if reward else ("policy", "reference")
                roles = experiment.open_roles(wanted, sft=sft, reward=reward)
                if isinstance(trained, Stage):
                    roles.start("policy", trained.folder / "policy")
                records = evaluate_policy(
                    experiment,
                    roles,
                    judge.open(roles) if judge else None,
                    config,
                    seed=seed,
                    title=name,
                    decode=decode,
                    folder=folder,
                )
            records.write(folder)
            return {"samples": len(records.samples), "preferences": len(records.preferences)}

        return Records.read(experiment.run.stage(f"eval-{name}", inputs, work).folder)
