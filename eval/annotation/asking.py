"""`preflab annotate`: people are asked, and what they said is summed up or becomes preference data."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from preflab.errors import UserError
from preflab.errors.terminal import say
from preflab.eval.annotation.agreement import agreement_sentences
from preflab.eval.annotation.log import VerdictLog
from preflab.eval.annotation.pairs import pairs_to_judge
from preflab.eval.annotation.settings import TERMINAL_ANNOTATOR, AnnotateConfig
from preflab.eval.annotation.sitting import Sitting
from preflab.eval.annotation.terminal import ask_in_terminal
from preflab.eval.judges.verdicts import preference_data, read_verdicts


def judge_pairs(config: AnnotateConfig) -> None:
    """Show each pair that an annotator has not judged, in the terminal or on a page, and write each verdict.

    Raises:
        UserError: for files that cannot be read or do not match, and where there is nobody or nothing to ask.
    """
    if config.web:
        from preflab.eval.annotation.web import serve  # which needs libraries that not everybody has

    pairs = pairs_to_judge(config)
    with closing(VerdictLog(Path(config.output).expanduser())) as log:
        if config.web:
            serve(pairs, log, config)
        else:
            sitting = Sitting(pairs, log, config.annotator or TERMINAL_ANNOTATOR, config.seed)
            ask_in_terminal(sitting, config.output)


def say_agreement(config: AnnotateConfig) -> None:
    """Print how far the annotators agree.

    Raises:
        UserError: if the file of verdicts cannot be read.
    """
    for sentence in agreement_sentences(read_verdicts(Path(config.output).expanduser())):
        say(sentence)


def export(config: AnnotateConfig) -> None:
    """Write the verdicts as preference data.

    Raises:
        UserError: if the file cannot be written.
    """
    from preflab.disk.files import write_jsonl

    rows, ties = preference_data(read_verdicts(Path(config.output).expanduser()))
    try:
        write_jsonl(Path(str(config.export)).expanduser(), rows)
    except UserError as error:
        raise UserError(f"--export {config.export} cannot be written: {error}") from None
    say(f"{len(rows)} preferences written to {config.export}; {ties} ties left out")
