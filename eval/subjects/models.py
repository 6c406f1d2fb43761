"""Models that do not stand on the world's base: policies and reward models with weights of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eval.harness.evaluate import Policy
from eval.harness.rows import Tokens, tokens_of, world_batch
from eval.settings import EvalConfig
from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup, Encoder, load_tokenizer
from preflab.errors import UserError
from preflab.experiment.experiment import Experiment
from preflab.experiment.rewards import PlantedRewards
from preflab.method.contract import Batch
from preflab.model.adapter_config import read_normalisation, say_other_base
from preflab.model.adapters import HEAD_KEY, get_adapter, read_plain_lora
from preflab.model.base import default_device, load_base, loaded_dtype, without_dropout
from preflab.model.in_parts import reward_scores, scored
from preflab.model.opening import open_model
from preflab.model.roles import Roles
from preflab.scoring.batching import rows_at_once
from preflab.scoring.logps import concatenated
from preflab.scoring.padding import padding_of
from preflab.settings.training import LoraSettings
from preflab.tokens.literals import Literals
from preflab.worlds import GoldReward

ENDS = ("embed", "lm_head", "wte", "wpe")
"""In the names of embeddings and output heads."""


def own_policy(experiment: Experiment, config: EvalConfig, world: Roles, model: Any, tokenizer: Any) -> Policy:
    """Return a causal language model as a policy; rewards, where asked for, are those of the world's roles.

    Args:
        experiment: gives the rows.
        config: how many.
        world: the roles on the experiment's own base.
        model: loaded, frozen.
        tokenizer: the model's own.
    """
    # An adapter that changes nothing: it is what a role is, and costs next to nothing at rank 1.
    roles = Roles(model, LoraSettings(lora_rank=1, lora_alpha=1, dtype=experiment.lora.dtype))
    tokens = tokens_of(experiment, config, model, tokenizer)
    comparable = tokens.tokenizer is experiment.tokenizer
    if world.gives_rewards:
        roles.reward_function = _rewards_through(experiment, config, world, tokens, comparable)
    outputs = [found.get_output_embeddings().weight.shape[0] for found in (model, world.model)]
    return Policy(roles, tokens, comparable, comparable and outputs[0] == outputs[1])


def _rewards_through(
    experiment: Experiment, config: EvalConfig, world: Roles, tokens: Tokens, comparable: bool
) -> Callable[[Batch], Tensor]:
    """Return the world's rewards ``[B, K]`` of batches in a policy's own tokens."""
    if comparable:
        return lambda batch: world(batch.to(world.device), ("reward",)).rewards.to(batch.prompt_ids.device)
    data = experiment.world
    splits = [(data.heldout, tokens.pairs), (data.eval_prompts, tokens.prompts)]
    texts = {tuple(group.prompt_ids): rows[group.row]["prompt"] for rows, groups in splits for group in groups}

    def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        batch, _ = world_batch(experiment, prompts, responses)
        return reward_scores(world, batch, config.eval_batch_size)[:, 0].tolist()

    return PlantedRewards(score, tokens.tokenizer, texts, "texts")


def load_policy(experiment: Experiment, source: str) -> tuple[Any, Any]:
    """Load a causal language model, frozen, and its tokenizer.

    Raises:
        UserError: if either cannot be loaded.
    """
    trust = experiment.world_config.trust_remote_code
    return load_base(source, experiment.lora, trust_remote_code=trust), load_tokenizer(source, trust)


def merged_policy(experiment: Experiment, folder: Path) -> Any:
    """Load the experiment's base with an adapter of any shape folded into its weights.

    Raises:
        UserError: if the adapter does not fit the base, or is of a kind that cannot be folded in.
    """
    return _merged(experiment.load_base(), folder)


def _merged(base: Any, folder: Path) -> Any:
    """Fold an adapter into a base, each of its weights in its place."""
    from peft import LoraConfig, PeftModel

    weights, config = read_plain_lora(folder)
    say_other_base(folder, config.get("base_model_name_or_path"), base.config._name_or_path)
    if any(part in name for name in weights for part in ENDS):
        _untie(base)
    try:
        model = PeftModel.from_pretrained(
            base, str(folder), config=LoraConfig(**{**config, "init_lora_weights": False})
        )
        missing = _names(weights) ^ _names(get_adapter(model, "default"))
        if missing:  # the library loads what it finds a place for
            raise ValueError(f"{min(missing)} {'has no place in it' if min(missing) in weights else 'is missing'}")
        return model.merge_and_unload().requires_grad_(False)
    except Exception as error:  # the library raises many unrelated types for adapters that do not fit
        raise UserError(f"adapter {folder} does not fit model {base.config._name_or_path}: {error}") from None


def _untie(base: Any) -> None:
    """Give an output head that shares the input embeddings a copy: what is folded into one changes not the other."""
    head = base.get_output_embeddings()
    if head is not None and head.weight is base.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False


def _names(state: Mapping[str, Tensor]) -> set[str]:
    # Embeddings are saved with an adapter or not as the library sees fit; what LoRA adds to them always is.
    return {name for name in state if "lora_" in name or not any(part in name for part in ENDS)}


class Classifier(NamedTuple):
    """A sequence classifier with one label, its reward normalised: (logit − mean) / std.

    Attributes:
        model: loaded, frozen.
        mean: of the logit.
        std: of the logit.
    """

    model: Any
    mean: float = 0.0
    std: float = 1.0

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits ``[B, K]`` of a batch in its tokens, whose differences are log-odds."""
        return classifier_logits(self.model, batch)

    def rewards(self, batch: Batch) -> Tensor:
        """Return the same, normalised."""
        return (self.logits(batch) - self.mean) / self.std


