"""Say what a run would take, before anything is loaded: stages, memory, time, disk.

    preflab plan --model M --dataset D               a comparison
    preflab plan train dpo --model M --dataset D     one method

The options are those of compare, or of train.
"""

from __future__ import annotations

import sys

from preflab.errors.answering import run_recipe
from preflab.recipes import compare, train


def main() -> None:
    """Plan a comparison, or after the word train the training of one method."""
    words = sys.argv[1:]
    if words[:1] == ["train"]:
        sys.argv = [f"{sys.argv[0]} train", *words[1:], "--plan"]
        return train.main(__doc__ or "")
    sys.argv[1:] = [*words[words[:1] == ["compare"] :], "--plan"]
    return compare.main(__doc__ or "")


if __name__ == "__main__":
    run_recipe(main)
