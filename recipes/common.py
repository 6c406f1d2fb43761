"""What the recipes share: reading settings in layers, and the stages every comparison has."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from eval.settings import EvalConfig
from preflab.disk.stages import Run, Stage
from preflab.errors import UserError, crash, near_misses
from preflab.method import registry
from preflab.method.configured import Method, label, make_method
from preflab.method.contract import Responses
from preflab.settings.command_line import CommandLine
from preflab.settings.fields import as_dict, merge, option
from preflab.settings.plain_yaml import read_yaml
from preflab.settings.training import LoraSettings, Pool, TrainConfig
from preflab.settings.values import LARGEST_SEED
from preflab.worlds import WorldConfig

if TYPE_CHECKING:
    from eval.frontier import Oracle
    from eval.judges import JudgeSpec
    from eval.records.records import Records
    from preflab.experiment.experiment import Experiment
    from preflab.experiment.rewards import Rewards
    from preflab.sampling.sampler import Decoder, Sampler

logger = logging.getLogger(__name__)

LITTLE_SPACE = 200 * 2**20  # bytes
CONFIGS = Path(__file__).parent / "configs"
STAGES = ("sft", "reward")
LINE_TOLERANCE = 0.05  # of the oracle line; what the default number of samples can keep up to a nat or so
MOST_SEEDS = 1000
KINDS: tuple[str, ...] = get_args(Responses)


@dataclass(frozen=True)
class RunConfig:
    """Where a run is kept, and what is trained."""

    output: str = option("runs/default", "folder of the run; finished stages in it are reused")
    cache: str = option("~/.cache/preflab", "folder where embedded base models are kept between runs")
    seeds: tuple[int, ...] = option(
        (0,), "training seeds of each method, such as 0,1,2", minimum=0, maximum=LARGEST_SEED
    )
    threads: int | None = option(None, "CPU threads; default: torch's own choice", minimum=1, maximum=1024)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("seeds is empty; name at least one, such as 0")
        if len(self.seeds) > MOST_SEEDS:
            raise ValueError(f"seeds names {len(self.seeds)}; {MOST_SEEDS} are the most that a comparison takes")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {','.join(map(str, self.seeds))} names one twice, which adds no information")
        # A shell expands "~", YAML does not.
        for name in ("output", "cache"):
            object.__setattr__(self, name, str(Path(getattr(self, name)).expanduser()))


@dataclass(frozen=True)
class RewardSettings:
    """What the methods that maximise a reward are given."""

    reward_method: str = option("reward", "method that trains the reward model, such as reward or reward-pl")
    reward_ensemble: int = option(
        1, "reward models, trained with seeds 0, 1, …, whose scores are pooled", minimum=1, maximum=1000
    )
    reward_pool: Pool = option("mean", "an ensemble's score: mean of the members, or the worst case")
    policy_reward: Literal["model", "gold"] = option(
        "model", "what policies maximise: the reward model, or the world's planted reward itself"
    )


class Session:
    """A recipe's settings, checked to the last field before anything heavy starts.

    Layers, later ones win: a method's own defaults, ``configs/<world>.yaml`` (and ``<world>_quick.yaml``
    with --quick), the user's --config file, the command line.

    Args:
        description: the recipe's docstring.
        extra: config classes of the recipe itself, by title.
        flat: a method whose fields (and those of `TrainConfig`) are options without a prefix.
        preset: values the recipe itself would rather start from; the user's win.
    """

    def __init__(
        self,
        description: str,
        extra: Mapping[str, type] | None = None,
        *,
        flat: str | None = None,
        preset: Mapping[str, Any] | None = None,
        argv: Sequence[str] | None = None,
    ) -> None:
        shared: dict[str, type] = {
            "run": RunConfig,
            "world": WorldConfig,
            "lora": LoraSettings,
            "rewards": RewardSettings,
            "evaluation": EvalConfig,
        }
        own = {"training": TrainConfig, flat: registry.load(flat).Config} if flat else {}
        line = CommandLine(description, {**shared, **(extra or {}), **own}, sections=True)
        values, sections = line.read(argv)
        values = {**(preset or {}), **values}
        method_fields = {name for cls in own.values() for name in cls.__dataclass_fields__}
        kind, quick = self._world(values)
        self.layers = [sections]
        for layer in (f"{kind}_quick", kind)[not quick :]:
            defaults, default_sections = self._layer(line, layer)
            values, self.layers = defaults | values, [default_sections, *self.layers]
        if flat:
            self.layers.append({flat: {k: v for k, v in values.items() if k in method_fields}})
        values = {k: v for k, v in values.items() if k not in method_fields}
        self.configs = merge({**shared, **(extra or {})}, values, "config")
        self.run: RunConfig = self.configs["run"]
        self.world: WorldConfig = self.configs["world"]
        self.lora: LoraSettings = self.configs["lora"]
        self.rewards: RewardSettings = self.configs["rewards"]
        if self.rewards.policy_reward == "gold" and self.world.kind == "real":
            raise UserError("policy_reward gold needs a world with a planted reward; real data have none")
        self.evaluation: EvalConfig = self.configs["evaluation"]
        comparison: Any = self.configs.get("comparison")
        self.max_steps: int | None = comparison.max_steps if comparison else None

    @staticmethod
    def _world(values: Mapping[str, Any]) -> tuple[str, bool]:
        fields = {k: v for k, v in values.items() if k in WorldConfig.__dataclass_fields__}
        world: WorldConfig = merge({"world": WorldConfig}, fields, "config")["world"]
        return world.kind, world.quick

    @staticmethod
    def _layer(line: CommandLine, name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        path = CONFIGS / f"{name}.yaml"
        return line.split(read_yaml(path), str(path)) if path.is_file() else ({}, {})

    def check_sections(self, names: Sequence[str]) -> None:
        """Refuse a section that no chosen method reads, and a field of a kind's section that none of them has.

        Raises:
            UserError: with near misses.
        """
        known = {*KINDS, *registry.registered(), *STAGES, *names, *map(label, names)}
        algorithms = registry.load_all(dict.fromkeys(names))
        fields = {kind: {f for a in algorithms if _kind(a) == kind for f in _fields(a)} for kind in KINDS}
        for section, values in ((section, values) for layer in self.layers for section, values in layer.items()):
            if section not in known:
                raise UserError(f"unknown section {section!r}{near_misses(section, known)}")
            for field in values:
                if section in KINDS and field not in fields[section]:
                    raise UserError(f"{section}: unknown field {field!r}{near_misses(field, fields[section])}")

    def method(self, name: str, changed: Mapping[str, Any] | None = None) -> Method:
        """Build a method, layer by layer, from the section of its kind, then from its own, then as `changed`.

        The kind of a policy's method is where its responses come from; of that section it takes the fields
        that it has. Its own section may go by the class's name where the method is a place.
        """
        algorithm = registry.load(name)
        fields = _fields(algorithm)
        values: dict[str, Any] = {}
        for layer in self.layers:
            values |= {k: v for k, v in layer.get(_kind(algorithm), {}).items() if k in fields}
            values |= {**layer.get(label(name), {}), **layer.get(name, {})}
        if self.max_steps is not None:
            own = make_method(name, values).train.max_steps
            values["max_steps"] = min(self.max_steps, own) if own > 0 else self.max_steps
        return make_method(name, {**values, **(changed or {})})

    def stage_methods(self) -> tuple[Method, Method]:
        """Build the methods that train what comparisons stand on: SFT, and the reward model.

        Raises:
            UserError: for anything in their settings that could not finish.
        """
        reward = self.method(self.rewards.reward_method)
        if reward.needs.trains != ("reward",):
            raise UserError(f"reward_method {reward.name!r} trains no reward model")
        return self.method("sft"), reward

    def open(self, methods: Sequence[Method] = (), *, judged: Sequence[str] = ()) -> Experiment:
        """Open the run folder and the world; from here on, heavy work.

        What the run needs at its end is checked here. A run folder that this call made is removed where it ends in a
        mistake.

        Args:
            methods: what will be trained; their settings are tried on the libraries first.
            judged: splits of the world that figures will be means over.

        Raises:
            UserError: for anything that could not finish.
        """
        # TRL reports usage statistics by default; nothing is sent from here.
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        # A folder that cannot be used is answered before the seconds that importing torch takes.
        folder = Path(self.run.output)
        made = not folder.exists()
        run = Run(folder)
        crash.log_in(folder)
        try:
            check_results(folder)
            return self._open(run, methods, judged)
        except UserError:
            if made and not any(run.stages.iterdir()):
                shutil.rmtree(folder)
            raise

    def _open(self, run: Run, methods: Sequence[Method], judged: Sequence[str]) -> Experiment:
        import torch

        from preflab.experiment.experiment import Experiment
        from preflab.training.rehearsal import rehearse

        if self.run.threads:
            torch.set_num_threads(self.run.threads)
        _quiet_libraries()
        for method in methods:
            rehearse(method)
        experiment = Experiment(run, self.world, self.lora, Path(self.run.cache))
        for split in judged:
            check_split(experiment, split)
        return experiment

    def as_dict(self) -> dict[str, Any]:
        """Return all settings, for the manifest."""
        return {**{name: as_dict(config) for name, config in self.configs.items()}, "sections": self.layers}


def check_results(folder: Path) -> None:
    """Refuse a run folder in which the results could not be written at the end; say so where the disk is nearly full.

    Raises:
        UserError: naming what is in the way.
    """
    for name in ("manifest.json", "comparison.json", "evaluation.json"):
        if (folder / name).is_dir():
            raise UserError(f"{folder / name} is a folder, and a result goes there; remove it, or choose --output")
    for name in ("report", "evaluation"):
        if (folder / name).exists() and not (folder / name).is_dir():
            raise UserError(f"{folder / name} is no folder, and the report goes there; remove it, or choose --output")
    free = shutil.disk_usage(folder).free
    if free < LITTLE_SPACE:
        logger.warning("%d MiB are free on the disk of %s, which is little for a run", free >> 20, folder)


def check_report(wanted: bool) -> None:
    """Refuse a report that could not be drawn.

    Raises:
        UserError: if matplotlib is not installed.
    """
    if wanted and find_spec("matplotlib") is None:
        raise UserError("the report needs matplotlib; pip install matplotlib, or add --report false")


def check_split(experiment: Experiment, name: str) -> None:
    """Refuse a split that no mean with an interval can be taken over.

    Raises:
        UserError: if fewer than two rows of it are within the token limits.
    """
    count = len(getattr(experiment, name))
    if count < 2:
        what = {"eval_prompts": "held-out prompts", "heldout": "held-out pairs"}[name]
        raise UserError(
            f"{count} {what} are left within the token limits, and figures with intervals take at least 2; give more "
            "data, or another --heldout-fraction, --heldout or --data-seed"
        )


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


def _kind(algorithm: Any) -> str:
    """Return which kind's section a method reads; reward models, which policies are judged by, read none."""
    return str(algorithm.needs.responses) if algorithm.needs.trains[0] == "policy" else ""


def _fields(algorithm: Any) -> set[str]:
    return {*algorithm.Config.__dataclass_fields__, *TrainConfig.__dataclass_fields__}


def _quiet_libraries() -> None:
    import datasets
    import transformers

    # PEFT asks transformers for a name it is about to lose, TRL sets one; nobody here can do anything about it.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*gradient_checkpointing.*")
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # What it says goes through our handler, which lets nothing steer the terminal.
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.enable_propagation()
