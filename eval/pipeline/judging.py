"""``--judge``: who says which answers are better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.data.asked import conversation
from preflab.errors import UserError
from preflab.eval.judges import (
    JUDGES,
    EndpointJudge,
    HumanVerdicts,
    JudgeSpec,
    PairJudge,
    judge_named,
    judge_settings,
    known_judges,
    open_named_judge,
)
from preflab.eval.records.comparison import Judge
from preflab.settings.fields import as_dict, option

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.eval.comparison.contests import Decide
    from preflab.eval.records.figures import Figure
    from preflab.eval.records.records import Records
    from preflab.eval.settings import EvalConfig
    from preflab.eval.subjects import RewardSubject
    from preflab.experiment.experiment import Experiment

    Chosen = list[RewardSubject] | PairJudge | JudgeSpec
    """A judge that was asked for: reward models, one that compares, or one that scores."""

AUTO = "auto"


@dataclass(frozen=True)
class JudgeConfig:
    """Who judges."""

    judge: str = option(
        AUTO,
        "auto: the world's planted reward, or else a reward model trained on preferences of its own; or a reward model "
        f"as --reward-model takes it, or the mean of several, {known_judges()}",
        brief="who says which answers are better (docs/judges.md)",
    )
    human_verdicts: str | None = option(
        None,
        "file of human verdicts on some of the answers (recipes/annotate.py), beside the judge, which decides all: its "
        "agreement with them, and win rates corrected by them",
        brief="file of people's verdicts, beside the judge",
    )

    def __post_init__(self) -> None:
        if self.human_verdicts is not None and self.human_verdicts == self.judge:
            raise ValueError(
                f"human_verdicts and judge are both {self.judge}: verdicts say nothing of a judge that they are; take "
                "another judge for all answers, or leave human_verdicts out"
            )


JUDGING: dict[str, type] = {"judge": JudgeConfig, **judge_settings()}
"""The configs of a session that takes a judge."""


class Judging(NamedTuple):
    """Who judges.

    Attributes:
        scores: gives gold rewards; None where nobody does.
        decide: says who answered better; None where nobody does.
        about: what the report says of it.
    """

    scores: JudgeSpec | None
    decide: Decide | None
    about: Judge | None

    def described(self, heldout_accuracy: Figure | None = None) -> Judge | None:
        """Return what the report says of the judge, with what one that compares has to report by now.

        Args:
            heldout_accuracy: how far one that scores agrees with the data's labels, where that is known.
        """
        if self.about is None:
            return None
        if not isinstance(self.decide, ByAnswers):
            return replace(self.about, heldout_accuracy=heldout_accuracy)
        return replace(self.about, report=self.decide.report())


def open_judge(configs: Mapping[str, Any]) -> Chosen | None:
    """Return the judge that is asked for; None where it is the world's own. No weights are opened yet.

    Args:
        configs: `JudgeConfig` as ``judge``, and the settings of judges that have any, by title.

    Raises:
        UserError: if they name no judge, or one that cannot be opened: unreadable file, no address; or if settings of
            another judge are given.
    """
    spec = configs["judge"].judge
    named = judge_named(spec)
    for title, cls in judge_settings().items():
        default = as_dict(cls())
        changed = [name for name, value in as_dict(configs[title]).items() if value != default[name]]
        if changed and JUDGES[title] is not named:
            flag = f"--{changed[0].replace('_', '-')}"
            raise UserError(f"{flag} is for --judge {title}, and --judge is {spec!r}; add --judge {title}")
    if named is not None:
        return open_named_judge(spec, configs)
    if spec == AUTO:
        return None
    # A folder's name may hold a comma.
    specs = [spec] if Path(spec).expanduser().exists() else spec.split(",")
    return list(open_rewards("--judge", specs, f"{known_judges('a reward model')} (docs/judges.md)"))


def open_people(config: JudgeConfig) -> ByAnswers | None:
    """Return the people whose verdicts a judge is held against; None where there are none.

    Raises:
        UserError: if their file cannot be read, or holds no verdicts.
    """
    if config.human_verdicts is None:
        return None
    return ByAnswers(HumanVerdicts(Path(config.human_verdicts).expanduser()))


def check_held(people: ByAnswers | None, tested: int) -> None:
    """Refuse verdicts of people where there is no judge to hold against them, or nothing that they are about.

    Args:
        people: the verdicts; None where none were given.
        tested: policies whose answers are judged against one another, the start's among them; 0 where nobody judges.

    Raises:
        UserError: saying what to do with them.
    """
    if people is not None and tested == 0:
        raise UserError("--human-verdicts are to correct a judge, and nobody judges here: give their file as --judge")
    if people is not None and tested == 1:
        raise UserError("--human-verdicts are of answers, and no answers of two policies are compared here")


def compares(judge: Chosen | None) -> bool:
    """Whether a judge compares two answers, and gives none of them a score."""
    return judge is not None and not isinstance(judge, (list, JudgeSpec))


def open_rewards(flag: str, specs: Sequence[str], wanted: str = "a reward model") -> tuple[RewardSubject, ...]:
    """Open reward models: adapters, or classifiers with one label.

    Raises:
        UserError: if one of `specs` names something else, or stands there twice.
    """
    if len(set(specs)) < len(specs):
        raise UserError(f"{flag} names one twice, which adds nothing: {', '.join(specs)}")
    return tuple(_open_reward(flag, spec, wanted) for spec in specs)


def _open_reward(flag: str, spec: str, wanted: str) -> RewardSubject:
    from preflab.eval.subjects import RewardSubject, open_subject

    try:
        subject = open_subject(spec)
    except UserError as error:
        raise UserError(f"{flag} takes {wanted}: {error}") from None
    if not isinstance(subject, RewardSubject):
        raise UserError(f"{flag} takes {wanted}: {spec} is a {subject.kind}")
    return subject


def judging(
    experiment: Experiment,
    config: EvalConfig,
    judge: Chosen | None,
    own: Callable[[], JudgeSpec | None],
    maximised: Sequence[str | Path],
    sft: Stage | None = None,
) -> Judging:
    """Return who judges: the comparing judge where there is one, and who gives gold rewards beside it.

    Args:
        experiment: the open world and run.
        config: sizes.
        judge: who was asked for, as `open_judge` returns it.
        own: gives the world's own judge, trained where it must be.
        maximised: what policies were trained against: folders and keys of reward models, and `PLANTED`,
            and who answers at an endpoint.
        sft: where policies start, whose samples give several reward models one scale; None: the bare base.
    """
    from preflab.eval.comparison.contests import by_gold

    scores: JudgeSpec | None
    if isinstance(judge, JudgeSpec):
        scores = judge
    elif isinstance(judge, list):
        scores = by_reward_models(experiment, config, judge, sft)
    else:
        scores = own()
        if judge is not None:
            asked = (judge.client.config.answers,) if isinstance(judge, EndpointJudge) else ()
            about = Judge(name=judge.name, kind="compares", warning=_warning(asked, maximised))
            return Judging(scores, ByAnswers(judge), about)
    if scores is None:
        return Judging(None, None, None)
    about = Judge(name=scores.name, kind="scores", warning=_warning(scores.sources, maximised))
    return Judging(scores, by_gold, about)


def by_reward_models(
    experiment: Experiment, config: EvalConfig, judge: Sequence[RewardSubject], sft: Stage | None
) -> JudgeSpec:
    """Return reward models as a judge: one as it scores, several by the mean of their normalised scores."""
    from preflab.eval.judges import HeldOutRewardModel, TextJudge
    from preflab.experiment.adopted import given_rewards
    from preflab.experiment.rewards import PlantedRewards

    sources = tuple(local(one.source) for one in judge)
    if len(judge) == 1:
        opens, key = judge[0].judge(experiment, config), judge[0].given.key_in(experiment)
        return JudgeSpec(f"reward model {judge[0].source}", f"given-{key}", sources, opens)
    size, given = config.eval_batch_size, [one.given for one in judge]
    rewards = given_rewards(experiment, given, sft, pool="mean", batch_size=size, name="judge")
    name = "reward models " + ", ".join(one.source for one in judge)
    if rewards.stages:
        folders = [stage.folder / "reward" for stage in rewards.stages]
        return JudgeSpec(name, rewards.key, sources, partial(HeldOutRewardModel, folders=folders, batch_size=size))
    assert isinstance(rewards.function, PlantedRewards)
    texts = TextJudge(rewards.function.gold)
    return JudgeSpec(name, rewards.key, sources, lambda roles: texts)


def local(source: str) -> str | Path:
    """Return a model's folder as a path, which counts by its weights, and the name of a hub's model as it is."""
    return Path(source) if Path(source).is_dir() else source


def _warning(judge: Sequence[str | Path], maximised: Sequence[str | Path]) -> str | None:
    """Say so where policies were trained to please their judge."""
    from preflab.eval.judges import PLANTED, warn_if_trained_against

    if not maximised:
        return None
    if PLANTED in judge and PLANTED in maximised:
        return "policies that maximise a reward were given the judge's own; its errors, if any, count as quality here"
    return warn_if_trained_against(judge, maximised)


class ByAnswers:
    """Decides by what a comparing judge says of the responses' texts, each pair of evaluations asked about once.

    Args:
        judge: who compares.
    """

    def __init__(self, judge: PairJudge) -> None:
        self.judge = judge
        self._found: dict[tuple[int, int], Any] = {}

    def __call__(self, first: Records, second: Records) -> Any:
        """Return who answered better, ``[N]``; NaN where nobody said."""
        import numpy as np

        from preflab.eval.judges import head_to_head

        key = (id(first), id(second))
        if key not in self._found:
            prompts = [conversation(row["prompt"], row.get("messages")) for row in first.samples]
            texts = ([row["response"] for row in records.samples] for records in (first, second))
            # The records go along: their identity is theirs for as long as they live.
            self._found[key] = (head_to_head(self.judge, prompts, *texts), first, second)
        found = self._found[key][0]
        wins = np.array([np.nan if win is None else win for win in found.wins], dtype=np.float64)
        if found.missing:
            # Equal responses tie unasked; beside the few pairs that somebody judged they would count for too much.
            same = [
                a["response"].strip() == b["response"].strip()
                for a, b in zip(first.samples, second.samples, strict=True)
            ]
            wins[same] = np.nan
        return wins

    def report(self) -> dict[str, Any]:
        """Return the judge's own report, and over all contests: equal responses, missing answers, position bias."""
        contests = [found.as_dict() for found, *_ in self._found.values()]
        means = {name: [c[name] for c in contests if c[name] is not None] for name in ("inconsistent", "shown_first")}
        return {
            **self.judge.report(),
            **{name: sum(c[name] for c in contests) for name in ("identical", "missing")},
            **{name: sum(values) / len(values) if values else None for name, values in means.items()},
        }
