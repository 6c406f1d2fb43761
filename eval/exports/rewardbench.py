"""RewardBench (``rewardbench``): pairs as its loader takes them, and scores as it saves them. No torch here.

Its loader wants whole dialogues, ``chosen`` and ``rejected``, whose last message is the answer; it gives the others the
roles of user and assistant in turn, whatever they were, and joins all by the tokenizer's chat template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from preflab.data.findings import BadRows
from preflab.data.messages import ASSISTANT, USER, Message
from preflab.data.reading import RowError
from preflab.errors import UserError
from preflab.eval.exports.pairs import Pair, in_turns, usable
from preflab.eval.exports.tables import NO_SUBSET, Row, pair_numbers
from preflab.eval.records.columns import needed

if TYPE_CHECKING:
    from preflab.eval.exports.as_read import ReadPair

AS_IT_STANDS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""The chat template for texts that have everything in them."""


def rewardbench_pairs(pairs: Sequence[Pair], source: str = "the data") -> list[dict[str, Any]]:
    """Return pairs for any model, to be written by its chat template: ``id, prompt, chosen, rejected, subset``.

    What is no dialogue of user and assistant in turn, a system prompt included, is left out, counted and said.

    Raises:
        UserError: if that is everything.
    """
    found, bad = [], BadRows()
    for pair in pairs:
        try:
            prompt, chosen, rejected = in_turns(pair)
        except RowError as error:
            bad.add(pair.number, error)
        else:
            found.append(_row(pair.number, prompt, chosen, rejected, pair.subset))
    return usable(found, bad, source)


def rewardbench_texts(pairs: Sequence[ReadPair], preferences: Sequence[Row] | None = None) -> list[dict[str, Any]]:
    """Return pairs as one model reads them, to be joined as they stand (`AS_IT_STANDS`); rows as `rewardbench_pairs`.

    Args:
        pairs: as the model reads them.
        preferences: an evaluation's table; only the pairs it scored are returned then, in its order.

    Raises:
        UserError: if the table scored a pair that is not there.
    """
    wanted = list(pairs)
    if preferences is not None:
        there, numbers = {pair.row: pair for pair in pairs}, pair_numbers(preferences)
        missing = sorted({*numbers} - {*there})
        if missing:
            raise UserError(f"the evaluation scored pair {missing[0]}, which is none of these {len(there)} pairs")
        wanted = [there[number] for number in numbers]
    return [_row(pair.row, [{"role": USER, "content": pair.prompt}], *pair.responses, pair.subset) for pair in wanted]


def rewardbench_scores(preferences: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the scores of each pair as RewardBench saves them, ``chosen`` and ``rejected``; ``id, subset`` besides.

    Args:
        preferences: rows with ``row``, ``subset``, ``chosen_score`` and ``rejected_score``.

    Raises:
        UserError: if a score is missing or not finite.
    """
    chosen, rejected = (needed([preferences], name)[0].tolist() for name in ("chosen_score", "rejected_score"))
    subsets = [row.get("subset") or NO_SUBSET for row in preferences]
    return [
        {"id": number, "subset": subset, "chosen": first, "rejected": second}
        for number, subset, first, second in zip(pair_numbers(preferences), subsets, chosen, rejected, strict=True)
    ]


def reads_with(tokenizer: Any) -> Callable[[ReadPair], bool]:
    """Return whether RewardBench, with a tokenizer, reads a model's own tokens of a pair.

    Its pipeline tokenises the whole text, special tokens added, and hides the first of two start tokens.
    """

    def reads(pair: ReadPair) -> bool:
        found: list[list[int]] = tokenizer(pair.texts)["input_ids"]
        start = tokenizer.bos_token_id
        once = [ids[1:] if start is not None and ids[:2] == [start, start] else ids for ids in found]
        return once == pair.ids

    return reads


def _row(number: int, prompt: list[Message], chosen: str, rejected: str, subset: str | None) -> dict[str, Any]:
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
    answers = {"chosen": chosen, "rejected": rejected}
    return {
        "id": number,
        "prompt": turns[-1]["content"],
        **{name: [*turns, {"role": ASSISTANT, "content": answer}] for name, answer in answers.items()},
        "subset": subset or NO_SUBSET,
    }
