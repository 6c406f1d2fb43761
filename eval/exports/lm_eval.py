"""lm-evaluation-harness (``lm_eval``): held-out pairs as a multiple-choice task, answered by log-likelihood."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.eval.exports.tables import NO_SUBSET

if TYPE_CHECKING:
    from preflab.data.encoding import Encoder
    from preflab.eval.exports.as_read import ReadPair

ACCURACY = ("acc", "acc_norm")


def lm_eval_rows(pairs: Sequence[ReadPair]) -> list[dict[str, Any]]:
    """Return pairs as documents of the task: ``prompt``, two ``choices`` and the ``label`` of the chosen one.

    The chosen response comes first in every other pair: of two equal likelihoods the harness takes the first, and by
    that a tie counts as half on the whole, as it does in preflab.
    """
    rows = []
    for at, pair in enumerate(pairs):
        label = at % 2
        choices = list(pair.responses) if label == 0 else list(pair.responses[::-1])
        rows.append(
            {
                "row": pair.row,
                "prompt": pair.prompt,
                "choices": choices,
                "label": label,
                "subset": pair.subset or NO_SUBSET,
            }
        )
    return rows


def lm_eval_task(name: str, rows: Path) -> dict[str, Any]:
    """Return the task as its YAML file has it.

    Args:
        name: of the task.
        rows: the file of documents; the task names it by its whole path.
    """
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows.resolve())}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        # Prompt and response are joined as they stand.
        "target_delimiter": "",
        "metric_list": [{"metric": kind, "aggregation": "mean", "higher_is_better": True} for kind in ACCURACY],
        "metadata": {"version": 1.0},
    }


def task_name(folder: Path) -> str:
    """Return a task's name for a folder: its own, in letters, digits and underscores."""
    return re.sub(r"\W+", "_", folder.resolve().name, flags=re.ASCII).strip("_") or "pairs"


def reads_with(encoder: Encoder) -> Callable[[ReadPair], bool]:
    """Return whether the harness reads a model's own tokens of a pair.

    It tokenises the whole text, and the prompt without the blanks at its end, which it counts with the response; it
    adds the special tokens that the tokenizer does, but none where a chat template wrote the text (the command says
    so), nor to a text that begins with the start token.
    """
    tokenizer = encoder.tokenizer
    start = str(tokenizer.decode([tokenizer.bos_token_id or tokenizer.eos_token_id]))

    def read(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=not encoder.chat and not text.startswith(start)))

    def reads(pair: ReadPair) -> bool:
        context = pair.prompt.rstrip()
        if not context:
            return False
        before = read(context)
        return [read(text) for text in pair.texts] == pair.ids and pair.prompt_ids[: len(before)] == before

    return reads
