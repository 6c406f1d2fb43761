"""A finished run's folder, made up: what a comparison writes down of its methods and their answers, and no weights."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean
from typing import Any

from report_fixture import comparison, told

PROMPTS = 40
LEVELS = {"sft": 0.0, "dpo": 1.0}


def answers(
    name: str, seed: int, *, better: float = 0.0, prompts: int = PROMPTS, about: str = "p"
) -> list[dict[str, Any]]:
    draw = random.Random(f"{name}{seed}")
    golds = [LEVELS[name] + better + draw.gauss(0, 0.3) for _ in range(prompts)]
    return [
        {"prompt": f"{about}{i}", "response": f"{name} {seed}", "length": 5 + i % 3 + seed, "ended": True, "kl": 1.0,
         "log_ratio": 1.0, "entropy": 1.0, "gold": gold, "proxy": gold}
        for i, gold in enumerate(golds)
    ]  # fmt: skip


def write_stage(
    folder: Path, name: str, key: str, seed: int, rows: list[dict[str, Any]], judge: str | None = "r*"
) -> Path:
    stage = folder / "stages" / f"eval-{name}-{key}"
    stage.mkdir(parents=True)
    (stage / "stage.json").write_text(json.dumps({"inputs": {"seed": seed, "judge": judge}, "record": {}}))
    (stage / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return stage


def figure(tables: list[list[dict[str, Any]]], column: str) -> dict[str, Any]:
    values = [row[column] for rows in tables for row in rows]
    return {"mean": fmean(values), "low": fmean(values) - 0.1, "high": fmean(values) + 0.1, "n": len(values)}


def write_run(folder: Path, *, seeds: tuple[int, ...] = (0, 1), judge: str | None = "r*", **how: Any) -> Path:
    """Write the folder of a run of one method and its start, which all seeds share."""
    folder.mkdir(parents=True)
    found = comparison()
    tables = {"sft": [answers("sft", 0, **how)], "dpo": [answers("dpo", seed, **how) for seed in seeds]}
    write_stage(folder, "sft", "aaaaaaaaaaaa", 0, tables["sft"][0], judge)
    for seed, rows in zip(seeds, tables["dpo"], strict=True):
        write_stage(folder, f"dpo-seed{seed}", f"{seed:012x}", seed, rows, judge)
    methods = {
        name: {**found["methods"][name], "gold_reward": figure(tables[name], "gold"),
               "response_length": figure(tables[name], "length")}
        for name in tables
    }  # fmt: skip
    found |= {"methods": methods, "seeds": list(seeds), "training_seeds": len(seeds), "ranking": [], "tuning": {}}
    found |= {"pairwise": found["pairwise"][:1], "frontier": None, "overoptimisation": None, "learning": []}
    found |= {name: {"dpo": found[name]["dpo"]} for name in ("training", "diagnosis", "examined")}
    found["config"] = {"run": {"output": str(folder), "seeds": list(seeds)}, "world": {"kind": "reviews"}}
    (folder / "comparison.json").write_text(json.dumps(told(found)))
    return folder
