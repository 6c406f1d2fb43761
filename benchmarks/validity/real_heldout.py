"""Accuracy on real held-out preferences, by small real models, each figure computed twice.

    python -m benchmarks.validity.real_heldout [--data ../shared/data] [--models ../shared/models]
        [--output docs/benchmarks.md]

For each model a reward model and a DPO policy are trained (LoRA) on `human_mix_train`, less a tenth of its prompts, and
scored by the harness on `hh_heldout`, `llmbar_processed_human` and that tenth; then again by transformers and PEFT
alone, one text at a time, in float64. Exit status 1 where the two disagree. Figures stand between markers of the page,
which are replaced. Some fifteen minutes on one core.
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.validity.oracle_line import table, write
from preflab.eval.comparison.preferences import summarise_preferences
from preflab.eval.records.columns import needed
from preflab.eval.settings import EvalConfig
from preflab.eval.subjects import Ground, PolicySubject, RewardSubject, evaluate_subject
from preflab.method.configured import make_method
from preflab.settings.training import LoraSettings
from preflab.worlds import WorldConfig

if TYPE_CHECKING:
    from preflab.experiment.experiment import Experiment

Array = NDArray[np.float64]
Scores = dict[str, Array]  # by scorer [N, 2]: chosen, rejected

ROOT = Path(__file__).parents[2]
TRAIN = "human_mix_train"
SETS = {"HH": "hh_heldout", "LLMBar": "llmbar_processed_human", "mix": TRAIN}
# The models read 512 tokens. Responses are never cut: it is them that people compared. The mix is for training, and
# shorter, which takes a fifth of the time.
LONG: dict[str, Any] = {"max_prompt_tokens": 192, "max_response_tokens": 320, "long_prompts": "last-turns"}
SHORT: dict[str, Any] = {**LONG, "max_prompt_tokens": 96, "max_response_tokens": 128}
TRAINED = 1600  # pairs drawn from it, of which a tenth is held out
# Chosen beforehand and once, after the settings of the embedded world: no held-out row had a say.
TRAINING: dict[str, dict[str, Any]] = {
    "reward": {"learning_rate": 2e-3, "num_train_epochs": 1.0, "per_device_train_batch_size": 8},
    "dpo": {"learning_rate": 1e-3, "num_train_epochs": 1.0, "per_device_train_batch_size": 8, "beta": 0.1},
}
SCORERS = ("reward model", "DPO, implicit reward", "likelihood", "likelihood per token", "longer answer")
LENGTH = SCORERS[-1]
FEWEST = 20  # pairs of a subset that has a row of its own
LARGEST = 1e-3  # nats or reward, between float32 in padded batches and float64 one by one


class Result(NamedTuple):
    """One model on one set: subsets and scores of its rows, how many the file has, how many pairs it was trained on."""

    model: str
    title: str
    subsets: list[str]
    ours: Scores
    independent: Scores
    total: int
    trained: int


def open_experiment(model: Path, data: Path, heldout: str, folder: Path, limits: Mapping[str, Any]) -> Experiment:
    """Open training and held-out preferences; no prompt, nor any dialogue's opening, is in both."""
    from preflab.disk.stages import Run
    from preflab.experiment.experiment import Experiment

    files: dict[str, Any] = {"dataset": str(path_of(data, TRAIN)), "heldout_fraction": 0.1, "gold_fraction": 0.0}
    if heldout != TRAIN:
        files["heldout"] = str(path_of(data, heldout))
    config = WorldConfig(model=str(model), **files, **limits)
    return Experiment(Run(folder), config, LoraSettings(dtype="float32"), folder)


def path_of(data: Path, name: str) -> Path:
    return data / f"{name}.jsonl.gz"


def train(experiment: Experiment, steps: int) -> dict[str, Path]:
    """Train both methods from the bare model; return the adapters' folders."""
    roles = {"reward": "reward", "dpo": "policy"}
    methods = {name: make_method(name, {**TRAINING[name], "max_steps": steps}) for name in roles}
    return {name: experiment.train(name, methods[name]).folder / role for name, role in roles.items()}


