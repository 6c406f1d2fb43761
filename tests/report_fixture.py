"""A comparison of made-up numbers in the shape of ``comparison.json`` (schema 3), and samples to go with it.

Run as a script it writes a report to look at: ``python tests/report_fixture.py FOLDER``.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

from report_parts import Row, estimate, preferences

from preflab.eval.comparison.sentences import headline, sentences
from preflab.eval.diagnosis import DETECTORS
from preflab.eval.records.comparison import Comparison
from preflab.eval.records.typed import from_json

SEEDS = (0, 1, 2)
METHODS = ("sft", "dpo", "ipo", "ppo")
LATER = ("tuning", "learning", "redrawn", "examined")  # what may be absent
SUBSETS = ("on topic", "tone")
GOLD = {"sft": 0.31, "dpo": 1.24, "ipo": 1.19, "ppo": 1.52}
KL = {"sft": 0.02, "dpo": 6.8, "ipo": 6.1, "ppo": 8.9}


def comparison() -> Row:
    """Return four methods, three seeds, every section filled."""
    return told(_untold())


def told(compared: Row) -> Row:
    """Return a comparison with what is to be said of it."""
    summary = typed(compared)
    return {**compared, "headline": headline(summary, "sft"), "verdict": sentences(summary)}


def _untold() -> Row:
    return {
        "schema": 3,
        "headline": "",
        "verdict": [],
        "baseline": "sft",
        "judge": {"name": "gold function of the reviews world", "kind": "scores", "warning": None},
        "reward_model": {
            "heldout_accuracy": estimate(0.712, 0.021, 1900),
            "preferences": None,
            "train": _train("reward"),
        },
        "methods": {name: _method(name) for name in METHODS},
        "ranking": [
            {"method": "ppo", "rating": estimate(1106, 16), "rank_low": 1, "rank_high": 1, "separated": False},
            {"method": "dpo", "rating": estimate(1043, 15), "rank_low": 2, "rank_high": 3, "separated": False},
            {"method": "ipo", "rating": estimate(1031, 15), "rank_low": 2, "rank_high": 3, "separated": False},
            {"method": "sft", "rating": estimate(820, 19), "rank_low": 4, "rank_high": 4, "separated": True},
        ],
        "pairwise": [_pair(a, b) for i, a in enumerate(METHODS) for b in METHODS[i + 1 :]],
        "untested": [],
        "frontier": _frontier(),
        "overoptimisation": {"dpo": _law("rl", 0.5, 0.16), "ppo": _law("rl", 0.6, 0.16)},
        "training": {name: {str(seed): _curve(name, seed) for seed in SEEDS} for name in METHODS},
        "diagnosis": {
            "sft": [],
            "dpo": [_finding("likelihood displacement")],
            "ipo": [],
            "ppo": [_finding("length exploitation"), _finding("reward hacking", "serious")],
        },
        "examined": {name: [known.symptom for known in DETECTORS[: 20 - i]] for i, name in enumerate(METHODS)},
        "budgets": {
            "matched": "none",
            "equal": ["optimiser steps", "prompts", "responses", "trained response tokens", "peak memory"],
            "unequal": ["tokens through training", "sampled tokens", "FLOPs", "wall time", "settings tried"],
            "unknown": ["compared pairs"],
            "untrained": [],
            "stands_on": {"dpo": ["sft"], "ipo": ["sft"], "ppo": ["sft", "reward model"]},
            "charged": {name: _charged(name) for name in METHODS[1:]},
            "sentence": "Methods saw the same pairs and prompts; ppo also sampled 2.1 M tokens and used six times "
            "the FLOPs of dpo.",
        },
        "training_seeds": len(SEEDS),
        "redrawn": ["sft", "reward model"],
        "learning": [_learnt(name, share) for name in METHODS[1:] for share in (0.1, 0.3, 1.0)],
        "tuning": {"dpo": _tuned(0.62, 2), "ppo": _tuned(0.71, 0)},
        "seeds": list(SEEDS),
        "config": {"run": {"output": "runs/default", "seeds": [0, 1, 2]}, "world": {"kind": "reviews", "quick": False}},
        "data": {
            "train": {"rows": 4096, "sha256": "9f2c41d07ab3"},
            "heldout": {"rows": 1900, "sha256": "51e80c9d2f66"},
        },
        "versions": {"preflab": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0"},
        "commit": "f989d30c0ffee0ddba11f00dfeedface12345678",
        "command": ["compare.py", "--algorithms", "dpo,ipo,ppo", "--seeds", "0,1,2", "--sweep", "beta=0.05,0.1,0.5,1"],
        "python": "3.11.9",
        "machine": "Linux x86_64, 16 cores",
    }


def samples(prompts: int = 256, seeds: tuple[int, ...] = SEEDS) -> dict[str, dict[int, list[Row]]]:
    """Return what each method answered, one row a prompt; the baseline was trained once."""
    return {
        name: {seed: _answers(name, seed, prompts) for seed in (seeds[:1] if name == "sft" else seeds)}
        for name in METHODS
    }


def bare() -> Row:
    """Return a comparison in which nobody judged, nothing was swept and no curve was logged."""
    empty = {"ranking": [], "pairwise": [], "training": {}, "diagnosis": {}}
    methods = {name: {**record, "preferences": None} for name, record in comparison()["methods"].items()}
    whole = {name: part for name, part in comparison().items() if name not in LATER}
    return told({**whole, **empty, "frontier": None, "overoptimisation": None, "methods": methods})


def typed(compared: Row) -> Comparison:
    """Return what a file that holds this is read as."""
    return from_json(Comparison, compared)


def of_methods(methods: Row, reward_model: Row | None = None) -> Comparison:
    """Return a comparison of methods of which some figures are known, and under ``train`` some costs."""
    rows = {
        name: {
            **found,
            "preferences": None,
            "train": None if found.get("train") is None else {**dict.fromkeys(_train("dpo")), **found["train"]},
            "settings": {},
            "settings_tried": 1,
        }
        for name, found in methods.items()
    }
    model = reward_model and {"preferences": None, "train": None, **reward_model}
    return typed({**bare(), "methods": rows, "reward_model": model})


def _method(name: str) -> Row:
    shift = METHODS.index(name)
    policy = name != "sft"
    return {
        "win_rate": estimate(0.5 + 0.21 * (GOLD[name] - 0.31), 0.03) if policy else None,
        "length_controlled_win_rate": estimate(0.5 + 0.17 * (GOLD[name] - 0.31), 0.034) if policy else None,
        "wins": estimate(0.49 + 0.21 * (GOLD[name] - 0.31), 0.03) if policy else None,
        "ties": estimate(0.02, 0.01) if policy else None,
        "losses": estimate(0.49 - 0.21 * (GOLD[name] - 0.31), 0.03) if policy else None,
        "gold_reward": estimate(GOLD[name], 0.08),
        "proxy_reward": estimate(1.1 * GOLD[name] + 0.1, 0.07),
        "heldout_accuracy": estimate(0.5 + 0.06 * min(shift, 3) + 0.02 * (name == "dpo"), 0.02, 1900),
        "kl": estimate(KL[name], 0.12),
        "kl_log_ratio": estimate(KL[name] + 0.05, 0.4),
        "entropy": estimate(2.1 - 0.35 * shift, 0.05),
        "distinct_2": estimate(0.62 - 0.06 * shift, 0.01),
        "repetition": estimate(0.03 + 0.01 * shift, 0.004),
        "response_length": estimate(31 + 4 * shift, 1.1),
        "ended": estimate(0.99 - 0.02 * shift, 0.01),
        "demonstration_logp": estimate(-1.31 - 0.06 * shift, 0.02),
        "preferences": preferences(shift),
        "train": _train(name),
        "settings": {
            "beta": 0.1,
            "learning_rate": 2e-4,
            "max_steps": 200,
            **({"clip_range": 0.2} if name == "ppo" else {}),
        },
        "settings_tried": 4 if policy else 1,
    }


def _learnt(name: str, share: float) -> Row:
    gold = GOLD[name] * (0.6 + 0.4 * share)
    figures = {"gold_reward": estimate(gold, 0.08 / share**0.5), "win_rate": estimate(0.5 + 0.2 * gold, 0.03)}
    return {"method": name, "fraction": share, "preferences": 4096 * share, **figures, "heldout_accuracy": None}


def _tuned(best: float, chosen: int) -> Row:
    objectives = [best - 0.1 * abs(number - chosen) for number in range(4)]
    trials = [
        {"number": number, "settings": {"learning_rate": 2e-4 * 2**number, "beta": 0.1}, "objective": objective,
         "kl": 2.0, "seconds": 9.0, "flops": None}
        for number, objective in enumerate([*objectives[:3], None])
    ]  # fmt: skip
    importance = {"learning_rate": 0.7, "beta": 0.3}
    return {"objective": "gold", "prompts": 64, "chosen": chosen, "trials": trials, "importance": importance}


def _train(name: str) -> Row:
    online = name == "ppo"
    return {
        "steps": 200,
        "seconds": 412.0 if online else 96.0,
        "prompts": 1600,
        "pairs": None if online else 3200,
        "responses": 6400,
        "trained_tokens": 0.4e6,
        "tokens": 2.3e6 if online else 0.9e6,
        "sampled_tokens": 2.1e6 if online else 0,
        "flops": 6.1e13 if online else 1.0e13,
        "peak_memory_bytes": 1.3 * 2**30,
    }


def _charged(name: str) -> Row:
    own = _train(name)
    charges = {what: own[what] for what in ("tokens", "flops", "seconds")}
    return {what: {"own": n, "alone": 1.5 * n, "shared": 1.2 * n} for what, n in charges.items()}


def _pair(first: str, second: str) -> Row:
    difference = GOLD[first] - GOLD[second]
    seen = abs(difference) > 0.15
    return {
        "first": first,
        "second": second,
        "measure": "gold_reward",
        "difference": estimate(difference, 0.11),
        "win_rate": estimate(0.5 + 0.21 * difference, 0.03),
        "wins": estimate(0.48 + 0.21 * difference, 0.03),
        "ties": estimate(0.04, 0.01),
        "losses": estimate(0.48 - 0.21 * difference, 0.03),
        "p": 0.0004 if seen else 0.37,
        "p_adjusted": 0.002 if seen else 0.37,
        "detectable": 0.15,
        "verdict": ("first" if difference > 0 else "second") if seen else "none",
        "sources": {
            "seeds": 0.04, "prompts": 0.31, "rest": 0.7,
            "groups": 1, "training_seeds": len(SEEDS), "tested_prompts": 256,
            "shares": {"seeds": 0.31, "prompts": 0.21, "rest": 0.48},
        },
    }  # fmt: skip


def _attainable(kl: float) -> float:
    return 0.31 + 0.92 * math.sqrt(kl) - 0.09 * kl


def _frontier() -> Row:
    points = []
    for name in METHODS[1:]:
        for beta, way, share in ((1.0, 0.13, 0.45), (0.5, 0.35, 0.75), (None, 1.0, 1.0), (0.05, 1.6, 0.93)):
            kl, gold = way * KL[name], GOLD["sft"] + share * (GOLD[name] - GOLD["sft"])
            points.append(
                {
                    "method": name,
                    "setting": {} if beta is None else {"beta": beta},
                    "kl": estimate(kl, 0.05 * kl + 0.1),
                    "gold_reward": estimate(gold, 0.08),
                    "attainable": estimate((gold - GOLD["sft"]) / (_attainable(kl) - GOLD["sft"]), 0.04),
                    "proxy_reward": estimate(1.15 * gold, 0.07),
                    "under_the_line": None,
                }
            )
    grid = [15 * (i / 60) ** 2 for i in range(61)]
    reward = [_attainable(kl) for kl in grid]
    width = [0.02 + 0.012 * kl for kl in grid]
    return {
        "points": points,
        "oracle": {
            "source": "reference samples",
            "kl": grid,
            "reward": reward,
            "low": [r - w for r, w in zip(reward, width, strict=True)],
            "high": [r + w for r, w in zip(reward, width, strict=True)],
            "ess": [4096 * math.exp(-0.5 * kl) for kl in grid],
            "trusted_kl": 12.5,
            "tolerance": None,
        },
        "best_of_n": [_best_of(n) for n in (1, 2, 4, 8, 16, 32, 64)],
        "matched": [
            {"kl": kl, "method": name, "gold_reward": estimate(0.31 + share * (GOLD[name] - 0.31), 0.08)}
            for kl, share in ((2.0, 0.68), (4.0, 0.86), (6.0, 0.97))
            for name in METHODS[1:]
        ],
        "matched_differences": [
            {"kl": 4.0, "first": "dpo", "second": other, "difference": estimate(gap, 0.09), "p": p}
            for other, gap, p in (("ipo", 0.03, 0.48), ("ppo", -0.11, 0.02))
        ],
    }


def _best_of(n: int) -> Row:
    kl = math.log(n) - (n - 1) / n
    gold = 0.31 + 0.94 * (_attainable(kl) - 0.31)
    return {"n": n, "kl": kl, "gold_reward": gold, "low": gold - 0.05, "high": gold + 0.05}


def _law(law: str, alpha: float, beta: float) -> Row:
    points = []
    for i in range(24):
        d = 0.15 * i
        gold = GOLD["sft"] + (d * (alpha - beta * math.log(d)) if d else 0.0)
        points.append(
            {
                "step": 5.0 * i,
                "d": d,
                "kl": estimate(d**2, 0.1),
                "gold": estimate(gold + 0.04 * math.sin(7 * d), 0.05),
                "proxy": estimate(1.1 * GOLD["sft"] + 0.1 + 0.6 * d, 0.05),
            }
        )
    fitted = {"alpha": estimate(alpha, 0.06), "beta": estimate(beta, 0.04), "r2": 0.98}
    peak = {"d": estimate(math.exp(alpha / beta - 1), 0.8), "gold": 2.0, "reached": False}
    return {
        "law": law,
        "over": "training",
        **fitted,
        "peak": peak,
        "note": None,
        "reference_reward": GOLD["sft"],
        "points": points,
    }


def _curve(name: str, seed: int) -> list[Row]:
    draw, online, rows = random.Random(f"{name}{seed}"), name == "ppo", []
    for step in range(5, 201, 5):
        progress = 1 - math.exp(-step / 60)
        row = {
            "step": step,
            "loss": 0.69 - 0.25 * progress + draw.gauss(0, 0.015),
            "grad_norm": 1 + draw.random(),
            "learning_rate": 2e-4 * (1 - step / 200),
        }
        if online:
            row |= {
                "reward": 1.6 * progress + draw.gauss(0, 0.06),
                "kl": 9 * progress + draw.gauss(0, 0.3),
                "entropy": 2.1 - 1.0 * progress + draw.gauss(0, 0.03),
                "response_length": 31 + 12 * progress + draw.gauss(0, 0.8),
                "ended": 0.99 - 0.05 * progress,
                "clip_fraction": 0.03 + 0.01 * draw.random(),
                "explained_variance": 0.7 * progress,
            }
        elif name != "sft":
            row |= {
                "accuracy": 0.5 + 0.2 * progress + draw.gauss(0, 0.02),
                "margin": 1.5 * progress,
                "chosen_logps": -40 - 5 * progress,
            }
        rows.append(row)
    return rows


def _finding(symptom: str, severity: str = "warning") -> Row:
    return {
        "symptom": symptom,
        "severity": severity,
        "evidence": "From step 20 to step 200 the proxy reward rose by 0.9 [0.8, 1.0] while gold fell by 0.2.",
        "explanation": "The policy finds what the reward model overrates; its score no longer says what people prefer.",
        "advice": "Stop earlier, raise the KL coefficient, or train the reward model on samples of this policy.",
    }


PLACES = ("the tea room by the harbour", "a small cinema", "the night train", "this camera", "the museum's café")
TRAITS = ("quiet", "bright", "slow", "honest", "worn", "friendly", "cold", "generous")


def _answers(name: str, seed: int, prompts: int) -> list[Row]:
    draw, rows = random.Random(f"{name}/{seed}"), []
    for i in range(prompts):
        place = PLACES[i % len(PLACES)]
        sentences = draw.randint(1, 3) + (name == "ppo")
        text = " ".join(f"I found {place} {draw.choice(TRAITS)} and {draw.choice(TRAITS)}." for _ in range(sentences))
        gold = draw.gauss(GOLD[name], 0.9)
        rows.append(
            {
                "prompt": f"Write a short review of {place}. (No. {i})",
                "response": text,
                "length": len(text.split()),
                "ended": draw.random() > 0.03,
                "log_ratio": draw.gauss(KL[name], 2.0),
                "kl": abs(draw.gauss(KL[name], 0.8)),
                "entropy": 1.4,
                "gold": gold,
                "proxy": 1.1 * gold + draw.gauss(0, 0.3),
            }
        )
    return rows


if __name__ == "__main__":
    from preflab.eval.report import write_report

    for written in write_report(typed(comparison()), samples(), Path(sys.argv[1])):
        print(written)
