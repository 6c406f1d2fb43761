"""The kinds of subjects: policies, reward models, and files of responses."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.data.asked import Asked, conversation
from preflab.data.messages import SYSTEM, text_or_messages
from preflab.data.reading import RowError, read_rows
from preflab.data.splits import normalised
from preflab.disk.digests import digest_of_files
from preflab.disk.stages import content_hash
from preflab.errors import UserError
from preflab.eval.records.records import Records
from preflab.eval.settings import EvalConfig
from preflab.eval.subjects.ground import Ground, adapter_stage
from preflab.method import registry
from preflab.method.contract import decoder_of
from preflab.sampling.best_of_n import BestOf
from preflab.settings.fields import build

if TYPE_CHECKING:
    from preflab.eval.harness.policies import Policy
    from preflab.eval.judges import Judge
    from preflab.experiment.experiment import Experiment
    from preflab.experiment.given_rewards import GivenReward
    from preflab.experiment.rewards import Rewards
    from preflab.model.roles import Roles
    from preflab.worlds import World

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
        from preflab.eval.harness.evaluate import evaluate_policy

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
            ground.judge_on(roles),
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
        from preflab.eval.subjects.models import load_policy, merged_policy, own_policy
        from preflab.model.adapters import OtherAdapterError

        experiment = ground.experiment
        if self.adapter:
            try:
                roles.start("policy", Path(self.source))
                return None
            except OtherAdapterError as error:
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
            if ":" in self.method[0]:  # the user named it
                raise
            logger.warning("%s; responses are taken as its policy samples them", error)
            return None
        return decoder_of(algorithm(build(algorithm.Config, self.method[1], self.method[0])))


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

    @cached_property
    def given(self) -> GivenReward:
        """The same, as what may be maximised."""
        from preflab.experiment.given_rewards import GivenReward

        return GivenReward(self.source, self.adapter)

    def evaluate(self, ground: Ground, title: str, folder: Path | None = None) -> Records:
        """Score held-out pairs."""
        from preflab.eval.harness.evaluate import evaluate_reward_model
        from preflab.eval.harness.rows import tokens_of

        experiment, config = ground.experiment, ground.config
        if self.given.on_base(experiment):
            roles = experiment.open_roles(("reward",), sft=None, reward=self.play(experiment))
            return evaluate_reward_model(experiment, roles, config, title=title)
        texts = self.given.texts(experiment)
        if texts.reads_messages:  # written anew, from what the tokens say, as sampled responses are
            rewards = experiment.rewards_of_texts(texts.logits, self.key)
            return evaluate_reward_model(experiment, None, config, title=title, rewards=rewards)
        classifier, tokenizer = self.given.load(experiment)
        tokens = tokens_of(experiment, config, classifier.model, tokenizer)
        return evaluate_reward_model(experiment, None, config, title=title, rewards=classifier.logits, tokens=tokens)

    def play(self, experiment: Experiment) -> Rewards:
        """Return the model as what gives rewards to the world's own prompts: a proxy, or what chooses samples."""
        from preflab.experiment.rewards import Rewards

        if self.given.on_base(experiment):
            return Rewards.of(adapter_stage(Path(self.source), "reward"))
        key = self.given.key_in(experiment)
        return Rewards(key, function=experiment.rewards_of_texts(self.given.texts(experiment), key))

    def judge(self, experiment: Experiment, config: EvalConfig) -> Callable[[Roles], Judge]:
        """Return what opens the model as a judge; one with a base of its own is loaded once for all roles."""
        from preflab.eval.judges import HeldOutRewardModel, TextJudge

        if self.given.on_base(experiment):
            return partial(HeldOutRewardModel, folders=[Path(self.source)], batch_size=config.eval_batch_size)
        judge = TextJudge(self.given.texts(experiment))
        return lambda roles: judge


