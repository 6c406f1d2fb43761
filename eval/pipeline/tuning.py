"""``--tune``: every method's settings tried alike on prompts set aside, before it is compared at the best of them.

The trials of all methods are equal in number, stand on a replication of their own, and are judged on training prompts
that are set aside; test prompts answer to the chosen setting alone, with fresh seeds. Each study is Optuna's, in the
run folder: the first trials lie evenly in the space (a Halton sequence), later ones go where the tree-structured Parzen
estimator (Bergstra et al. 2011) expects most. Nothing is pruned, which would make budgets unequal.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from eval.pipeline.entries import Entry, under
from eval.pipeline.yardsticks import subject_of
from eval.subjects import Ground, evaluate_subject
from preflab.disk.stages import content_hash
from preflab.errors import UserError
from preflab.progress import say
from preflab.seeds import derive
from preflab.settings.fields import as_dict, option, search_space

if TYPE_CHECKING:
    import optuna
    from optuna import Study

    from eval.comparison.budgets import Below
    from eval.pipeline.arena import Arena
    from eval.records.tuning import Trial, Tuned
    from preflab.experiment.side_by_side import Piece

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
    tune_by: Literal["gold", "accuracy"] = option(
        "gold", "what the best trial has most of: mean gold reward, or accuracy on held-out pairs of those prompts"
    )
    tune_kl: float | None = option(
        None, "nats: no trial further from the start is chosen, where one is nearer", minimum=1e-6
    )

    def __post_init__(self) -> None:
        if self.tune == 1:
            raise ValueError("tune is 1: that trial is the configured setting, and nothing is chosen; take 2 or more")


class Tuning(NamedTuple):
    """What tuning found.

    Attributes:
        entries: every method at its best setting.
        tuned: the record of each method that has something to tune.
        costs: what the trials took.
    """

    entries: Sequence[Entry]
    tuned: Mapping[str, Tuned]
    costs: Sequence[Below]


class Outcome(NamedTuple):
    """What one trial came to."""

    objective: float
    kl: float | None
    record: Mapping[str, Any]


def tune(arena: Arena, workers: int) -> Tuning:
    """Try settings of every method, and return the best of each.

    Raises:
        UserError: if a seed is that of the trials, nobody gives gold rewards to go by, or no trial of a method ended.
    """
    from eval.comparison.budgets import Below

    config = arena.session.config(TuneConfig)
    if TUNING_SEED in arena.seeds:
        raise UserError(
            f"seed {TUNING_SEED} is that of the trials of --tune, which no compared seed may be; choose another"
        )
    place = _Place(arena, config)
    searches = [Search(place, entry) for entry in arena.entries if search_space_of(entry)]
    if workers > 1:
        from preflab.experiment.side_by_side import build_side_by_side

        build_side_by_side(arena.experiment.run, _pieces(arena, place, searches), workers)
    found = {search.entry.method.label: search.run() for search in searches}
    for entry in arena.entries:
        if entry.method.label not in found:
            logger.warning("%s has no setting that --tune varies: it is compared as it is", entry.method.label)
    entries = [search.best(found[search.entry.method.label]) for search in searches]
    by_label = {entry.method.label: entry for entry in entries}
    costs = [
        Below("tuning", [outcome.record for outcome in search.outcomes.values()], [search.entry.method.label])
        for search in searches
    ]
    return Tuning([by_label.get(entry.method.label, entry) for entry in arena.entries], found, costs)


def search_space_of(entry: Entry) -> dict[str, tuple[float, float]]:
    """Return the least and the largest value that is tried of each setting of a method; nothing where none is."""
    if entry.method.algorithm.kind == "decoder":
        return {}
    return {**search_space(entry.method.train), **search_space(entry.method.config)}


class _Place:
    """Where trials stand and are judged: a replication of their own, on prompts set aside."""

    def __init__(self, arena: Arena, config: TuneConfig) -> None:
        self.arena, self.config = arena, config

    @cached_property
    def ground(self) -> Ground:
        """What all trials share.

        Raises:
            UserError: if nobody gives the gold rewards that they are to be told apart by.
        """
        (ground,) = self.arena.grounds([TUNING_SEED])
        experiment = self.arena.experiment.at_validation()
        if self.config.tune_by == "gold" and ground.judge is None:
            raise UserError("--tune goes by gold rewards, and nobody gives any; add --tune-by accuracy, or a judge")
        evaluation = self.arena.session.evaluation
        sizes = {
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
    """

    def __init__(self, place: _Place, entry: Entry) -> None:
        self.place, self.entry = place, entry
        self.space, self.outcomes = search_space_of(entry), dict[int, Outcome]()

    @property
    def count(self) -> int:
        """How many trials there are."""
        return self.place.config.tune

    def even(self, number: int) -> dict[str, float]:
        """Return the settings of one of the first trials, which hang on no other: the configured ones, then evenly."""
        import numpy as np
        from scipy.stats import qmc

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

    def attempt(self, number: int, settings: Mapping[str, Any]) -> Outcome:
        """Train and judge the method at some settings; what was done before is found again.

        Raises:
            UserError: as training does.
        """
        from eval.comparison.contestant import Contestant
        from eval.comparison.record import summarise
        from eval.metrics.heldout_accuracy import HELDOUT_ACCURACY

        arena, ground, label = self.place.arena, self.place.ground, self.entry.method.label
        method = under(arena.config.given_budget, arena.session.method(self.entry.method.name, settings))
        stage = arena.experiment.train(
            f"tune-{label}-{number}", method, seed=TUNING_SEED, sft=ground.sft, reward=ground.reward
        )
        found = Contestant(label, [evaluate_subject(stage.name, subject_of(method, stage), ground)])
        gold, kl = found.table("gold"), found.kl
        if self.place.config.tune_by == "accuracy":
            accuracy = summarise(found).figures[HELDOUT_ACCURACY.key]
            if accuracy is None:
                raise UserError(f"{label} says nothing of held-out pairs; --tune-by gold goes by its answers")
            objective = accuracy.mean
        elif gold is None:
            raise UserError(f"{label} has no gold rewards to be tuned by; --tune-by accuracy goes by held-out pairs")
        else:
            objective = float(gold.mean())
        return Outcome(objective, None if kl is None else float(kl.mean()), stage.record)

    def run(self) -> Tuned:
        """Try settings until there are as many trials as asked for; those told to the study before count."""
        from eval.records.tuning import Tuned

        study = self._study()
        for number in range(self.count):
            self._trial(study, number)
        trials = tuple(self._record(study, number) for number in range(self.count))
        found = Tuned(
            objective=self.place.config.tune_by,
            prompts=self.place.ground.config.eval_prompts,
            chosen=self._chosen(trials),
            trials=trials,
            importance=_importance(study),
        )
        best = trials[found.chosen]
        label = self.entry.method.label
        said = ", ".join(f"{name} {value:g}" for name, value in best.settings.items())
        say(f"tuned {label}: best of {len(trials)} trials is {said}, {found.objective} {best.objective:.3g}")
        return found

    def best(self, found: Tuned) -> Entry:
        """Return the method at the chosen setting."""
        chosen = found.trials[found.chosen]
        return Entry(self.place.arena.session.method(self.entry.method.name, chosen.settings), self.entry.varied)

    # ---- the study -------------------------------------------------------------------------------

    def _study(self) -> Study:
        """Open the study in the run folder, or go on with it: one for each space, data and objective."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        arena, method = self.place.arena, self.entry.method
        decides = [arena.experiment.identity(), method.identity(), self.space, as_dict(self.place.config) | {"tune": 0}]
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
        from eval.records.tuning import Trial

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


def _importance(study: Study) -> dict[str, float]:
    """Return how much each setting told good trials from bad ones (PED-ANOVA, arXiv 2304.10255); nothing of few."""
    import optuna

    ended = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(ended) < 4 or len({trial.value for trial in ended}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return {
        name: float(share)
        for name, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


def _pieces(arena: Arena, place: _Place, searches: Sequence[Search]) -> list[Piece]:
    """Return the trials that hang on no other, after what they stand on."""
    from preflab.experiment.side_by_side import Piece

    ground = "what trials stand on"
    found = [Piece(ground, partial(arena.grounds, [TUNING_SEED]))]
    for number in range(min(place.config.tune, EVEN)):
        for search in searches:
            name = f"trial {number} of {search.entry.method.label}"
            found.append(Piece(name, partial(_attempt, search, number), (ground,)))
    return found


def _attempt(search: Search, number: int) -> None:
    """Make a trial ahead; who asks for it hears why it failed."""
    try:
        search.attempt(number, search.even(number))
    except UserError as error:
        logger.info("%s", error)
