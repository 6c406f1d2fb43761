"""Where methods meet: the open world, and of each seed what its methods stand on and who judges them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from preflab.disk.stages import UnbuiltRun, content_hash
from preflab.eval.pipeline.entries import CompareConfig
from preflab.eval.pipeline.footing import Footing, names
from preflab.eval.pipeline.judging import compares, judging
from preflab.eval.pipeline.standing import maximised_by, stood_on
from preflab.eval.pipeline.yardsticks import JUDGE, own_judge
from preflab.eval.subjects import Ground
from preflab.execution.graph import Piece
from preflab.experiment.foundation import DATA, REWARD_MODEL
from preflab.settings.fields import as_dict

if TYPE_CHECKING:
    from preflab.disk.stages import Stage
    from preflab.eval.comparison.budgets import Below
    from preflab.eval.pipeline.bringing import Brought
    from preflab.eval.pipeline.entries import Entry
    from preflab.eval.pipeline.judging import Chosen, Judging
    from preflab.eval.pipeline.session import Session
    from preflab.experiment.experiment import Experiment
    from preflab.experiment.foundation import Foundation, Replication


class Arena(NamedTuple):
    """Where methods meet.

    Attributes:
        session: the settings.
        foundation: gives what methods stand on.
        brought: what is not trained here.
        judge: who was asked for; None: the world's own.
        entries: what is compared.
    """

    session: Session
    foundation: Foundation
    brought: Brought
    judge: Chosen | None
    entries: Sequence[Entry]

    @property
    def experiment(self) -> Experiment:
        """The open world and run."""
        return self.foundation.experiment

    @property
    def config(self) -> CompareConfig:
        """What is compared."""
        return self.session.config(CompareConfig)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds of each method."""
        return self.session.run.seeds

    @property
    def redrawn(self) -> dict[str, bool]:
        """Whether each of the stages trained here, start and reward model, is drawn anew by every seed."""
        return self.foundation.redrawn(self.config.sources)

    @property
    def footing(self) -> Footing:
        """What methods stand on, as pieces."""
        return Footing(self.foundation, self.config.sources)

    @property
    def sampled(self) -> tuple[str, ...]:
        """What of the data every seed draws anew."""
        return ("preferences",) if DATA in self.config.sources else ()

    @property
    def primary(self) -> Literal["gold", "win-rate", "equal-kl"]:
        """The endpoint that the answer is about."""
        return self.config.primary or ("win-rate" if compares(self.judge) else "gold")

    @property
    def is_judged(self) -> bool:
        """Whether anybody says which answers are better: who was asked for, the world, a model of its pairs."""
        world = self.experiment.world
        return self.judge is not None or world.gold is not None or len(world.gold_pairs) > 0

    @property
    def gives_gold(self) -> bool:
        """Whether anybody gives answers a score, the one that compares them aside."""
        world, scores = self.experiment.world, self.judge is not None and not compares(self.judge)
        return scores or world.gold is not None or len(world.gold_pairs) > 0

    @property
    def trains_judge(self) -> bool:
        """Whether who gives gold rewards is a reward model trained here, on pairs of its own."""
        world = self.experiment.world
        return (self.judge is None or compares(self.judge)) and world.gold is None and len(world.gold_pairs) > 0

    @property
    def is_outline(self) -> bool:
        """Whether nothing is built here: stages have names and keys, and neither files nor records."""
        return isinstance(self.experiment.run, UnbuiltRun)

    @property
    def judge_is_kin(self) -> bool:
        """Whether the judge is a reward model trained as those that methods maximise: from one start, by one recipe."""
        world, foundation = self.experiment.world, self.foundation
        own = self.judge is None and world.gold is None and len(world.gold_pairs) > 0
        learnt = any(entry.method.needs.uses("reward") for entry in self.entries)
        return own and learnt and foundation.reads_models and not foundation.given

    def at(self, settings: Mapping[str, Mapping[str, Any]]) -> Arena:
        """Return the same with methods at other settings, by their labels."""
        entries = [
            entry._replace(method=self.session.method(entry.method.name, settings[entry.method.label]))
            if entry.method.label in settings
            else entry
            for entry in self.entries
        ]
        return self._replace(entries=entries)

    def look(self) -> str:
        """Return what tells this comparison from others on the same test prompts."""
        methods = [[entry.method.identity(), dict(entry.varied)] for entry in self.entries]
        asked = [self.seeds, self.config.sources, self.primary, as_dict(self.session.evaluation)]
        return content_hash([methods, asked, self.session.run.sft])

    def replications(self, seeds: Sequence[int]) -> list[Replication]:
        """Build what the methods of these seeds stand on."""
        return self.foundation.replications(seeds, self.config.sources)

    def start(self, seed: int) -> Stage | None:
        """Build where the methods of a seed start; None where that is the model itself."""
        return self.foundation.start_of(seed, self.config.sources)

    def judging(self, replications: Sequence[Replication]) -> Judging:
        """Build who judges all, on what the first seed starts from; it warns if these replications know the judge."""
        start = self.start(self.seeds[0])
        every = list({id(one.rewards): one.rewards for one in replications}.values())
        methods = [entry.method for entry in self.entries]
        evaluation = self.session.evaluation
        maximised = maximised_by(self.session, every, methods, self.brought) if every else []
        own = partial(own_judge, self.foundation, start, evaluation)
        return judging(self.experiment, evaluation, self.judge, own, maximised, start)

    def grounds(self, seeds: Sequence[int]) -> list[Ground]:
        """Build what the methods of each of these seeds share."""
        scores = self.judging(()).scores
        return [
            Ground(one.experiment, self.session.evaluation, one.sft, one.rewards, scores, seed=one.seed)
            for one in self.replications(seeds)
        ]

    def starts(self, grounds: Sequence[Ground]) -> list[Ground]:
        """Return where the starts of some grounds are evaluated: each of its own, or one that all seeds share."""
        anew = self.redrawn.get(self.foundation.start_label)
        return list(grounds) if anew else [grounds[0]._replace(seed=0)]

    def scored(self, grounds: Sequence[Ground]) -> list[Ground]:
        """Return where the reward models of some grounds are evaluated: each of its own, or one for all seeds."""
        return list(grounds) if self.redrawn.get(REWARD_MODEL) else [grounds[0]._replace(seed=0)]

    def below(self) -> list[Below]:
        """Return the stages trained here that methods stand on, with what they cost."""
        methods = [entry.method for entry in self.entries if not entry.varied]
        return stood_on(self.foundation, self.replications(self.seeds), self.redrawn, methods)

    # ---- as pieces -------------------------------------------------------------------------------

    def pieces_below(self, seeds: Sequence[int]) -> list[Piece]:
        """Return what builds all that the methods of some seeds stand on, and who judges; each once."""
        found = [piece for seed in (self.seeds[0], *seeds) for piece in self.footing.starts(seed)]
        found += [piece for seed in seeds for piece in self.footing.rewards(seed)]
        return list({piece.name: piece for piece in [*found, *self.judge_pieces()]}.values())

    def judge_pieces(self) -> list[Piece]:
        """Return who judges, where that is a stage: a reward model trained on pairs of its own, or several given."""
        given = len(self.judge) if isinstance(self.judge, list) else 0
        if given < 2 and not self.trains_judge:
            return []
        stages = (JUDGE, *(f"{JUDGE}-{number}" for number in range(1, given)))
        return [Piece(JUDGE, partial(self.judging, ()), names(self.footing.starts(self.seeds[0])), stages)]

    def standing(self, seed: int) -> tuple[str, ...]:
        """Return the pieces that a seed's methods need which maximise a reward: its models, or where they start."""
        return names(self.footing.rewards(seed) or self.footing.starts(seed))

    def judged_on(self, seed: int) -> tuple[str, ...]:
        """Return what the evaluations of a seed's methods need: who judges them, and what gives the proxy reward."""
        own = self.judge_pieces() or self.footing.starts(self.seeds[0])
        return tuple(dict.fromkeys((*self.standing(seed), *names(own))))