@dataclass(frozen=True)
class ResponsesSubject:
    """A file of responses: rows with ``prompt`` (or ``instruction``) and ``response`` (or ``output``).

    A prompt may stand there as a model is given it, as messages, or, where it is one user's message, as its words.
    """

    source: str
    kind: str = "responses"
    role: str = "policy"

    @cached_property
    def key(self) -> str:
        """Hash of the file."""
        try:
            return digest_of_files(Path(self.source), digits=16)
        except OSError as error:
            raise UserError(f"{self.source} cannot be read: {error.strerror or error}") from None

    def evaluate(self, ground: Ground, title: str, folder: Path | None = None) -> Records:
        """Judge the responses; a file has no probabilities, so that nothing else is defined.

        Raises:
            UserError: if an evaluation prompt has no response in it, word for word, or two.
        """
        from preflab.eval.harness.evaluate import evaluate_responses

        logger.warning("%s is a file of responses: no log-probabilities, KL, entropy or held-out accuracy", title)
        if not ground.generate:
            return Records([], [])
        # A special-token string inside a message is guarded in a world's texts, and may not be in a file's.
        written = ground.experiment.encoder.literals.written
        given = _responses(self.source, written)
        world, groups = ground.experiment.world, ground.experiment.eval_prompts[: ground.config.eval_prompts]
        prompts = [world.eval_prompts[group.row]["prompt"] for group in groups]
        answers = _answers({prompt: _put(world, prompt, written) for prompt in prompts}, given)
        missing = [prompt for prompt in prompts if prompt not in answers]
        if missing:
            alike, first = {normalised(prompt) for prompt in given}, _put(world, missing[0], written)
            hint = "; it answers one that differs in case or blanks alone" if alike & {*map(normalised, first)} else ""
            raise UserError(
                f"{self.source} answers {len(prompts) - len(missing)} of {len(prompts)} evaluation prompts; first "
                f"missing: {first[-1][:80]!r}{hint}. It must answer all; --eval-prompts asks for fewer"
            )
        roles = ground.roles()
        return evaluate_responses(ground.experiment, roles, ground.judge_on(roles), ground.config, answers)


FIELDS = (("prompt", "instruction"), ("response", "output"))


def _put(world: World, prompt: str, written: Callable[[str], str]) -> list[str]:
    """Return how a file may put a prompt: as a model is given it, or as a reader sees it, system prompt or not."""
    messages = world.asked.get(prompt, Asked()).messages
    unled = [message for message in messages or () if message["role"] != SYSTEM]
    text = written(prompt)
    return list(dict.fromkeys((text, conversation(text, messages), conversation(text, unled))))


def _answers(puts: Mapping[str, list[str]], given: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """Return the responses to the prompts that a file answers; what two prompts may be put as is neither."""
    meant = Counter(put for every in puts.values() for put in every)
    found = {prompt: next((p for p in every if p in given and meant[p] == 1), None) for prompt, every in puts.items()}
    return {prompt: given[put][0] for prompt, put in found.items() if put is not None}


def _responses(source: str, written: Callable[[str], str] = str) -> dict[str, tuple[str, int]]:
    """Return the response to each prompt of a file, and its row; prompts as they were `written`.

    Raises:
        UserError: for a row without the two texts, and for a second response to a prompt.
    """
    found: dict[str, tuple[str, int]] = {}
    for number, row in read_rows(source):
        prompt, response = (_text(source, number, row, names) for names in FIELDS)
        prompt = written(prompt)
        if prompt in found:
            raise UserError(
                f"{source}, rows {found[prompt][1]} and {number} answer the same prompt, {prompt[:60]!r}; one response "
                "to each is judged: leave one of them out"
            )
        found[prompt] = response, number
    return found


def _text(source: str, number: int, row: Mapping[str, Any], names: tuple[str, str]) -> str:
    """Return the text of a field that goes by either of two names."""
    values = [row[name] for name in names if row.get(name) is not None]
    where = f"{source}, row {number}"
    if not values:
        raise UserError(f"{where}: a response needs text under prompt (instruction) and response (output)")
    if len(values) == 2 and values[0] != values[1]:
        raise UserError(f"{where}: {names[0]} and {names[1]} both stand there and differ; leave one out")
    text = values[0]
    if isinstance(text, (str, list)) and names == FIELDS[0]:  # messages, which a CSV made text of
        try:
            found = text_or_messages(text)
            text = found if isinstance(found, str) else conversation("", found)
        except RowError as error:
            raise UserError(f"{where}: {names[0]} holds no messages that can be read ({error})") from None
    if not isinstance(text, str):
        raise UserError(f"{where}: {names[0]} is {text!r:.60}; it must be text, or messages")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f"{where}: {names[0]} holds half of a character (a lone surrogate), which is no text")
    return text


def _say_what_is_undefined(title: str, policy: Policy) -> None:
    if not policy.comparable:
        logger.warning("%s writes other tokens than the reference: no log-ratio, KL or implicit reward for it", title)
    elif not policy.exact:
        logger.warning("%s has another number of outputs than the reference: no exact KL for it", title)


def _fingerprint(source: str) -> str:
    from preflab.experiment.identity import model_fingerprint

    return model_fingerprint(source)