def harness_scores(experiment: Experiment, adapters: Mapping[str, Path]) -> tuple[list[dict[str, Any]], Scores]:
    """Return the held-out rows, and what the harness says of them."""
    ground = Ground(experiment, EvalConfig(eval_pairs=100_000, eval_batch_size=16), generate=False)
    reward = evaluate_subject("reward", RewardSubject(str(adapters["reward"])), ground)
    dpo = evaluate_subject("dpo", PolicySubject(str(adapters["dpo"])), ground)

    def both(records: Any, name: str) -> Array:
        sides = (needed([records.preferences], f"{side}_{name}")[0] for side in ("chosen", "rejected"))
        return np.stack(list(sides), axis=1)

    lengths, ratios = both(dpo, "length"), both(dpo, "score")
    logps = both(dpo, "logp") - ratios  # log π_ref
    scores = (both(reward, "score"), ratios, logps, logps / lengths, lengths)
    return dpo.preferences, dict(zip(SCORERS, scores, strict=True))


def independent_scores(model: Path, adapters: Mapping[str, Path], texts: Sequence[tuple[str, str, str]]) -> Scores:
    """Return the same scores of prompt, chosen and rejected by nothing but transformers and PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    def load(kind: Any, adapter: str | None = None, **options: Any) -> Any:
        base = kind.from_pretrained(model, dtype=torch.float64, **options)
        return (PeftModel.from_pretrained(base, adapters[adapter]) if adapter else base).double().eval()

    tokenizer = AutoTokenizer.from_pretrained(model)
    base, dpo = load(AutoModelForCausalLM), load(AutoModelForCausalLM, "dpo")
    reward = load(AutoModelForSequenceClassification, "reward", num_labels=1)

    @torch.no_grad()
    def scores(prompt: str, response: str) -> list[float]:
        start = tokenizer(prompt).input_ids
        ids = [*tokenizer(prompt + response).input_ids, tokenizer.eos_token_id]
        if ids[: len(start)] != start:  # a token over the seam: the policy answers after the prompt's own tokens
            ids = [*start, *tokenizer(response, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        inputs, tail = torch.tensor([ids]), torch.tensor(ids[len(start) :])
        logp, trained = (
            m(inputs).logits[0, len(start) - 1 : -1].log_softmax(-1).gather(1, tail[:, None]).sum().item()
            for m in (base, dpo)
        )
        return [reward(inputs).logits.item(), trained - logp, logp, logp / len(tail), len(tail)]

    found = np.array([[scores(prompt, response) for response in responses] for prompt, *responses in texts])
    return {name: found[:, :, at] for at, name in enumerate(SCORERS)}


def as_in_file(path: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, str, str]], list[str], int]:
    """Look rows up in the file itself; return their texts and subsets as they stand there, and the file's length."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        found.setdefault((line["chosen"], line["rejected"]), []).append(line)
    texts, subsets = [], []
    for row in rows:
        chosen, rejected = row["chosen"], row["rejected"]
        [line] = [line for line in found[chosen, rejected] if line["prompt"].endswith(row["prompt"])][:1]
        texts.append((row["prompt"], chosen, rejected))
        subsets.append(line["subset"])
    return texts, subsets, len(lines)


def measure(
    experiment: Experiment, model: Path, data: Path, title: str, adapters: Mapping[str, Path], trained: int
) -> Result:
    """Score one set by one model's adapters, both ways."""
    from preflab.experiment.identity import model_fingerprint

    rows, ours = harness_scores(experiment, adapters)
    world = experiment.world
    path = path_of(data, SETS[title])
    texts, subsets, total = as_in_file(path, [world.heldout[row["row"]] for row in rows])
    if subsets != [row["subset"] for row in rows]:
        raise SystemExit(f"{path}: the harness names other subsets than the file")

    def work(folder: Path) -> dict[str, Any]:
        found = independent_scores(model, adapters, texts)
        np.save(folder / "scores.npy", np.stack([found[name] for name in SCORERS]), allow_pickle=False)
        return {}

    inputs = {
        **experiment.identity(),
        "adapters": {name: model_fingerprint(str(folder)) for name, folder in adapters.items()},
        "source": inspect.getsource(independent_scores),
    }
    stage = experiment.run.stage("independent", inputs, work)
    independent = dict(zip(SCORERS, np.load(stage.folder / "scores.npy", allow_pickle=False), strict=True))
    return Result(model.name, title, subsets, ours, independent, total, trained)


