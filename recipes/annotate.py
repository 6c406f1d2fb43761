"""Judge pairs of responses by hand, blind: the verdicts are a judge for comparisons and a preference data set.

    preflab annotate --samples first=A/samples.jsonl second=B/samples.jsonl --output verdicts.jsonl
    preflab annotate --samples first=A/samples.jsonl second=B/samples.jsonl --output verdicts.jsonl --web
    preflab annotate --pairs preferences.jsonl --output verdicts.jsonl --annotator Ada
    preflab annotate --output verdicts.jsonl --agreement
    preflab annotate --output verdicts.jsonl --export preferences.jsonl

Pairs come in random order, responses in random places. Each verdict is on disk before the next pair is shown; the
same command goes on where it was left. Keys, in the terminal each followed by Enter: 1, 2, t (tie), s (skip for now),
u (undo), q (quit).
"""

from __future__ import annotations

from preflab.errors.answering import run_recipe
from preflab.eval.annotation.asking import export, judge_pairs, say_agreement
from preflab.eval.annotation.settings import AnnotateConfig
from preflab.settings.command_line import CommandLine
from preflab.settings.fields import merge

CONFIGS: dict[str, type] = {"annotation": AnnotateConfig}


def main() -> None:
    """Show each pair, write each verdict, sum up, export."""
    line = CommandLine(__doc__ or "", CONFIGS)
    config: AnnotateConfig = merge(line.classes, line.read()[0], "config")["annotation"]
    if config.samples or config.pairs:
        judge_pairs(config)
    if config.agreement or config.web:
        say_agreement(config)
    if config.export:
        export(config)


if __name__ == "__main__":
    run_recipe(main)
