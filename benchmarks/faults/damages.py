"""Damages of what finished stages, killed runs and caches left on disk: said, built again, and to the same figures."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults.cases import Case, said, words
from benchmarks.faults.outcomes import Judged, Outcome, last_line, names, outcome
from benchmarks.faults.runner import LIMIT, Answer, run_all, run_until

REAL = words(
    "compare.py --config kit/tiny.yaml --model kit/model --dataset kit/pairs.jsonl --output run --report false"
)
CHANGING = ("seconds", "peak_memory_bytes", "command", "commit", "output", "budgets")
LASTING = (".safetensors", ".npy", "samples.jsonl", "preferences.jsonl", "normalisation.json")
"""Files that are the same, byte for byte, whenever they are made; others hold times."""


class Base(NamedTuple):
    """A run that is damaged.

    Attributes:
        command: what made it, and mends it.
        kill: what must match for it to be killed; none: it is finished.
        again: what is taken away of it, so that what is damaged is needed again.
        result: where its figures are.
    """

    command: tuple[str, ...]
    kill: str = ""
    again: str = ""
    result: str = "run/comparison.json"


BASES = {
    "finished": Base(
        (
            *REAL,
            *words("--algorithms dpo,ppo --oracle-samples 4 --snapshots 2 --snapshot-prompts 2"),
            *words("--pair.max-steps 4 --sampled.max-steps 4"),
        )
    ),
    "reference kept": Base((*REAL, *words("--algorithms dpo --pair.max-steps 4")), again="run/stages/*dpo-seed0-*"),
    "killed in training": Base(
        (*REAL, *words("--algorithms dpo --dpo.max-steps 6 --dpo.save-steps 2 --dpo.logging-steps 2")),
        kill="run/stages/.dpo-seed0-*.partial/checkpoint-4/SHA256SUMS",
    ),
    "killed between two lines of metrics": Base(
        (*REAL, *words("--algorithms dpo --dpo.max-steps 6 --dpo.save-steps 2 --dpo.logging-steps 6")),
        kill="run/stages/.dpo-seed0-*.partial/checkpoint-4/SHA256SUMS",
    ),
    "killed in evaluation": Base(
        (*REAL, *words("--algorithms dpo")), kill="run/stages/.eval-dpo-seed0-*.partial/answers-0.jsonl"
    ),
    "samples kept": Base(
        words(
            "dpo.py --model kit/model --reward preflab.rewards.examples:varied_story --config kit/tiny.yaml "
            "--max-pairs 48 --output run --cache cache"
        ),
        again="run",
        result="run/dpo.json",
    ),
    "base kept": Base(
        words("dpo.py --world exact --max-steps 1 --eval-prompts 4 --eval-pairs 8 --output run --cache cache"),
        again="run",
        result="run/dpo.json",
    ),
}


class Damage(NamedTuple):
    """One file of one run, damaged in one way.

    Attributes:
        base: which of `BASES`.
        file: pattern of the file; the last match is taken.
        harm: which of `HARMS`.
        quiet: whether it may go by without a word, as what a kill leaves behind does.
    """

    base: str
    file: str
    harm: str
    quiet: bool = False

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.base}/{self.file}/{self.harm}"


# ---- harms ----------------------------------------------------------------------------------------


def _turn_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def _fill(byte: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(byte * path.stat().st_size)


def _replace(path: Path) -> None:
    """Put another stage's file of the same name there, or else one of another kind."""
    own = path.read_bytes()
    others = sorted(p for p in path.parents[1].parent.rglob(path.name) if p.is_file() and p.read_bytes() != own)
    path.write_bytes(others[0].read_bytes() if others else b"{}")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch canary",)


def _pickle(path: Path) -> None:
    import pickle

    path.write_bytes(pickle.dumps(Payload()))


