"""Make a trained model ready to go elsewhere: folded into its base, or an adapter still, with figures on its card.

    preflab merge runs/mine --output merged                      the run's model, as one that needs no PEFT
    preflab merge runs/mine/stages/dpo-seed0-… --output merged   one of several
    preflab merge runs/mine --output adapter --fold false        the adapter, with tokenizer and card
    preflab merge runs/mine --output merged --push-to-hub me/mine

The folded model is held to the base with its adapter on a few prompts before it is kept. A run's figures, where it has
been evaluated, go on the card. Nothing is sent anywhere without --push-to-hub; what is pushed is private.
"""

from __future__ import annotations

import sys

from preflab.errors import UserError
from preflab.errors.answering import run_recipe
from preflab.eval.pipeline.merging import MergeConfig, merge_model
from preflab.model.pushing import PushConfig
from preflab.settings.command_line import CommandLine
from preflab.settings.fields import merge


def main() -> None:
    """Read which model, and what becomes of it."""
    source, *options = sys.argv[1:] or [""]
    line = CommandLine(__doc__ or "", {"merge": MergeConfig, "hub": PushConfig})
    if source in ("-h", "--help"):
        line.read(["--help"])
    if not source or source.startswith("-"):
        raise UserError("name the model first: preflab merge RUN-OR-STAGE --output FOLDER; see preflab merge --help")
    configs = merge(line.classes, line.read(options)[0], "config")
    merge_model(source, configs["merge"], configs["hub"])


if __name__ == "__main__":
    run_recipe(main)
