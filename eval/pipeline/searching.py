"""The search for one method's settings: trials that lie evenly first, then where Optuna expects most."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from preflab.disk.stages import content_hash
from preflab.errors import UserError
from preflab.eval.pipeline.entries import Entry, under
from preflab.eval.pipeline.yardsticks import subject_of
from preflab.eval.subjects import Ground, evaluation_stage
from preflab.progress import say
from preflab.settings.fields import as_dict, option, search_space

if TYPE_CHECKING:
    import optuna
    from optuna import Study

    from preflab.disk.stages import Stage
    from preflab.eval.pipeline.arena import Arena
    from preflab.eval.records.tuning import Trial, Tuned
    from preflab.experiment.experiment import Experiment
    from preflab.method.configured import Method

logger = logging.getLogger(__name__)

TUNING_SEED = 1_000_003
"""Of all trials, so that none of the compared seeds was tuned on."""
NUMBER = "number"
EVEN = 10
"""So many trials lie evenly before the estimator chooses: it knows nothing until then."""


@dataclass(frozen=True)
class TuneConfig:
    """How settings are found before methods are compared."""

    tune: int = option(
        0,
        "trials of each method's settings, the configured one among them, judged on training prompts set aside "
        "(validation_fraction); methods are then compared at their best, with seeds that no trial had; 0: none",
        minimum=0,
        maximum=10_000,
    )
    tune_by: Literal["gold", "heldout"] = option(
        "gold",
        "what the best trial has most of: gold (mean reward), or heldout (pairs of those prompts ranked as labelled)",
    )
    tune_kl: float | None = option(
        None, "nats: no trial further from the start is chosen, where one is nearer", minimum=1e-6
    )

    def __post_init__(self) -> None:
        if self.tune == 1:
            raise ValueError("tune is 1: that trial is the configured setting, and nothing is chosen; take 2 or more")


class Outcome(NamedTuple):
    """What one trial came to."""

    objective: float
    kl: float | None
    record: Mapping[str, Any]


def search_space_of(entry: Entry) -> dict[str, tuple[float, float]]:
    """Return the least and the largest value that is tried of each setting of a method; nothing where none is."""
    if entry.method.algorithm.kind == "decoder":
        return {}
    return {**search_space(entry.method.train), **search_space(entry.method.config)}


class Place:
    """Where trials stand and are judged: a replication of their own, on prompts set aside."""

    def __init__(self, arena: Arena, config: TuneConfig) -> None:
        self.arena, self.config = arena, config

    @cached_property
    def learnt_on(self) -> Experiment:
        """What trials learn from: the sample of preferences of their replication."""
        return self.arena.foundation.of_seed(TUNING_SEED, self.arena.config.sources).experiment

    @cached_property
    def ground(self) -> Ground:
        """What all trials share.

        Raises:
            UserError: if nobody gives the gold rewards that they are to be told apart by.
        """
        (ground,) = self.arena.grounds([TUNING_SEED])
        experiment = ground.experiment.at_validation()
        if self.config.tune_by == "gold" and ground.judge is None:
            raise UserError("--tune goes by gold rewards, and nobody gives any; add --tune-by heldout, or a judge")
        evaluation = self.arena.session.evaluation
        sizes: dict[str, Any] = {
            "eval_prompts": min(evaluation.eval_prompts, len(experiment.eval_prompts)),
            "eval_pairs": min(evaluation.eval_pairs, len(experiment.heldout)),
        }
        if too_few := [name for name, size in sizes.items() if size < 2]:
            raise UserError(
                f"--tune: {too_few[0]} set aside are fewer than 2; give more data, or a larger validation_fraction"
            )
        return ground._replace(experiment=experiment, config=replace(evaluation, **sizes))


class Search:
    """The trials of one method.

    Args:
        place: where they stand.
        entry: the method at the setting that it was configured with.

    Attributes:
        outcomes: what each trial came to, by its number; those that ended.
        failed: what ended others that were made ahead.
    """

    def __init__(self, place: Place, entry: Entry) -> None:
        self.place, self.entry = place, entry
        self.space, self.outcomes = search_space_of(entry), dict[int, Outcome]()
        self.failed = dict[int, UserError]()

    @property
    def count(self) -> int:
        """How many trials there are."""
        return self.place.config.tune

    def even(self, number: int) -> dict[str, float]:
        """Return the settings of one of the first trials, which hang on no other: the configured ones, then evenly."""
        import numpy as np
        from scipy.stats import qmc

        from preflab.seeds import derive

        if number == 0:
            return {name: float(self.entry.method.settings[name]) for name in self.space}
        label = self.entry.method.label
        points = qmc.Halton(len(self.space), seed=np.random.default_rng(derive(TUNING_SEED, "tune", label))).random(
            EVEN
        )
        return {
            # Few digits, which people can write down.
            name: float(f"{low * (high / low) ** share:.3g}")
            for (name, (low, high)), share in zip(self.space.items(), points[number], strict=True)
        }

    def tried(self, settings: Mapping[str, Any]) -> Method:
        """Return the method at some settings."""
        arena = self.place.arena
        return under(arena.config.given_budget, arena.session.method(self.entry.method.name, settings))

    def stage_name(self, number: int) -> str:
        """Return what the stage of a trial is called."""
        return f"tune-{self.entry.method.label}-{number}"

    def build(self, number: int, settings: Mapping[str, Any]) -> tuple[Stage, Stage]:
        """Train the method at some settings and evaluate it; return both stages.

        Raises:
            UserError: as training does.
        """
        ground, method = self.place.ground, self.tried(settings)
        stage = self.place.learnt_on.train(
            self.stage_name(number), method, seed=TUNING_SEED, sft=ground.sft, reward=ground.reward
        )
        return stage, evaluation_stage(stage.name, subject_of(method, stage), ground)

    def attempt(self, number: int, settings: Mapping[str, Any]) -> Outcome:
        """Train and judge the method at some settings; what was done before is found again.

        Raises:
            UserError: as training does.
        """
        from preflab.eval.comparison.contestant import Contestant
        from preflab.eval.comparison.record import summarise
        from preflab.eval.metrics.heldout_accuracy import HELDOUT_ACCURACY
        from preflab.eval.records.records import Records

        if number in self.failed:
            raise self.failed[number]
        label, stage, evaluated = self.entry.method.label, *self.build(number, settings)
        found = Contestant(label, [Records.read(evaluated.folder)])
        gold, kl = found.table("gold"), found.kl
        if self.place.config.tune_by == "heldout":
            right = summarise(found).figures[HELDOUT_ACCURACY.key]
            if right is None:
                raise UserError(f"{label} says nothing of held-out pairs; --tune-by gold goes by its answers")
            objective = right.mean
        elif gold is None:
            raise UserError(f"{label} has no gold rewards to be tuned by; --tune-by heldout goes by held-out pairs")
        else:
            objective = float(gold.mean())
        return Outcome(objective, None if kl is None else float(kl.mean()), stage.record)

    def run(self) -> Tuned:
        """Try settings until there are as many trials as asked for; those told to the study before count."""
        from preflab.eval.records.tuning import Tuned

        study = self._study()
        for number in range(self.count):
            self._trial(study, number)
        trials = tuple(self._record(study, number) for number in range(self.count))
        found = Tuned(
            objective=self.place.config.tune_by,
            prompts=self.place.ground.config.eval_prompts,
            chosen=self._chosen(trials),
            trials=trials,
            importance=importance(self.space, trials),
        )
        best = trials[found.chosen]
        label = self.entry.method.label
        said = ", ".join(f"{name} {value:g}" for name, value in best.settings.items())
        say(f"tuned {label}: best of {len(trials)} trials is {said}, {found.objective} {best.objective:.3g}")
        return found

    # ---- the study -------------------------------------------------------------------------------

    def _study(self) -> Study:
        """Open the study in the run folder, or go on with it: one for each space, data and objective."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        arena, method = self.place.arena, self.entry.method
        decides = [
            self.place.learnt_on.identity(),
            method.identity(),
            self.space,
            as_dict(self.place.config) | {"tune": 0},
        ]
        folder = Path(arena.session.run.output) / "tuning"
        folder.mkdir(exist_ok=True)
        journal = JournalFileBackend(str(folder / f"{method.label}-{content_hash(decides)}.jsonl"))
        return optuna.create_study(
            storage=JournalStorage(journal), study_name=method.label, direction="maximize", load_if_exists=True
        )

    def _trial(self, study: Study, number: int) -> None:
        """Make a trial and tell the study; one that fails has no objective, and counts. What was told before stays."""
        import optuna

        known = _told(study, number)
        asked = None if known else self._asked(study, number)
        settings = (known or asked).params  # type: ignore[union-attr]
        try:
            self.outcomes[number] = self.attempt(number, settings)
        except UserError as error:
            logger.warning("trial %d of %s ended without a figure: %s", number, self.entry.method.label, error)
        if asked is not None:
            asked.set_user_attr(NUMBER, number)
            if number in self.outcomes:
                study.tell(asked, self.outcomes[number].objective)
            else:
                study.tell(asked, state=optuna.trial.TrialState.FAIL)

    def _asked(self, study: Study, number: int) -> optuna.trial.Trial:
        """Ask the study for the settings of a trial; what a kill left of it is given up."""
        import optuna

        from preflab.seeds import derive

        state = optuna.trial.TrialState
        for trial in study.get_trials(states=(state.RUNNING, state.WAITING)):
            study.tell(trial.number, state=state.FAIL, skip_if_finished=True)
        if number < EVEN:
            study.enqueue_trial(self.even(number))
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=0, seed=derive(TUNING_SEED, number) % 2**32)
        return study.ask(
            {name: optuna.distributions.FloatDistribution(*ends, log=True) for name, ends in self.space.items()}
        )

    def _record(self, study: Study, number: int) -> Trial:
        from preflab.eval.records.tuning import Trial

        told, outcome = _told(study, number), self.outcomes.get(number)
        assert told is not None
        record = outcome.record if outcome else {}
        return Trial(
            number=number,
            settings=told.params,
            objective=outcome.objective if outcome else None,
            kl=outcome.kl if outcome else None,
            seconds=record.get("seconds"),
            flops=record.get("flops"),
        )

    def _chosen(self, trials: Sequence[Trial]) -> int:
        """Return which trial has most of the objective, of those within the limit of KL if there are any.

        Raises:
            UserError: if none ended.
        """
        ended, limit = [trial for trial in trials if trial.objective is not None], self.place.config.tune_kl
        if not ended:
            raise UserError(
                f"--tune: none of the {len(trials)} trials of {self.entry.method.label} ended with a figure"
            )
        within = [trial for trial in ended if limit is None or trial.kl is None or trial.kl <= limit]
        if not within:
            logger.warning("%s: no trial lies within %g nats of the start", self.entry.method.label, limit)
        return max(within or ended, key=lambda trial: trial.objective or 0.0).number