HARMS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut by a byte": lambda path: os.truncate(path, max(path.stat().st_size - 1, 0)),
    "one bit turned": _turn_bit,
    "gone": lambda path: path.unlink(),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": _fill(b"\0"),
    "brackets": _fill(b"["),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n{}\n"),
    "another's": _replace,
    "a folder": _folder,
    "a loop": _loop,
    "code": _pickle,
}
MOST = ("cut in half", "one bit turned", "gone", "empty", "another's")
STAGE_FILES: dict[str, tuple[str, ...]] = {
    "sft-*/policy/adapter_model.safetensors": (*MOST, "cut by a byte", "zeros", "a folder", "a loop"),
    "sft-*/policy/adapter_config.json": ("cut in half", "gone", "another's"),
    "sft-*/stage.json": (*MOST, "brackets", "zeros", "a folder"),
    "sft-*/metrics.jsonl": ("cut in half", "gone"),
    "reward-*/reward/adapter_model.safetensors": MOST,
    "reward-*/reward/normalisation.json": (*MOST, "longer", "a folder"),
    "judge-*/reward/adapter_model.safetensors": ("one bit turned", "gone"),
    "judge-*/reward/normalisation.json": ("another's", "gone"),
    "reference-samples-*/rewards.npy": (*MOST, "zeros", "longer"),
    "dpo-seed0-*/policy/adapter_model.safetensors": ("one bit turned", "another's", "cut by a byte"),
    "dpo-seed0-*/metrics.jsonl": ("one bit turned", "empty", "zeros", "a folder", "brackets"),
    "dpo-seed0-*/stage.json": ("another's", "cut in half"),
    "dpo-seed0-*/snapshots/*/policy/adapter_model.safetensors": ("one bit turned", "gone"),
    "ppo-seed0-*/policy/adapter_model.safetensors": ("one bit turned",),
    "ppo-seed0-*/value/adapter_model.safetensors": ("one bit turned", "gone"),
    "eval-dpo-seed0-*/samples.jsonl": (*MOST, "longer", "brackets"),
    "eval-dpo-seed0-*/preferences.jsonl": (*MOST, "cut by a byte"),
    "eval-dpo-seed0-*/stage.json": ("zeros", "gone"),
    "eval-sft-*/samples.jsonl": ("one bit turned", "gone"),
    "eval-baseline-*/samples.jsonl": ("one bit turned", "another's"),
    "eval-reward-*/preferences.jsonl": ("one bit turned", "cut in half"),
}
CHECKPOINT_FILES: dict[str, tuple[str, ...]] = {
    "optimizer.pt": ("cut in half", "one bit turned", "gone", "zeros", "code"),
    "scheduler.pt": ("empty", "code"),
    "rng_state.pth": ("cut in half", "gone", "code"),
    "trainer_state.json": ("cut in half", "gone", "brackets", "one bit turned"),
    "carried.json": ("cut in half", "gone", "brackets"),
    "policy/adapter_model.safetensors": ("cut in half", "one bit turned", "gone", "zeros"),
}


def damages() -> Iterator[Damage]:
    """Yield every damage."""
    for file, harms in STAGE_FILES.items():
        yield from (Damage("finished", f"run/stages/{file}", harm) for harm in harms)
    for harm in (*MOST, "zeros"):
        yield Damage("reference kept", "run/stages/reference-*/reference_logps.safetensors", harm)
    for base in ("killed in training", "killed between two lines of metrics"):
        yield Damage(base, "run/stages/.dpo-seed0-*.partial/checkpoint-4/trainer_state.json", "nothing", quiet=True)
    yield Damage("killed in evaluation", "run/stages/.eval-dpo-seed0-*.partial/answers-0.jsonl", "nothing", quiet=True)
    yield Damage("finished", "run/stages/sft-*/stage.json", "nothing", quiet=True)
    for file, harms in CHECKPOINT_FILES.items():
        for harm in harms:
            yield Damage("killed in training", f"run/stages/.dpo-seed0-*.partial/checkpoint-4/{file}", harm)
    for harm in ("cut in half", "one bit turned", "zeros", "another's", "a folder"):
        yield Damage("killed in evaluation", "run/stages/.eval-dpo-seed0-*.partial/answers-0.jsonl", harm)
    for harm in ("cut in half", "one bit turned", "gone", "brackets"):
        yield Damage("samples kept", "cache/function-*/samples.jsonl", harm)
    for file, harm in (
        ("model.safetensors", "one bit turned"),
        ("model.safetensors", "cut in half"),
        ("config.json", "gone"),
        ("tokenizer.json", "zeros"),
    ):
        yield Damage("base kept", f"cache/exact-base-*/{file}", harm)


DAMAGES = list(damages())


