"""AlpacaEval (``alpaca_eval``): responses, and who answered better. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from preflab.data.asked import conversation
from preflab.errors import UserError
from preflab.eval.exports.tables import Row, text_of
from preflab.eval.records.columns import needed

ANNOTATOR = "preflab"


def alpaca_outputs(samples: Sequence[Row], generator: str, dataset: str) -> list[dict[str, str]]:
    """Return responses as AlpacaEval's ``model_outputs.json`` has them.

    Args:
        samples: rows with ``prompt`` and ``response``, and maybe the prompt's ``messages``: what was said is the
            instruction then, without a template's tokens.
        generator: what the leaderboard calls the model.
        dataset: what the prompts are called.

    Raises:
        UserError: if a row lacks one of the two texts, or a prompt has two responses.
    """
    rows = [
        (conversation(text_of(row, "prompt", number), row.get("messages")), text_of(row, "response", number))
        for number, row in enumerate(samples, 1)
    ]
    first: dict[str, int] = {}
    for number, (prompt, _) in enumerate(rows, 1):
        if first.setdefault(prompt, number) != number:
            raise UserError(
                f"rows {first[prompt]} and {number} answer the same prompt, {prompt[:60]!r}; AlpacaEval takes one each"
            )
    return [
        {"instruction": prompt, "output": response, "generator": generator, "dataset": dataset}
        for prompt, response in rows
    ]


def alpaca_annotations(
    samples: Sequence[Row], reference: Sequence[Row], generator: str, reference_generator: str
) -> list[dict[str, Any]]:
    """Return the games of a model against a reference as AlpacaEval's ``annotations.json`` has them.

    The judge's scores (``gold``) decide: ``preference`` is 2 where the model's response has the higher one, 1 where
    the reference's has, 1.5 on a tie.

    Args:
        samples: rows of the model, with ``prompt``, ``response`` and ``gold``.
        reference: rows of the reference, with the same prompts.
        generator: what the model is called.
        reference_generator: what the reference is called.

    Raises:
        UserError: as `alpaca_outputs`; if the two answered other prompts, or a response has no score; or if both
            have one name, by which AlpacaEval takes the model for its own reference.
    """
    if generator == reference_generator:
        raise UserError(f"model and reference are both called {generator!r}; name them --generator and --against-name")
    mine, theirs = (alpaca_outputs(rows, "", "") for rows in (samples, reference))
    at = {row["instruction"]: number for number, row in enumerate(theirs)}
    unanswered = [row["instruction"] for row in mine if row["instruction"] not in at]
    if unanswered or len(mine) != len(theirs):
        example = f", such as {unanswered[0][:60]!r}" if unanswered else ""
        raise UserError(
            f"model and reference answered other prompts ({len(mine)} and {len(theirs)}, {len(unanswered)} of the "
            f"model's not the reference's{example}); evaluate both in one command"
        )
    from preflab.eval.metrics import win_rate  # which imports much

    order = [at[row["instruction"]] for row in mine]
    games = win_rate.per_prompt(*(needed([rows], "gold")[0] for rows in (samples, [reference[i] for i in order])))
    return [
        {
            "instruction": row["instruction"],
            "output_1": theirs[i]["output"],
            "generator_1": reference_generator,
            "output_2": row["output"],
            "generator_2": generator,
            "annotator": ANNOTATOR,
            "preference": 1.0 + float(game),
        }
        for row, i, game in zip(mine, order, games, strict=True)
    ]
