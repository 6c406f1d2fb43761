"""One comparison's common ground: a world, its encoded splits, and the stages built from them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from preflab.data.encoding import EncodedGroup, Encoder, load_tokenizer
from preflab.data.splits import fingerprint
from preflab.disk.stages import Run, Stage
from preflab.errors import UserError
from preflab.experiment.cards import Trained
from preflab.experiment.identity import StandsOn, model_fingerprint
from preflab.experiment.reward_models import normalise
from preflab.experiment.rewards import PlantedRewards, RewardFunction, Rewards, WeightedReward, texts_of
from preflab.experiment.saving import save_roles
from preflab.experiment.splits import EncodedSplits, keeps_reference
from preflab.method.configured import Method
from preflab.method.contract import Role
from preflab.method.plugins import answering
from preflab.model.base import load_base
from preflab.model.model_files import read_model_files
from preflab.model.roles import Roles
from preflab.progress import progress
from preflab.sampling.sampler import Sampler, TransformersSampler
from preflab.sampling.vllm import VllmSampler
from preflab.seeds import derive
from preflab.settings.fields import deciding
from preflab.settings.training import LoraSettings, RolloutConfig
from preflab.tracking.runs import Tracking
from preflab.training.offline import OfflineSource
from preflab.training.reference import ReferenceLogps
from preflab.training.rollouts import RolloutSource
from preflab.training.sources import Source
from preflab.training.task import UNTRAINED, Task, TrainRecord
from preflab.training.trainer import run_training
from preflab.training.validation import Measure, held_losses, held_rollout
from preflab.versions import versions
from preflab.worlds import GoldReward, World, WorldConfig, open_world
from preflab.worlds.validation import with_validation

logger = logging.getLogger(__name__)


class Training(NamedTuple):
    """What a stage trains; `Experiment.train` says what each is, and `inputs` what decides the result."""

    name: str
    method: Method
    seed: int
    sft: Stage | None
    rewards: Rewards | None
    groups: Sequence[EncodedGroup] | None
    snapshots: int
    inputs: Mapping[str, Any]


class Experiment(EncodedSplits):
    """World, tokenizer, encoded splits, and the stages of one run.

    Args:
        run: where stages are kept.
        world_config: which world.
        lora: adapters of every role, and the base's type.
        cache: where base models are kept between runs.
    """

    check_model = staticmethod(read_model_files)  # before a library makes something else of a damaged one

    def __init__(self, run: Run, world_config: WorldConfig, lora: LoraSettings, cache: Path) -> None:
        self.run, self.world_config, self.lora = run, world_config, lora
        self.tracking = Tracking(group=run.folder.name, folder=run.folder)
        if world_config.model is not None:
            self.check_model(world_config.model)
        world: World = open_world(world_config, cache)
        if world_config.validation_fraction:
            world = with_validation(world, world_config.validation_fraction, world_config.data_seed)
        self.tokenizer = load_tokenizer(
            world.model, world_config.trust_remote_code, chat_template=world_config.chat_template
        )
        longest, limit = world.max_response_tokens, world_config.max_response_tokens
        self.max_response_tokens = limit if longest is None else min(longest, limit)
        limits = world_config.max_prompt_tokens, self.max_response_tokens
        truncate = world_config.truncated
        super().__init__(world, Encoder(self.tokenizer, *limits, chat=world.chat, cut=world.cut, truncate=truncate))
        self.ends = self.encoder.ends.ids

    @cached_property
    def instructed(self) -> bool:
        """Whether the model has a chat template of its own: one that answers instructions as it is."""
        given, trust = self.world_config.chat_template, self.world_config.trust_remote_code
        tokenizer = self.tokenizer if given is None else load_tokenizer(self.world.model, trust)
        return bool(tokenizer.chat_template)

    @cached_property
    def data(self) -> dict[str, Any]:
        """Fingerprints and counts of every split, for keys and reports."""
        return {
            "world": self.world.name,
            "model": self.world.model,
            "model_fingerprint": model_fingerprint(self.world.model),
            "splits": {
                name: {"rows": len(split), "fingerprint": found}
                for name, found in self.world.fingerprints.items()
                if len(split := getattr(self.world, name))
            },
            "facts": self.world.facts,
        }

    def identity(self) -> dict[str, Any]:
        """Return what decides every stage's result: data, adapters, limits."""
        limits: dict[str, Any] = {"prompt": self.world_config.max_prompt_tokens, "response": self.max_response_tokens}
        limits |= {"truncated": truncated} if (truncated := self.world_config.truncated) else {}
        # Those that other files than the model's may name: a template, say.
        ends = {"ends": self.ends} if len(self.ends) > 1 else {}
        # Where the model lies decides nothing; what is in it does.
        data = {k: v for k, v in self.data.items() if k not in ("facts", "model")}
        return {"data": data, "lora": deciding(self.lora), "limits": limits, **ends}

    # ---- models ----------------------------------------------------------------------------------

    def sampler(self, rollouts: RolloutConfig | None = None, *, batch_size: int | None = None) -> Sampler:
        """Return what draws the rollouts of a method; without one, what evaluation draws with.

        Args:
            rollouts: the method's settings.
            batch_size: the user's setting that memory follows; it changes no draw of our own loop.
        """
        pad_id = self.tokenizer.pad_token_id
        if rollouts is None or rollouts.sampler == "transformers":
            return TransformersSampler(self.ends, pad_id, self.max_response_tokens, batch_size=batch_size)
        return VllmSampler(
            self.world.model,
            self.ends,
            pad_id,
            self.world_config.max_prompt_tokens,
            self.max_response_tokens,
            rollouts.vllm_memory,
            self.world_config.trust_remote_code,
        )

    def load_base(self) -> Any:
        """Load the frozen base model afresh."""
        with progress(f"loading {self.world.model}"):
            model = load_base(self.world.model, self.lora, trust_remote_code=self.world_config.trust_remote_code)
        # What the config says was checked with every text; this is for configs that say nothing, and for the weights.
        rows, tokenise = model.get_input_embeddings().num_embeddings, self.encoder.tokenise
        if tokenise.rows is None:  # and of splits that the world encoded itself, our encoder has seen nothing
            groups = [group for split in self.world.encoded.values() for group in split]
            tokenise.check_rows(rows, {x for g in groups for ids in (g.prompt_ids, *g.response_ids) for x in ids})
        tokenise.check_rows(rows)
        return model

    def open_roles(
        self,
        wanted: Sequence[Role],
        *,
        sft: Stage | None,
        reward: Stage | Rewards | RewardFunction | None,
        trains: Sequence[Role] = (),
        joint: bool = False,
        seed: int = 0,
        temperature: float = 1.0,
    ) -> Roles:
        """Load the base once and put every wanted role on it, each at its starting point.

        The policy starts from the SFT adapter where there is one, and the reference is then a frozen
        clone of it; the reward role starts there too when it is to be trained, and is read from the
        reward stage when not; the value starts from the reward model, or from the policy where rewards come
        from a function. With `joint` it is a head on the policy's own adapter.
        """
        roles = Roles(self.load_base(), self.lora, seed=seed, temperature=temperature)
        if sft is not None:
            roles.start("policy", sft.folder / "policy")
            if "reference" in wanted:
                roles.clone("policy", "reference")
        if "reward" in trains:
            roles.add("reward")
            if sft is not None:
                roles.clone("policy", "reward")
        elif "reward" in wanted:
            if reward is None:
                raise UserError("this method needs a reward model; train one first")
            Rewards.of(reward).play(roles)
        if joint:
            roles.join_value()
        elif "value" in wanted:
            roles.clone("reward" if roles.has("reward") else "policy", "value")
        roles.learn(())
        return roles

    # ---- stages ----------------------------------------------------------------------------------

    def train(
        self,
        name: str,
        method: Method,
        *,
        seed: int = 0,
        sft: Stage | None = None,
        reward: Stage | Rewards | RewardFunction | None = None,
        groups: Sequence[EncodedGroup] | None = None,
        snapshots: int = 0,
    ) -> Stage:
        """Train a method as a stage of the run.

        Args:
            name: the stage's name.
            method: what to train.
            seed: decides fresh adapters, order and samples.
            sft: where the policy starts; the bare base if None.
            reward: what gives rewards, frozen, to methods that need them.
            groups: offline data in place of the world's own split.
            snapshots: how many times to keep the trained role on the way (see `preflab.training.snapshots`).
        """
        uses_reward = method.needs.uses("reward") and "reward" not in method.needs.trains
        rewards = Rewards.of(reward) if reward is not None and uses_reward else None
        inputs = {
            **self.identity(),
            **method.identity(),
            "seed": seed,
            **StandsOn.of(sft, rewards)._asdict(),
            "groups": None if groups is None else fingerprint([{"g": str(g)} for g in groups]),
            **({"snapshots": snapshots} if snapshots else {}),
            **({"validation": self.validation.world.fingerprints} if method.train.eval_steps else {}),
        }
        training = Training(name, method, seed, sft, rewards, groups, snapshots, inputs)
        return self.run.stage(name, inputs, partial(self._train, training))

    def _train(self, training: Training, folder: Path) -> dict[str, Any]:
        """Open the roles, run the method's loop, write what it trained."""
        method, seed, needs = training.method, training.seed, training.method.needs
        rows = self.learnt_from(training.name, method.needs) if training.groups is None else training.groups
        reference = None
        if rows is not None and keeps_reference(method, len(rows)):
            reference = self._reference_of(rows, training)
        wanted: tuple[Role, ...] = tuple(dict.fromkeys((*needs.scores, *needs.rollout)))
        roles = self.open_roles(
            [role for role in wanted if role != "reference" or reference is None],
            sft=training.sft,
            reward=training.rewards,
            trains=needs.trains,
            joint=needs.joint,
            seed=derive(seed, "init"),
            temperature=method.config.temperature if isinstance(method.config, RolloutConfig) else 1.0,
        )
        with self.tracking.following(training.name, method, training.inputs) as followed:
            record = self._fit(training._replace(method=followed), roles, rows, reference, folder)
        if needs.trains[0] == "reward":
            size = method.train.micro_batch
            sampler, limit = self.sampler(batch_size=size), self.max_response_tokens
            normalise(roles, self.prompts, sampler, limit, seed=seed, batch_size=size)
        about = {**training.inputs, "versions": versions()}
        run, algorithm = self.run.folder, type(method.algorithm)
        trained = Trained(training.name, "policy", self.world.model, about, record._asdict(), run, algorithm)
        save_roles(roles, needs.trains, self.tokenizer, self.ends, trained, folder, chat=self.world.chat)
        return record._asdict()

    def _fit(
        self,
        training: Training,
        roles: Roles,
        groups: Sequence[EncodedGroup] | None,
        reference: ReferenceLogps | None,
        folder: Path,
    ) -> TrainRecord:
        """Run the loop that a method of its kind has."""
        name, method, seed, snapshots = training.name, training.method, training.seed, training.snapshots
        algorithm, train, tokenizer = method.fresh(), method.train, self.tokenizer
        if algorithm.kind == "decoder":
            return UNTRAINED
        if algorithm.kind == "trainer":
            rows, prompts = list(groups or []), self.prompts if groups is None else []
            limit = self.max_response_tokens
            task = Task(roles, rows, train, tokenizer, folder, seed, name, prompts, limit, snapshots, self.ends)
            with answering(algorithm, "fit"):
                record: TrainRecord = algorithm.fit(task)
            return record
        source: Source
        measure: Measure | None = None
        looked_at = self._looked_at(training) if train.eval_steps else None
        if groups is None:
            if method.config.reference_mixup and not roles.has("reference"):
                roles.clone("policy", "reference")
            sampler = self.sampler(method.config, batch_size=train.micro_batch)
            source = RolloutSource(algorithm, method.needs, roles, sampler, self.prompts, train, seed)
            if looked_at is not None:
                drawn, heat = [group.prompt_ids for group in looked_at], method.config.temperature
                measure = partial(held_rollout, method.needs, heat, roles, sampler, drawn, source.fitting, seed)
        else:
            pad_id = tokenizer.pad_token_id
            of_rows = partial(OfflineSource, train=train, pad_id=pad_id, seed=seed, algorithm=algorithm, roles=roles)
            source = of_rows(groups, reference=reference)
            if looked_at is not None:
                kept = None if reference is None else self._reference_of(looked_at, training)
                held = of_rows(looked_at, reference=kept)
                held.fitting = source.fitting  # what fits is found out in training
                measure = partial(held_losses, algorithm, roles, held)
        return run_training(
            roles,
            algorithm,
            source,
            train,
            folder,
            seed=seed,
            title=name,
            snapshots=snapshots,
            measure=measure,
            judged_by=method.judged_by,
        )

    def _looked_at(self, training: Training) -> Sequence[EncodedGroup]:
        """Return the rows, or prompts, that a method is evaluated on while it learns."""
        method = training.method
        rows = self.validation.learnt_from(f"{training.name}, looked at on the way,", method.needs)
        return (self.validation.prompt_groups if rows is None else rows)[: method.train.eval_rows]

    def _reference_of(self, rows: Sequence[EncodedGroup], training: Training) -> ReferenceLogps:
        """Return log π_ref of some rows as the method's own passes round."""
        train = training.method.train
        return self.reference_logps(rows, training.sft, bf16=train.bf16, batch_size=train.micro_batch)

    def reference_logps(self, groups: Sequence[EncodedGroup], sft: Stage | None, **how: Any) -> ReferenceLogps:
        """Return log π_ref of every response token of some groups, which `reference_stage` computes."""
        return ReferenceLogps.load(self.reference_stage(groups, sft, **how).folder, groups)

    def reference_stage(
        self,
        groups: Sequence[EncodedGroup],
        sft: Stage | None,
        *,
        bf16: bool = False,
        batch_size: int | None = None,
    ) -> Stage:
        """Compute log π_ref of every response token of some groups, once for model and data.

        With `bf16` it is rounded as the policy's own passes are: the two then agree before the first step.
        `batch_size` bounds memory and is no part of the result.
        """
        # One hash of what is scored: the rows' order counts, feedback does not.
        scored = fingerprint([{"prompt": g.prompt_ids, "responses": g.response_ids} for g in groups])
        inputs = {**self.identity(), **StandsOn.of(sft, None).start(), "scored": scored, "bf16": bf16}

        def work(folder: Path) -> dict[str, Any]:
            roles = self.open_roles(("reference",), sft=sft, reward=None)
            roles.autocast = bf16
            found = ReferenceLogps.compute(
                roles, groups, self.tokenizer.pad_token_id, "reference log-probabilities", batch_size
            )
            found.save(folder)
            return {"groups": len(groups), "tokens": len(found.flat)}

        return self.run.stage("reference", inputs, work)

    def own_reward(self) -> list[WeightedReward]:
        """Return the parts of the world's reward that score texts: those of ``--reward``, or the planted one.

        Raises:
            UserError: where the world has none.
        """
        if self.world.reward is None:
            return [WeightedReward("planted", 1.0, Rewards.of(self.gold_reward()))]
        return [
            WeightedReward(part.name, part.weight, Rewards.of(self.rewards_of_texts(part, part.key)))
            for part in self.world.reward.parts
        ]

    def gold_reward(self) -> PlantedRewards:
        """Return the world's planted reward as a function of token ids.

        Raises:
            UserError: where the world has none.
        """
        if self.world.gold is None:
            raise UserError(f"the {self.world.name} world has no planted reward; its rewards come from a reward model")
        return self.rewards_of_texts(self.world.gold, f"planted-{self.world.gold_key}")

    def rewards_of_texts(self, score: GoldReward, key: str) -> PlantedRewards:
        """Return a reward of texts as a function of token ids, for the world's own prompts.

        Args:
            score: the reward.
            key: what decides it.
        """
        world = self.world
        splits = [
            (world.prompts, self.prompt_groups),
            (world.eval_prompts, self.eval_prompts),
            (world.pairs, self.pairs),
            (world.heldout, self.heldout),
        ]
        if world.validation is not None:
            splits.append((world.validation.prompts, self.validation.prompt_groups))
        return PlantedRewards(score, self.tokenizer, texts_of(splits), key)