def summaries(result: Result) -> dict[str, dict[str, Any]]:
    """Return what the harness says of each scorer; see `eval.comparison.preferences.KEYS`."""
    found = {}
    for name, scores in result.ours.items():
        columns = zip(result.subsets, scores, result.ours[LENGTH], strict=True)
        rows = [
            {
                **{"row": at, "subset": subset, "chosen_score": pair[0], "rejected_score": pair[1]},
                **{"chosen_length": lengths[0], "rejected_length": lengths[1]},
            }
            for at, (subset, pair, lengths) in enumerate(columns)
        ]
        found[name] = summarise_preferences([rows], "implicit reward") or {}
    return found


def accuracies(result: Result) -> dict[str, dict[str, Any]]:
    """Return the harness's estimates by scorer, then by subset of some size (the whole set under its title)."""
    return {
        name: {
            result.title: summary["accuracy"],
            **{
                f"{result.title}: {part}": row["accuracy"]
                for part, row in sorted(summary["subsets"].items())
                if row["n"] >= FEWEST
            },
        }
        for name, summary in summaries(result).items()
    }


class Agreement(NamedTuple):
    """How one scorer's two computations compare: accuracies, rows decided differently, largest difference in score."""

    scorer: str
    ours: float
    independent: float
    flipped: int
    difference: float
    pairs: int

    @property
    def good(self) -> bool:
        """Whether no score differs by more than rounding, and at most one near tie fell to the other side."""
        return self.difference <= LARGEST and self.flipped <= 1


def agreements(result: Result) -> list[Agreement]:
    """Compare the two computations of every scorer."""
    found = []
    for name, first in result.ours.items():
        second = result.independent[name]
        sides = [np.sign(scores[:, 0] - scores[:, 1]) for scores in (first, second)]
        ours, independent = (float(np.mean(side + 1) / 2) for side in sides)
        flipped = int((sides[0] != sides[1]).sum())
        found.append(Agreement(name, ours, independent, flipped, float(np.abs(first - second).max()), len(first)))
    return found


def page(results: Sequence[Result]) -> str:
    """Return the tables of the page, and the sentences that their figures decide."""
    parts = []
    for model in dict.fromkeys(result.model for result in results):
        mine = [result for result in results if result.model == model]
        parts += [coverage(model, mine), "\n", accuracy_table(mine), "\n", correlations(mine), "\n"]
    return "".join([*parts, verdict(results), "\n", agreement_table(results)])


def coverage(model: str, results: Sequence[Result]) -> str:
    kept = [
        f"{len(r.subsets)} of the {r.total} pairs of {r.title}"
        if SETS[r.title] != TRAIN
        else f"{len(r.subsets)} held out of {r.title}"
        for r in results
    ]
    return f"`{model}`, trained on {results[0].trained} pairs; {', '.join(kept)}:\n"


def accuracy_table(results: Sequence[Result]) -> str:
    rows = []
    for found in map(accuracies, results):
        for part, first in found[SCORERS[0]].items():
            rows.append([part, str(first["n"]), *(cell(found[name][part]) for name in SCORERS)])
    return table(["pairs", "n", *SCORERS], rows)


def correlations(results: Sequence[Result]) -> str:
    """Say how far the trained models' margins follow the difference in length."""
    texts = []
    for result in results:
        found = summaries(result)
        for name in SCORERS[:2]:
            r = found[name]["length_correlation"]
            texts.append(
                f"{name} on {result.title} " + (f"{r['mean']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" if r else "–")
            )
    return f"Correlation of the margin with the difference in length: {'; '.join(texts)}.\n"


