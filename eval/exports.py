"""Evaluation records and held-out pairs in the formats of AlpacaEval and RewardBench.

    preflab export runs/a/stages/eval-dpo-seed0-… --alpaca model_outputs.json --generator dpo
    preflab export runs/a/stages/eval-reward-…    --scores scores.jsonl
    preflab export pairs.jsonl                    --rewardbench rewardbench.jsonl

The first argument is an evaluation's folder, one of its tables, or a file of pairs. No torch here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from preflab.data.asked import conversation
from preflab.data.reading import UNREADABLE, read_rows
from preflab.disk.files import write_json, write_jsonl
from preflab.errors import UserError
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import say
from preflab.eval.records.columns import needed
from preflab.eval.records.records import PREFERENCES, SAMPLES
from preflab.settings.command_line import Parser

Row = Mapping[str, Any]

NO_SUBSET = "all"


# ---- formats -----------------------------------------------------------------------------------------


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
        (conversation(_text(row, "prompt", number), row.get("messages")), _text(row, "response", number))
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


def rewardbench_pairs(pairs: Sequence[Row], preferences: Sequence[Row] | None = None) -> list[dict[str, Any]]:
    """Return pairs as RewardBench reads them: ``id, prompt, chosen, rejected, subset``.

    Args:
        pairs: rows with ``prompt``, ``chosen`` and ``rejected``, texts or messages, and maybe ``subset``.
        preferences: an evaluation's table; only the pairs it scored are returned then, in its order.

    Raises:
        UserError: if a row lacks one of the three, or the table scored a pair that is not there.
    """
    numbers = list(range(len(pairs))) if preferences is None else _pairs(preferences)
    if any(not 0 <= number < len(pairs) for number in numbers):
        raise UserError(f"the evaluation scored pair {max(numbers)} of {len(pairs)}; these are not its pairs")
    return [
        {
            "id": number,
            **{name: _text(pairs[number], name, number + 1, list) for name in ("prompt", "chosen", "rejected")},
            "subset": pairs[number].get("subset") or NO_SUBSET,
        }
        for number in numbers
    ]


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
        for number, subset, first, second in zip(_pairs(preferences), subsets, chosen, rejected, strict=True)
    ]


def _text(row: Row, name: str, number: int, *others: type) -> Any:
    value = row.get(name)
    if isinstance(value, (str, *others)):
        return value
    found = "is missing" if value is None else f"is of type {type(value).__name__}"
    raise UserError(f"row {number}: {name!r} {found}; the row has {', '.join(sorted(row)) or 'nothing'}")


def _pairs(preferences: Sequence[Row]) -> list[int]:
    """Return the number of the pair that each row is of."""
    numbers = [row.get("row") for row in preferences]
    for at, number in enumerate(numbers, 1):
        if not isinstance(number, (int, float)) or isinstance(number, bool) or number % 1 != 0:
            raise UserError(f"row {at}: 'row' is {number!r}; it must be the number of a pair")
    return [int(number) for number in numbers if number is not None]


# ---- command line ------------------------------------------------------------------------------------


def read_table(source: str, table: str) -> list[dict[str, Any]]:
    """Read a table of an evaluation's folder, or any file of rows.

    Raises:
        UserError: if it is not there, or a line of it is no JSON object.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / table
    if not path.is_file():
        raise UserError(f"{path} does not exist; give an evaluation's folder, or a file of rows")
    rows = read_rows(str(path))
    for number, row in rows:
        if UNREADABLE in row:
            raise UserError(f"{path}, row {number} is no JSON object")
    if not rows:
        raise UserError(f"{path} has no rows")
    return [row for _, row in rows]


def _write(write: Callable[[Path, Any], None], path: Path, content: list[dict[str, Any]]) -> None:
    write(path, content)
    say(f"{len(content)} rows written to {path}")


def main() -> None:
    """Write what is asked for, atomically."""
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = Parser(
        "preflab export",
        description=about,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="an evaluation's folder, one of its tables, or (--rewardbench) a file of pairs")
    parser.add_argument("--alpaca", metavar="OUT", type=Path, help="write responses as AlpacaEval's model_outputs.json")
    parser.add_argument("--scores", metavar="OUT", type=Path, help="write each pair's scores as RewardBench does")
    parser.add_argument("--rewardbench", metavar="OUT", type=Path, help="write pairs as RewardBench reads them")
    parser.add_argument("--generator", default="preflab", help="AlpacaEval's name of the model (default: preflab)")
    parser.add_argument("--dataset", default="preflab", help="AlpacaEval's name of the prompts (default: preflab)")
    asked = parser.parse_args()
    if not (asked.alpaca or asked.scores or asked.rewardbench):
        raise UserError("nothing to write; give --alpaca OUT, --scores OUT or --rewardbench OUT")
    if asked.alpaca:
        rows = alpaca_outputs(read_table(asked.source, SAMPLES), asked.generator, asked.dataset)
        _write(write_json, asked.alpaca, rows)
    if asked.scores:
        _write(write_jsonl, asked.scores, rewardbench_scores(read_table(asked.source, PREFERENCES)))
    if asked.rewardbench:
        _write(write_jsonl, asked.rewardbench, rewardbench_pairs(read_table(asked.source, PREFERENCES)))


if __name__ == "__main__":
    run_recipe(main)
