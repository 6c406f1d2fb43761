"""Is PPO or DPO better for a small instruct model on human preferences, and does its reward model know anything?

    python -m studies.hh_smollm2 --model SMOLLM2 --data FOLDER [--output runs/hh_smollm2] [--only PART] [--write]

SMOLLM2 is SmolLM2-135M-Instruct as a folder; FOLDER holds hh_train, hh_heldout and llmbar_processed_human (JSON lines,
gzip). A reward model, DPO, PPO, RLOO and best-of-n start from the model as it is; their judge is a reward model trained
on other pairs. Both reward models are then held against two baselines, the longer answer and the likelier one.
Interrupted, the same command goes on. With --write the figures go into docs/studies/hh_smollm2.md; the report stays in
the run folder, as it quotes the data.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.pages import table, write
from preflab.errors import UserError
from preflab.errors.answering import run_recipe
from preflab.errors.terminal import say
from preflab.eval.pipeline import COMPARE, EVALUATE, Session, compare
from preflab.eval.pipeline.showing import show, write_pages
from preflab.eval.records.columns import needed, prompt_groups
from preflab.eval.records.records import Rows
from preflab.eval.statistics import Estimate, interval
from preflab.eval.subjects import START, Ground, RewardSubject, evaluate_subject, open_subjects
from preflab.settings.plain_yaml import read_yaml

Array = NDArray[np.float64]

HERE = Path(__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "studies" / "hh_smollm2.md"
SETS = {"HH": "hh_heldout", "LLMBar": "llmbar_processed_human"}
# Answers are never cut: it is them that people compared. What is longer is left out, and counted: a hundredth of HH, a
# fourteenth of LLMBar.
LIMITS: dict[str, Any] = {
    "max_prompt_tokens": 256,
    "long_prompts": "last-turns",
    "max_response_tokens": 512,
    "eval_pairs": 10_000,
    "dtype": "bfloat16",
}
BASELINES = ("longer answer", "likelihood", "likelihood per token")
FEWEST = 20  # pairs of a subset that has a row of its own


def file_of(data: Path, name: str) -> str:
    """Return the path of a data set.

    Raises:
        UserError: if it is not there.
    """
    path = data / f"{name}.jsonl.gz"
    if not path.is_file():
        raise UserError(f"{path} does not exist; --data is the folder of hh_train, hh_heldout and LLMBar's pairs")
    return str(path)


def session_of(args: argparse.Namespace) -> Session:
    """Return the comparison's session: the study's config, on the given files."""
    files = {"model": args.model, "dataset": file_of(args.data, "hh_train"), "heldout": file_of(args.data, SETS["HH"])}
    content = read_yaml(HERE / "study.yaml") | (read_yaml(args.config) if args.config else {})
    sections = {name: dict(value) for name, value in content.items() if isinstance(value, dict)}
    values = {name: value for name, value in content.items() if name not in sections}
    return Session({**values, **files, "output": str(args.output)}, sections, COMPARE)


def scores_of(args: argparse.Namespace, title: str) -> tuple[Rows, dict[str, Array]]:
    """Return a set's pairs, and what each scorer says of chosen and rejected, ``[N, 2]``."""
    run = open_subjects("run", str(args.output))
    models = {name: subject for name, subject in run.items() if isinstance(subject, RewardSubject)}
    # A folder of its own: another held-out file is another world.
    values = {"model": args.model, "heldout": file_of(args.data, SETS[title]), "output": f"{args.output}-{title}"}
    session = Session({**values, **LIMITS}, {}, EVALUATE)
    with session.opened(judged={"heldout": 2}, doing=[f"reward models on {title}"]) as experiment:
        ground = Ground(experiment, session.evaluation, generate=False)
        start = evaluate_subject("start", START, ground).preferences
        scored = {name: evaluate_subject(name, model, ground).preferences for name, model in models.items()}
    lengths, logps = both(start, "length"), both(start, "logp")
    scores = {name: both(pairs, "score") for name, pairs in scored.items()}
    return start, {**scores, **dict(zip(BASELINES, (lengths, logps, logps / lengths), strict=True))}


def both(rows: Rows, name: str) -> Array:
    """Return a column of chosen and rejected, ``[N, 2]``."""
    return np.stack([needed([rows], f"{side}_{name}")[0] for side in ("chosen", "rejected")], axis=1)


def right(scores: Array) -> Array:
    """Return 1 where the chosen response scores higher, 1/2 for ties, else 0; ``[N]``."""
    return (np.sign(scores[:, 0] - scores[:, 1]) + 1) / 2


def parts_of(title: str, rows: Rows) -> dict[str, Array]:
    """Return which pairs, bool ``[N]``, are in the whole set and in each of its subsets of some size."""
    subsets = np.array([str(row["subset"]) for row in rows])
    named = {f"{title}: {name}": subsets == name for name in sorted(set(subsets))}
    return {title: np.ones(len(rows), bool), **{name: mask for name, mask in named.items() if mask.sum() >= FEWEST}}


def accuracy_rows(title: str, rows: Rows, scores: Mapping[str, Array]) -> list[list[str]]:
    """Return a row for each part of a set: accuracies with intervals, and how far the reward model is above length."""
    found = []
    for part, mask in parts_of(title, rows).items():
        groups = prompt_groups([row for row, inside in zip(rows, mask, strict=True) if inside])
        cells = [cell(interval(right(values)[mask][None], groups=groups)) for values in scores.values()]
        reward, longer = (right(scores[name])[mask] for name in (next(iter(scores)), BASELINES[0]))
        ahead = interval((reward - longer)[None], groups=groups)
        found.append([part, str(int(mask.sum())), *cells, cell(ahead, "points")])
    return found


def cell(estimate: Estimate, unit: str = "%") -> str:
    """Return an estimate as text, bold where its interval leaves out chance (or no difference)."""
    chance = 0.5 if unit == "%" else 0.0
    sign = "" if unit == "%" else "+"
    text = f"{100 * estimate.mean:{sign}.1f} {unit} [{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"
    return text if estimate.low <= chance <= estimate.high else f"**{text}**"


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, hold the reward models against baselines, print both tables, and write them if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--output", type=Path, default=Path("runs/hh_smollm2"))
    parser.add_argument("--config", type=Path, help="YAML over study.yaml, for a smaller try")
    parser.add_argument("--only", choices=PARTS, help="one part; accuracy takes a finished comparison in --output")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE.name}")
    args = parser.parse_args(argv)
    for name, made in PARTS.items():
        if args.only in (None, name):
            found = made(args)
            if args.write:
                write(PAGE, name, found)
                say(f"written to {PAGE}: {name}")


def comparison(args: argparse.Namespace) -> str:
    """Compare the methods; return their table."""
    result = compare(session_of(args))
    show(result.comparison, args.output / "comparison.json")
    write_pages(result, args.output / "report")
    return (args.output / "report" / "table.md").read_text(encoding="utf-8")


def accuracy(args: argparse.Namespace) -> str:
    """Hold the reward models of a finished comparison against the baselines; return the table."""
    lines: list[list[str]] = []
    headings = ["pairs", "n"]
    for title in SETS:
        rows, scores = scores_of(args, title)
        headings = ["pairs", "n", *scores, "reward model over longer answer"]
        lines += accuracy_rows(title, rows, scores)
    found = table(headings, lines)
    for line in found.splitlines():
        say(line)
    return found


PARTS = {"comparison": comparison, "accuracy": accuracy}


if __name__ == "__main__":
    run_recipe(main)
