"""The kinds of subjects: policies, reward models, and files of responses."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.config import EvalConfig
from eval.records import Records
from eval.subjects.ground import Ground, adapter_stage
from preflab import registry
from preflab.best_of_n import BestOf
from preflab.config import build
from preflab.data import normalised
from preflab.errors import UserError
from preflab.reading import read_rows
from preflab.runs import content_hash

if TYPE_CHECKING:
    from eval.harness import Policy
    from eval.judges import Judge
    from eval.subjects.models import Classifier
    from eval.tokens import Tokens
    from preflab.experiment import Experiment
    from preflab.rewards import Rewards
    from preflab.roles import Roles
    from preflab.worlds import GoldReward

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolicySubject:
    """A policy: where its weights are, and what is made of its samples.

    Attributes:
        source: folder or hub name; None: what the reference is.
        kind: what it is, in words.
        adapter: whether it is an adapter of the world's base.
        best_of: samples of which one is shown.
        method: name and settings of the method that trained it, which may decode in a way of its own.
        start: the adapter that its training started from, where that is known.
        maximised: the reward model's adapter that its training maximised, where that is known.
    """

    source: str | None
    kind: str = "policy adapter"
    adapter: bool = True
    best_of: int = 1
    method: tuple[str, Mapping[str, Any]] | None = None
    start: str | None = None
    maximised: str | None = None
    role: str = "policy"

    @cached_property
    def key(self) -> str:
        """Hash of the weights' files and of how they are sampled."""
        return content_hash([self.source and _fingerprint(self.source), self.best_of, self.method])

    def evaluate(self, ground: Ground, title: str, folder: Path | None = None) -> Records:
        """Score held-out pairs, and answer the prompts where asked to."""
        from eval.harness import evaluate_policy

        decode = self._decoder()
        if decode is not None and ground.reward is None:
            raise UserError(f"{title} chooses among samples by a reward model; name one as --reward-model")
        roles = ground.roles()
        policy = self._policy(ground, roles)
        if policy is not None:
            _say_what_is_undefined(title, policy)
        return evaluate_policy(
            ground.experiment,
            roles,
            ground.judge,
            ground.config,
            seed=ground.seed,
            title=title,
            decode=decode,
            policy=policy,
            generate=ground.generate,
            folder=folder,
        )

    def _policy(self, ground: Ground, roles: Roles) -> Policy | None:
        """Return a policy with weights of its own; None where the roles' own policy is it."""
        if self.source is None:
            return None
        from eval.subjects.models import load_policy, merged_policy, own_policy

        experiment = ground.experiment
        if self.adapter:
            try:
                roles.start("policy", Path(self.source))
                return None
            except UserError as error:
                logger.info("%s; folding it into a base of its own", error)
            model, tokenizer = merged_policy(experiment, Path(self.source)), experiment.tokenizer
        else:
            model, tokenizer = load_policy(experiment, self.source)
        return own_policy(experiment, ground.config, roles, model, tokenizer)

    def _decoder(self) -> Any:
        if self.best_of > 1:
            return partial(BestOf, n=self.best_of)
        if self.method is None:
            return None
        try:
            algorithm = registry.load(self.method[0])
        except UserError as error:
            logger.warning("%s; responses are taken as its policy samples them", error)
            return None
        return getattr(algorithm(build(algorithm.Config, self.method[1], self.method[0])), "decode", None)