# ---- running --------------------------------------------------------------------------------------


def run(chosen: list[Damage], work: Path, kit: Path, jobs: int) -> list[Judged]:
    """Make the runs, damage copies of them, run their commands again, and judge what comes of it."""
    made = {name: make_base(name, work, kit) for name in dict.fromkeys(damage.base for damage in chosen)}
    judged = {}
    cases = {damage.name: damage for damage in chosen}

    def done(case: Case, answer: Answer) -> None:
        damage = cases[case.name]
        found = verdict(case, damage, answer, *made[damage.base])
        judged[case.name] = Judged(case.name, damage.base, found, f"{' '.join(case.command)[:200]}", answer.err[-600:])

    run_all([as_case(damage, made[damage.base][0]) for damage in chosen], work / "cases", kit, jobs, done, 10 * LIMIT)
    return [judged[damage.name] for damage in chosen]


def make_base(name: str, work: Path, kit: Path) -> tuple[Path, Path]:
    """Make a run that is to be damaged, and what it should come to; return both folders."""
    base = BASES[name]
    whole, killed = work / f"{name}, whole", work / f"{name}, to damage"
    case = Case(f"damages/{name}", base.command, said())
    if run_until(case, whole, kit, lambda seconds: False) != 0:
        raise RuntimeError(f"the run to damage fails: {(whole / 'err.txt').read_text()[-2000:]}")
    if not base.kill:
        return whole, whole
    if run_until(case, killed, kit, lambda seconds: any(killed.glob(base.kill))) is not None:
        raise RuntimeError(f"{name}: it ended before it could be killed")
    return killed, whole


def as_case(damage: Damage, source: Path) -> Case:
    """Return the case that copies the run, damages the copy and runs its command again."""

    def make(folder: Path) -> None:
        for part in ("run", "cache"):
            if (source / part).exists():
                shutil.copytree(source / part, folder / part, symlinks=True)
        for path in folder.glob(BASES[damage.base].again) if BASES[damage.base].again else ():
            shutil.rmtree(path)
        HARMS[damage.harm](target(damage, folder))

    return Case(damage.name, BASES[damage.base].command, said(), make)


def target(damage: Damage, folder: Path) -> Path:
    """Return the file to damage."""
    found = sorted(folder.glob(damage.file))
    if not found:
        raise FileNotFoundError(damage.file)
    return found[-1]


def verdict(case: Case, damage: Damage, answer: Answer, source: Path, whole: Path) -> Outcome:
    """Judge a repair: said in one line, and to the same figures and files."""
    found = outcome(case, answer)
    if found.kind != "right":
        return found if answer.status != 2 else Outcome("unclear", f"not built again: {last_line(answer.err)}")
    result = BASES[damage.base].result
    if figures(json.loads((answer.folder / result).read_text())) != figures(json.loads((whole / result).read_text())):
        return Outcome("other figures", "the result is another one")
    for path in sorted(whole.glob("run/stages/*/**/*")):
        other = answer.folder / path.relative_to(whole)
        if (
            path.name.endswith(LASTING)
            and path.is_file()
            and (not other.is_file() or other.read_bytes() != path.read_bytes())
        ):
            return Outcome(
                "silent" if not _said(damage, answer, source) else "other figures", f"{path.relative_to(whole)} differs"
            )
    if damage.quiet or _said(damage, answer, source):
        return Outcome("right")
    return Outcome("silent", "nothing said: the damage was trusted, or mended without a word")


def _said(damage: Damage, answer: Answer, source: Path) -> bool:
    """Return whether one line names the stage (or cache, or checkpoint) and the file."""
    parts = target(damage, source).relative_to(source).parts
    folder = next(p for p in parts if p not in ("run", "stages", "cache"))
    stage = folder.lstrip(".").removesuffix(".partial").rpartition("-")[0]
    place = "checkpoint-4" if "checkpoint-4" in parts else stage
    return any(names(line, (place, parts[-1])) for line in answer.err.splitlines())


def figures(result: Any) -> Any:
    """Return a result without what may differ between two runs: costs, command, commit and folder."""
    if isinstance(result, dict):
        return {name: figures(value) for name, value in result.items() if name not in CHANGING}
    return [figures(value) for value in result] if isinstance(result, list) else result
