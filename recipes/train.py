"""Train one method and judge it against the policy it started from.

python recipes/train.py dpo                           the embedded reviews world
python recipes/train.py kto --model M --dataset D     your model, your preferences
python recipes/train.py my_loss.py:MyLoss --beta 0.2  a method of your own
python recipes/train.py dpo --help                    every field
python recipes/compare.py --algorithms list           the methods that there are
"""

from __future__ import annotations

import sys

from eval.pipeline.training import train_one
from preflab.errors import UserError
from preflab.errors.answering import run_recipe
from preflab.method import registry


def main() -> None:
    """Read the method, then its options."""
    name, *options = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        return print(__doc__)
    if not name or name.startswith("-"):
        raise UserError(f"name the method first: train.py METHOD [options]; known: {', '.join(registry.registered())}")
    train_one(__doc__ or "", name, options)


if __name__ == "__main__":
    run_recipe(main)
