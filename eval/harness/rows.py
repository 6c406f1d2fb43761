"""Rows of an evaluation as token ids: the same rows for every tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from preflab.data.batches import collate
from preflab.data.encoding import EncodedGroup, Encoder
from preflab.errors import UserError
from preflab.eval.settings import EvalConfig
from preflab.experiment.experiment import Experiment
from preflab.method.contract import Batch

logger = logging.getLogger(__name__)

UNLIMITED = 1 << 30


class Tokens(NamedTuple):
    """The held-out pairs and the evaluation prompts as one tokenizer writes them; rows are the same for all.

    Attributes:
        tokenizer: which.
        pairs: chosen first.
        prompts: no responses.
        ends: the tokens that end a response of the model they are written for.
    """

    tokenizer: Any
    pairs: list[EncodedGroup]
    prompts: list[EncodedGroup]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, experiment: Experiment, config: EvalConfig) -> Tokens:
        """Return the rows of an experiment in its own tokens, as many as the settings ask for."""
        pairs, prompts = experiment.heldout[: config.eval_pairs], experiment.eval_prompts[: config.eval_prompts]
        return cls(experiment.tokenizer, pairs, prompts, experiment.ends)


def tokens_of(experiment: Experiment, config: EvalConfig, model: Any, tokenizer: Any) -> Tokens:
    """Return the rows of an evaluation as another model's tokenizer writes them; none is dropped.

    Where it writes all of them as the experiment's does, they are the experiment's own.

    Raises:
        UserError: if a row is longer than the model can read.
    """
    ours = Tokens.of(experiment, config)
    theirs = _rewritten(experiment, ours, tokenizer)
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or UNLIMITED
    longest = max(len(g.prompt_ids) + max(map(len, g.response_ids)) for g in theirs.pairs)
    longest = max(longest, *(len(g.prompt_ids) + experiment.max_response_tokens for g in theirs.prompts))
    if longest > room:
        raise UserError(
            f"model {model.config._name_or_path} reads {room} tokens, and a held-out row or prompt with its response "
            f"takes {longest} in its tokenizer; lower --max-prompt-tokens or --max-response-tokens"
        )
    same = tokenizer.get_vocab() == ours.tokenizer.get_vocab() and tokenizer.eos_token_id == ours.tokenizer.eos_token_id
    # The same tokens may end a response in more ways than one: a model stops where it says so itself.
    return ours._replace(ends=theirs.ends) if same and theirs[1:3] == ours[1:3] else theirs


def _rewritten(experiment: Experiment, ours: Tokens, tokenizer: Any) -> Tokens:
    world = experiment.world
    encoder = Encoder(
        tokenizer,
        UNLIMITED,
        experiment.max_response_tokens if world.cut else UNLIMITED,
        world.chat,
        world.cut,
        experiment.encoder.literals,
    )

    def numbered(encoded: list[EncodedGroup], originals: list[EncodedGroup]) -> list[EncodedGroup]:
        return [new._replace(row=old.row, feedback=old.feedback) for new, old in zip(encoded, originals, strict=True)]

    # What is a pair to us is judged as one, equal to the other model or not.
    pairs, _ = encoder.encode_pairs([world.heldout[group.row] for group in ours.pairs], equals=True)
    prompts, _ = encoder.encode_prompts([world.eval_prompts[group.row] for group in ours.prompts])
    encoder.report("rows to evaluate")
    return Tokens(tokenizer, numbered(pairs, ours.pairs), numbered(prompts, ours.prompts), encoder.ends.ids)


def world_batch(experiment: Experiment, prompts: Sequence[str], responses: Sequence[str]) -> tuple[Batch, list[int]]:
    """Return texts as an experiment's own tokens, for the models that judge them, and the responses' lengths.

    What is longer than a response may be is cut, saying so: the models may have no room for more.
    """
    limit, encoder = experiment.max_response_tokens, experiment.encoder
    if experiment.world.chat:  # an answer is the content of a message
        responses = [encoder.literals.guard(response) for response in responses]
    ids = [encoder.response(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    lengths = [len(response) for response in ids]
    encoder.report("answers to judge")
    if long := sum(length > limit for length in lengths):
        logger.warning("%d of %d responses are cut to %d tokens for the models that judge them", long, len(ids), limit)
    groups = [
        EncodedGroup(encoder.prompt(p), [r[:limit]], at) for at, (p, r) in enumerate(zip(prompts, ids, strict=True))
    ]
    return collate(groups, experiment.tokenizer.pad_token_id), lengths
