"""Judge saved policies and reward models by the harness that compare.py uses, on the same rows.

    python recipes/evaluate.py --models mine=runs/a/stages/dpo-seed0-…/policy,other=path/to/adapter
    python recipes/evaluate.py --models mine=ADAPTER --sft ADAPTER --reward-model ADAPTER --model M --dataset D

A folder is what PEFT wrote. One with a scalar head is judged as a reward model, any other as a policy. The
reference of all policies is the base, or the adapter given by --sft.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preflab.config import option
from preflab.errors import UserError, run_recipe
from recipes.common import Pipeline, Session


@dataclass(frozen=True)
class EvaluateConfig:
    """What is judged."""

    models: tuple[str, ...] = option((), "name=folder of each adapter, separated by commas")
    sft: str | None = option(None, "adapter of the reference policy; default: the bare base")
    reward_model: str | None = option(None, "reward adapter that gives the proxy reward")


def main() -> None:
    """Open each adapter, score it, print one table."""
    session = Session(__doc__ or "", {"evaluate": EvaluateConfig})
    session.check_sections(())
    config: EvaluateConfig = session.configs["evaluate"]
    folders = dict(named_folder(item) for item in config.models)
    if not folders:
        raise UserError("nothing to judge; name adapters as --models name=folder,name=folder")

    experiment = session.open()
    from eval.comparison import summarise_accuracy, summarise_policy
    from preflab.runs import provenance
    from recipes.compare import show

    pipeline = Pipeline(session, experiment)
    sft = given_stage("sft", config.sft, "policy")
    reward = given_stage("reward", config.reward_model, "reward")
    judge = pipeline.judge(sft)
    shared: Any = {"sft": sft, "reward": reward, "judge": judge}
    baseline = pipeline.evaluate("baseline", None, seed=-1, **shared)
    rows: dict[str, Any] = {"reference": summarise_policy([pipeline.evaluate("reference", None, **shared)], baseline)}
    for name, folder in folders.items():
        role = "reward" if is_reward_model(folder) else "policy"
        records = pipeline.evaluate(name, given_stage(name, str(folder), role), role=role, **shared)
        rows[name] = {"heldout_accuracy": summarise_accuracy([records])} if role == "reward" else None
        rows[name] = rows[name] or summarise_policy([records], baseline)
    facts = {"config": session.as_dict(), "data": experiment.data, **provenance()}
    show(
        {"methods": rows, "baseline": "reference", "judge": judge[0].name if judge else None, **facts},
        Path(session.run.output) / "evaluation.json",
    )


def named_folder(item: str) -> tuple[str, Path]:
    """Read ``name=folder``.

    Raises:
        UserError: if it has another form, or the folder holds no adapter.
    """
    name, equals, folder = item.partition("=")
    if not equals or not name or not folder:
        raise UserError(f"--models: {item!r} must have the form name=folder")
    path = Path(folder).expanduser()
    if not (path / "adapter_config.json").is_file():
        raise UserError(f"--models: {folder} holds no adapter_config.json")
    return name, path


def is_reward_model(folder: Path) -> bool:
    """Whether an adapter was saved as a classifier with one label."""
    import json

    return json.loads((folder / "adapter_config.json").read_text()).get("task_type") == "SEQ_CLS"


def given_stage(name: str, folder: str | None, role: str) -> Any:
    """Wrap an adapter that the user names as a finished stage, keyed by its weights."""
    import atexit
    import hashlib
    import shutil
    import tempfile

    from preflab.runs import Stage

    if folder is None:
        return None
    source = Path(folder).expanduser()
    weights = source / "adapter_model.safetensors"
    if not weights.is_file():
        raise UserError(f"{source} holds no adapter_model.safetensors (only safetensors are read)")
    # Stages keep each role in a folder of its own name.
    stage = Path(tempfile.mkdtemp(prefix="preflab-"))
    atexit.register(shutil.rmtree, stage, ignore_errors=True)
    (stage / role).symlink_to(source.resolve(), target_is_directory=True)
    return Stage(name, hashlib.sha256(weights.read_bytes()).hexdigest()[:12], stage, {}, True)


if __name__ == "__main__":
    run_recipe(main)