def _told(study: Study, number: int) -> optuna.trial.FrozenTrial | None:
    """Return what a study was told of a trial, by our number: its own counts what kills left, too."""
    return next((trial for trial in study.trials if trial.user_attrs.get(NUMBER) == number), None)


def importance(space: Mapping[str, tuple[float, float]], trials: Sequence[Trial]) -> dict[str, float]:
    """Return the share of each setting in what moves the objective over the space; nothing of few trials.

    A quadratic of each setting's logarithm is fitted (a response surface without interactions, Box and Wilson 1951),
    and a setting's part is the variance of its own term where all values are alike: where trials happen to lie, as
    they crowd around the best, does not count.
    """
    import numpy as np

    ended = [trial for trial in trials if trial.objective is not None]
    if len(ended) < 2 * EVEN:
        return {}
    places = np.array([
        [np.log(trial.settings[name] / low) / np.log(high / low) for name, (low, high) in space.items()]
        for trial in ended
    ])  # fmt: skip
    terms = np.concatenate([places, places**2], axis=1)
    design = np.column_stack([np.ones(len(ended)), terms])
    _, *found = np.linalg.lstsq(design, np.array([trial.objective for trial in ended]), rcond=None)[0]
    even = np.linspace(0.0, 1.0, 101)
    linear, square = np.array(found).reshape(2, -1)[..., None]
    parts = (linear * even + square * even**2).var(axis=1)
    return {name: float(part / parts.sum()) for name, part in zip(space, parts, strict=True)} if parts.any() else {}
