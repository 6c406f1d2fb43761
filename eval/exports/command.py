"""The command `preflab export`: what other programs read, written to files.

    preflab export runs/a/stages/eval-dpo-seed0-… --alpaca model_outputs.json --generator dpo
    preflab export runs/a/stages/eval-dpo-seed0-… --annotations annotations.json --against runs/a/stages/eval-baseline-…
    preflab export runs/a/stages/eval-reward-…    --scores scores.jsonl
    preflab export pairs.jsonl                    --trl pairs-trl.jsonl
    preflab export pairs.jsonl                    --rewardbench rewardbench.jsonl
    preflab export pairs.jsonl                    --rewardbench rewardbench.jsonl --model runs/a/stages/reward-…/reward
    preflab export pairs.jsonl                    --lm-eval tasks --model BASE
    preflab export runs/a/stages/reward-…/reward  --classifier merged

The first argument is an evaluation's folder, one of its tables, a file of pairs of any layout, or a reward model.
docs/interoperability.md says what the others do with it. Torch is imported for --classifier alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from preflab.data.reading import iter_rows
from preflab.disk.files import write_json, write_jsonl, write_text
from preflab.errors import UserError
from preflab.errors.terminal import say
from preflab.eval.exports.alpaca_eval import alpaca_annotations, alpaca_outputs
from preflab.eval.exports.pairs import pairs_of
from preflab.eval.exports.rewardbench import AS_IT_STANDS, rewardbench_pairs, rewardbench_scores, rewardbench_texts
from preflab.eval.exports.tables import read_table
from preflab.eval.exports.trl import trl_pairs
from preflab.eval.records.records import PREFERENCES, SAMPLES
from preflab.settings.command_line import Parser

if TYPE_CHECKING:
    from preflab.data.encoding import Encoder
    from preflab.eval.exports.as_read import Opened, ReadPair

FORMATS = ("alpaca", "annotations", "scores", "trl", "rewardbench", "lm_eval", "classifier")
NEEDS = {"against": "annotations", "model": "rewardbench or lm_eval"}


def main() -> None:
    """Write what is asked for; every file appears whole or not at all."""
    asked = _parser().parse_args()
    wanted = [name for name in FORMATS if getattr(asked, name)]
    if not wanted:
        raise UserError(f"nothing to write; give one of {', '.join(map(_option, FORMATS))}, with OUT")
    for name, uses in NEEDS.items():
        if getattr(asked, name) and not {*uses.split(" or ")} & {*wanted}:
            raise UserError(f"{_option(name)} goes with {' or '.join(map(_option, uses.split(' or ')))} alone")
    for name in wanted:
        WRITERS[name](asked)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parser() -> Parser:
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = Parser(
        "preflab export", description=about, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="an evaluation's folder or table, a file of pairs, or a reward model's folder")
    outputs = {
        "--alpaca": "responses as AlpacaEval's model_outputs.json",
        "--annotations": "who answered better, as AlpacaEval's annotations.json; takes --against",
        "--scores": "each pair's scores as RewardBench saves them",
        "--trl": "pairs as TRL's trainers take them",
        "--rewardbench": "pairs as RewardBench's loader takes them; with --model, as that reward model reads them",
        "--lm-eval": "pairs as a task of lm-evaluation-harness, a folder; takes --model",
        "--classifier": "a reward model as one classifier with its tokenizer, a folder",
    }
    for option, what in outputs.items():
        parser.add_argument(option, metavar="OUT", type=Path, help=what)
    parser.add_argument(
        "--against", metavar="FOLDER", help="the evaluation of the model that --annotations are against"
    )
    parser.add_argument(
        "--model", help="whose reading the pairs are written in: a base, an adapter's folder, a classifier"
    )
    parser.add_argument("--generator", default="preflab", help="AlpacaEval's name of the model (default: preflab)")
    parser.add_argument("--against-name", default="baseline", help="its name of the other one (default: baseline)")
    parser.add_argument("--dataset", default="preflab", help="its name of the prompts (default: preflab)")
    return parser


def _write(write: Callable[[Path, Any], None], path: Path, content: list[dict[str, Any]]) -> None:
    write(path, content)
    say(f"{len(content)} rows written to {path}")


def _alpaca(asked: argparse.Namespace) -> None:
    rows = alpaca_outputs(read_table(asked.source, SAMPLES), asked.generator, asked.dataset)
    _write(write_json, asked.alpaca, rows)


def _annotations(asked: argparse.Namespace) -> None:
    if not asked.against:
        raise UserError("--annotations needs --against FOLDER, the evaluation of the model that it is against")
    samples, reference = (read_table(source, SAMPLES) for source in (asked.source, asked.against))
    rows = alpaca_annotations(samples, reference, asked.generator, asked.against_name)
    _write(write_json, asked.annotations, rows)


def _scores(asked: argparse.Namespace) -> None:
    _write(write_jsonl, asked.scores, rewardbench_scores(read_table(asked.source, PREFERENCES)))


def _trl(asked: argparse.Namespace) -> None:
    _write(write_jsonl, asked.trl, trl_pairs(pairs_of(iter_rows(asked.source), asked.source)))


def _rewardbench(asked: argparse.Namespace) -> None:
    if not asked.model:
        rows = rewardbench_pairs(pairs_of(iter_rows(asked.source), asked.source), asked.source)
        _write(write_jsonl, asked.rewardbench, rows)
        return
    from preflab.eval.exports.as_read import same_tokens
    from preflab.eval.exports.folders import padded, whole_folder
    from preflab.eval.exports.rewardbench import reads_with
    from preflab.tokens.portable import portable, write_tokenizer

    opened, pairs, encoder = _read(asked)
    # A chat template has written all special tokens; to other texts the tokenizer adds its own.
    tokenizer = portable(padded(opened, opened.pad_id), adds=not encoder.chat)
    same = same_tokens(pairs, reads_with(tokenizer), "RewardBench", asked.source)
    beside = asked.rewardbench.with_suffix(".tokenizer")
    with whole_folder(beside) as place:
        write_tokenizer(place, tokenizer, AS_IT_STANDS)
        _write(write_jsonl, asked.rewardbench, rewardbench_texts(same))
    say(
        f"rewardbench --model CLASSIFIER --tokenizer {beside} --dataset {asked.rewardbench} --load_json "
        "--not_quantized --torch_dtype float32"
    )


def _lm_eval(asked: argparse.Namespace) -> None:
    if not asked.model:
        raise UserError("--lm-eval needs --model, the base whose template and tokens the task is written in")
    from preflab.eval.exports.as_read import same_tokens
    from preflab.eval.exports.lm_eval import lm_eval_rows, lm_eval_task, reads_with, task_name

    opened, pairs, encoder = _read(asked)
    same = same_tokens(pairs, reads_with(encoder), "lm-evaluation-harness", asked.source)
    name = task_name(asked.lm_eval)
    rows = asked.lm_eval / f"{name}.jsonl"
    asked.lm_eval.mkdir(parents=True, exist_ok=True)
    _write(write_jsonl, rows, lm_eval_rows(same))
    write_text(asked.lm_eval / f"{name}.yaml", yaml.safe_dump(lm_eval_task(name, rows), sort_keys=False))
    adapter = f",peft={opened.adapter}" if opened.adapter else ",peft=ADAPTER"
    tokens = ",add_bos_token=False" if encoder.chat else ""
    say(
        f"lm_eval --model hf --model_args pretrained={opened.base}{adapter},dtype=float32{tokens} --tasks {name} "
        f"--include_path {asked.lm_eval}"
    )


def _classifier(asked: argparse.Namespace) -> None:
    from preflab.eval.exports.as_read import Opened
    from preflab.eval.exports.folders import write_classifier

    write_classifier(Opened.of(asked.source), asked.classifier)
    say(f"classifier and tokenizer written to {asked.classifier}")


def _read(asked: argparse.Namespace) -> tuple[Opened, list[ReadPair], Encoder]:
    """Return what ``--model`` names, and the pairs as it reads them."""
    from preflab.eval.exports.as_read import Opened, open_pairs

    opened = Opened.of(asked.model)
    pairs, encoder = open_pairs(asked.source, opened)
    return opened, pairs, encoder


WRITERS: dict[str, Callable[[argparse.Namespace], None]] = {
    "alpaca": _alpaca,
    "annotations": _annotations,
    "scores": _scores,
    "trl": _trl,
    "rewardbench": _rewardbench,
    "lm_eval": _lm_eval,
    "classifier": _classifier,
}