def cell(estimate: Mapping[str, Any]) -> str:
    text = f"{100 * estimate['mean']:.1f} % [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"
    return f"**{text}**" if decided(estimate) else text


def decided(estimate: Mapping[str, Any]) -> bool:
    """Whether an interval leaves out 50 %."""
    return not estimate["low"] <= 0.5 <= estimate["high"]


def verdict(results: Sequence[Result]) -> str:
    """Say which intervals leave out 50 %, by scorer, and how many would by chance."""
    found = {(r.model, name, part): e for r in results for name, p in accuracies(r).items() for part, e in p.items()}
    lines = []
    for name in SCORERS:
        mine = {(model, part): e for (model, scorer, part), e in found.items() if scorer == name}
        sides = {
            side: [f"{part} (`{model}`)" for (model, part), e in mine.items() if decided(e) and (e["mean"] > 0.5) == up]
            for side, up in (("above", True), ("below", False))
        }
        texts = [f"{side} on {', '.join(parts)}" for side, parts in sides.items() if parts]
        lines.append(f"- {name}, {len(mine)} intervals: {'; '.join(texts) or 'none'}\n")
    chance = round(0.05 * len(mine), 1)
    head = f"Intervals that leave out 50 % (bold); of {len(mine)}, about {chance:g} would where nothing is known:\n\n"
    return head + "".join(lines)


def agreement_table(results: Sequence[Result]) -> str:
    rows = []
    for name in SCORERS:
        mine = [one for result in results for one in agreements(result) if one.scorer == name]
        pairs, flipped = sum(one.pairs for one in mine), sum(one.flipped for one in mine)
        means = [sum(getattr(one, k) * one.pairs for one in mine) / pairs for k in ("ours", "independent")]
        shares = [f"{100 * mean:.2f} %" for mean in means]
        rows.append([name, str(pairs), *shares, str(flipped), f"{max(one.difference for one in mine):.1e}"])
    return table(
        ["scored by", "pairs", "harness", "independent", "decided differently", "largest difference of a score"], rows
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score twice, compare, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--models", type=Path, default=ROOT.parent / "shared" / "models")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks.md", help="the page")
    parser.add_argument("--runs", type=Path, help="folder in which a killed command goes on; default: a temporary one")
    parser.add_argument("--steps", type=int, default=-1, help="optimiser steps of each method; default: whole epochs")
    parser.add_argument("--pairs", type=int, help="at most so many pairs of each file")
    args = parser.parse_args(argv)
    quiet()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as temporary:
        runs = args.runs or Path(temporary)
        for model in sorted(path for path in args.models.iterdir() if path.is_dir()):
            folder = runs / model.name
            training = open_experiment(
                model, args.data, TRAIN, folder / "train", {**SHORT, "max_pairs": args.pairs or TRAINED}
            )
            adapters = train(training, args.steps)
            for title, name in SETS.items():
                limits = {**(SHORT if name == TRAIN else LONG), "max_pairs": args.pairs}
                experiment = open_experiment(model, args.data, name, folder / title, limits)
                results.append(measure(experiment, model, args.data, title, adapters, len(training.pairs)))
                show(results[-1])
            write(args.output, "real", page(results))
    print(f"written: {args.output}")
    if bad := [one for result in results for one in agreements(result) if not one.good]:
        sys.exit(f"the harness and the independent computation disagree: {bad}")


def quiet() -> None:
    """Keep the libraries' notes out of the figures; these models are no faster with a second thread."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def show(result: Result) -> None:
    """Print both accuracies of one set."""
    print(f"{result.model}, {result.title}: {len(result.subsets)} of {result.total} pairs", flush=True)
    for one in agreements(result):
        print(
            f"  {one.scorer:22} harness {one.ours:.4f}  independent {one.independent:.4f}  decided differently "
            f"{one.flipped}  largest difference {one.difference:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