def load_classifier(experiment: Experiment, source: str, adapter: Path | None = None) -> Classifier:
    """Load a reward model, its score head included.

    Args:
        experiment: says in which type, and whether code that comes with a model is run.
        source: the classifier, or the base of its adapter.
        adapter: folded into it, if given; the normalisation beside it is kept.

    Raises:
        UserError: if it cannot be loaded, or the score head is missing: it would be random.
    """
    device = default_device()
    model = open_model(
        "SequenceClassification",
        source,
        loaded_dtype(experiment.lora.dtype, device),
        trust_remote_code=experiment.world_config.trust_remote_code,
        # The base of an adapter has a head of its own; the score's comes with the adapter, which is seen to below.
        lent=lambda weight: adapter is not None and weight.startswith(("score.", "lm_head.", "embed_out.")),
        num_labels=1,
    )
    normalisation: dict[str, float] = {}
    if adapter is not None:
        if HEAD_KEY not in read_plain_lora(adapter)[0]:
            raise UserError(f"{adapter} is no reward model: it has no score head")
        model, normalisation = _merged(model, adapter), read_normalisation(adapter)
    without_dropout(model)
    return Classifier(model.requires_grad_(False).eval().to(device), **normalisation)


@torch.no_grad()
def classifier_logits(model: Any, batch: Batch) -> Tensor:
    """Return the one label's logit of each prompt with its response, ``[B, K]``, float32 or wider.

    The texts are padded on the right with the model's own padding token, by which it finds their ends; a model
    that has none (or one that is no token) is asked about one text at a time.
    """
    ids, mask, _ = concatenated(batch.to(model.device))
    pad = padding_of(model)
    if pad is None or not 0 <= pad < model.get_input_embeddings().num_embeddings:
        logits = torch.cat([model(input_ids=row[real][None]).logits for row, real in zip(ids, mask, strict=True)])
    else:
        logits = model(input_ids=ids.masked_fill(~mask, pad), attention_mask=mask.long()).logits
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return wide[:, 0].reshape(batch.response_ids.shape[:2])


def text_rewards(
    classifier: Classifier, tokenizer: Any, most: int = 32, literals: Literals | None = None
) -> GoldReward:
    """Return a reward model as a function of prompts and responses, encoded as everything here is.

    Args:
        classifier: the model.
        tokenizer: its own.
        most: texts scored together; fewer where they are long.
        literals: special-token strings of the tokenizer that the prompts were written with.
    """
    encoder = Encoder(tokenizer, literals=literals)

    def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        texts = zip(prompts, responses, strict=True)
        groups = [EncodedGroup(encoder.prompt(p), [encoder.response(p, r)], 0) for p, r in texts]
        longest = max((len(group.prompt_ids) + len(group.response_ids[0]) for group in groups), default=0)
        batch = collate(groups, tokenizer.pad_token_id)
        return scored(classifier.rewards, batch, rows_at_once(most, longest))[:, 0].tolist()

    return score