@dataclass(frozen=True)
class RewardSubject:
    """A reward model: an adapter of the world's base saved as a classifier, or a classifier of its own."""

    source: str
    kind: str = "reward adapter"
    adapter: bool = True
    role: str = "reward"

    @cached_property
    def key(self) -> str:
        """Hash of the weights' files."""
        return _fingerprint(self.source)

    def evaluate(self, ground: Ground, title: str, folder: Path | None = None) -> Records:
        """Score held-out pairs."""
        from eval.harness import evaluate_reward_model

        experiment, config = ground.experiment, ground.config
        if self._stands_on(experiment):
            roles = experiment.open_roles(("reward",), sft=None, reward=self.play(experiment))
            return evaluate_reward_model(experiment, roles, config, title=title)
        scorer, tokens = self._classifier(experiment, config)
        return evaluate_reward_model(experiment, None, config, title=title, rewards=scorer.logits, tokens=tokens)

    def play(self, experiment: Experiment) -> Rewards:
        """Return the model as what gives rewards to the world's own prompts: a proxy, or what chooses samples."""
        from preflab.rewards import Rewards

        if self._stands_on(experiment):
            return Rewards.of(adapter_stage(Path(self.source), "reward"))
        return Rewards(self.key, function=experiment.rewards_of_texts(self.text_rewards(experiment), {"key": self.key}))

    def judge(self, experiment: Experiment, config: EvalConfig) -> Judge:
        """Return the model as a judge."""
        from eval.judges import HeldOutRewardModel
        from eval.subjects.models import RewardModelJudge

        if self._stands_on(experiment):
            return HeldOutRewardModel(Path(self.source), config.eval_batch_size)
        return RewardModelJudge(f"reward model {Path(self.source).name}", self.text_rewards(experiment))

    def text_rewards(self, experiment: Experiment) -> GoldReward:
        """Return the model as a function of texts."""
        from eval.subjects.models import text_rewards

        return text_rewards(*self._load(experiment), literals=experiment.encoder.literals)

    def _stands_on(self, experiment: Experiment) -> bool:
        """Whether the roles can read it: an adapter of the base, of the shape in the settings."""
        if not self.adapter:
            return False
        from preflab.adapters import read_folder

        try:
            read_folder(Path(self.source), experiment.lora)
        except UserError as error:
            logger.info("%s; folding it into a base of its own", error)
            return False
        return True

    def _classifier(self, experiment: Experiment, config: EvalConfig) -> tuple[Classifier, Tokens]:
        from eval.tokens import tokens_of

        classifier, tokenizer = self._load(experiment)
        return classifier, tokens_of(experiment, config, classifier.model, tokenizer)

    def _load(self, experiment: Experiment) -> tuple[Classifier, Any]:
        from eval.subjects.models import load_classifier
        from preflab.encoding import load_tokenizer

        if self.adapter:
            return load_classifier(experiment, experiment.world.model, Path(self.source)), experiment.tokenizer
        tokenizer = load_tokenizer(self.source, experiment.world_config.trust_remote_code)
        return load_classifier(experiment, self.source), tokenizer


@dataclass(frozen=True)
class ResponsesSubject:
    """A file of responses: rows with ``prompt`` (or ``instruction``) and ``response`` (or ``output``)."""

    source: str
    kind: str = "responses"
    role: str = "policy"

    @cached_property
    def key(self) -> str:
        """Hash of the file."""
        return hashlib.sha256(Path(self.source).read_bytes()).hexdigest()[:16]

    def evaluate(self, ground: Ground, title: str, folder: Path | None = None) -> Records:
        """Judge the responses; a file has no probabilities, so that nothing else is defined.

        Raises:
            UserError: if an evaluation prompt has no response in it.
        """
        from eval.harness import evaluate_responses

        logger.warning("%s is a file of responses: no log-probabilities, KL, entropy or held-out accuracy", title)
        if not ground.generate:
            return Records([], [])
        given = {normalised(prompt): response for prompt, response in _responses(self.source)}
        world, groups = ground.experiment.world, ground.experiment.eval_prompts[: ground.config.eval_prompts]
        prompts = [world.eval_prompts[group.row]["prompt"] for group in groups]
        missing = [prompt for prompt in prompts if normalised(prompt) not in given]
        if missing:
            raise UserError(
                f"{self.source} answers {len(prompts) - len(missing)} of {len(prompts)} evaluation prompts; first "
                f"missing: {missing[0][:80]!r}. It must answer all; --eval-prompts asks for fewer"
            )
        answers = {prompt: given[normalised(prompt)] for prompt in prompts}
        return evaluate_responses(ground.experiment, ground.roles(), ground.judge, ground.config, answers)


def _responses(source: str) -> list[tuple[str, str]]:
    """Return prompts and responses of a file."""
    found = []
    for number, row in read_rows(source):
        prompt, response = row.get("prompt", row.get("instruction")), row.get("response", row.get("output"))
        if not isinstance(prompt, str) or not isinstance(response, str):
            raise UserError(
                f"{source}, row {number}: a response needs text under prompt (instruction) and response (output)"
            )
        found.append((prompt, response))
    return found


def _say_what_is_undefined(title: str, policy: Policy) -> None:
    if not policy.comparable:
        logger.warning("%s writes other tokens than the reference: no log-ratio, KL or implicit reward for it", title)
    elif not policy.exact:
        logger.warning("%s has another number of outputs than the reference: no exact KL for it", title)


def _fingerprint(source: str) -> str:
    from preflab.experiment import model_fingerprint

    return model_fingerprint(source)
