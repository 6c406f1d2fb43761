"""What can be evaluated: anything that answers prompts or scores responses, on the same rows by the same calls.

    PATH                     a stage of a preflab run, or a whole run; a PEFT adapter (a policy, or a reward model
                             saved as a classifier); a causal language model; a classifier with one label; a file
                             of responses; an evaluation's own folder
    owner/name               a model of the hub
    best-of-8:PATH           the policy at PATH, showing the best of 8 samples by the reward model

Nothing here imports torch before a subject is evaluated.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preflab.data.reading import SUFFIXES
from preflab.disk.files import read_object
from preflab.disk.seals import SUMS
from preflab.disk.stages import RECORD, Stage
from preflab.errors import UserError
from preflab.eval.records.records import SAMPLES, Records
from preflab.eval.subjects.ground import Ground, adapter_stage
from preflab.eval.subjects.kinds import PolicySubject, ResponsesSubject, RewardSubject
from preflab.eval.subjects.run_folders import read_stage, verify
from preflab.eval.subjects.scoring_judge import ScoringJudge
from preflab.eval.subjects.trained import Interpolated, TrainedPolicy, TrainedReward
from preflab.experiment.identity import StandsOn
from preflab.settings.fields import as_dict

__all__ = [
    "START",
    "Ground",
    "Interpolated",
    "PolicySubject",
    "ResponsesSubject",
    "RewardSubject",
    "ScoringJudge",
    "Subject",
    "TrainedPolicy",
    "TrainedReward",
    "adapter_stage",
    "evaluate_subject",
    "evaluation_stage",
    "open_subject",
    "open_subjects",
]

logger = logging.getLogger(__name__)

ADAPTER, MODEL = "adapter_config.json", "config.json"
MOST_SAMPLES = 2**16  # of each prompt, as for the method best-of-n
ROLES = ("policy", "reward")
OF_OTHERS = ("baseline_draws", "length_unit", "oracle_samples")
"""Settings that decide none of an evaluation's own rows: what is made of them, and of other samples."""

LOOKED_FOR = (
    f"{ADAPTER} (a PEFT adapter), {MODEL} (a model), {RECORD} with policy/ or reward/ (a preflab stage), "
    f"stages/ (a preflab run) or {SAMPLES} (an evaluation)"
)

Subject = PolicySubject | RewardSubject | ResponsesSubject | ScoringJudge | TrainedPolicy | TrainedReward
"""Each has ``kind`` (in words), ``role`` (``policy`` answers, ``reward`` scores), ``key`` and `evaluate`."""

START = PolicySubject(None, "reference")
"""The policy that training starts from, which is the reference of all."""


def open_subject(spec: str, methods: Sequence[str] = ()) -> Subject:
    """Say what `spec` names (see the module); weights are not opened yet.

    Args:
        spec: see the module.
        methods: code that the user names; what a stage names besides, and is not installed, is not run.

    Raises:
        UserError: if it names nothing that can be evaluated, with what was looked for; or a damaged stage.
    """
    best = re.fullmatch(r"best-of-(\d{1,9}):(.+)", spec)
    if best:
        inner = open_subject(best[2], methods)
        if not isinstance(inner, PolicySubject) or inner.best_of > 1 or not 2 <= int(best[1]) <= MOST_SAMPLES:
            raise UserError(
                f"{spec!r}: best-of-n takes 2 to {MOST_SAMPLES} samples of a policy; {best[2]} is a {inner.kind}"
            )
        return PolicySubject(inner.source, f"best of {best[1]}", inner.adapter, int(best[1]))
    path = Path(spec).expanduser()
    if path.is_file():
        if not path.name.lower().endswith(SUFFIXES):
            raise UserError(f"{spec} is a file of no known kind; responses stand in {', '.join(SUFFIXES)}")
        return ResponsesSubject(str(path))
    if path.is_dir():
        if not verify(path):
            logger.warning("%s has no %s: that it is as it was written is not verified", path, SUMS)
        return _open_folder(path, methods)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", spec):
        return _open_hub(spec)
    raise UserError(f"{spec} does not exist; looked for a file of responses, or a folder with {LOOKED_FOR}")


def open_subjects(name: str, spec: str, methods: Sequence[str] = ()) -> dict[str, Subject]:
    """Return what `spec` names under `name`; of a whole run, each trained model under ``name.stage``.

    What a kill left unfinished is none of its stages.

    Raises:
        UserError: as `open_subject` does.
    """
    path = Path(spec).expanduser()
    if not (path / "stages").is_dir():
        return {name: open_subject(spec, methods)}
    found: dict[str, Subject] = {}
    unsealed = 0
    for stage in sorted(record.parent for record in (path / "stages").glob("*/" + RECORD)):
        label = stage.name.rpartition("-")[0]
        if stage.name.startswith(".") or not any((stage / role / ADAPTER).is_file() for role in ROLES):
            continue
        if re.fullmatch(r"judge(-\d+)?|reference", label):
            continue
        if not re.fullmatch(r"[\w.+-]+", label):
            raise UserError(f"{spec}: {stage.name!r} is no name of a stage")
        unsealed += not verify(stage)
        found[f"{name}.{label}"] = _open_folder(stage, methods)
    if unsealed:
        logger.warning("%d stages of %s have no %s: that they are as written is not verified", unsealed, spec, SUMS)
    if not found:
        raise UserError(f"{spec} is a run in which no model is trained yet")
    return found


def _open_folder(path: Path, methods: Sequence[str]) -> Subject:
    if (path / ADAPTER).is_file():
        scores = read_object(path / ADAPTER).get("task_type") == "SEQ_CLS"
        return RewardSubject(str(path)) if scores else PolicySubject(str(path))
    for role in ROLES:
        if (path / RECORD).is_file() and (path / role / ADAPTER).is_file():
            return RewardSubject(str(path / role)) if role == "reward" else _open_stage(path, methods)
    if (path / SAMPLES).is_file():
        return ResponsesSubject(str(path / SAMPLES))
    if (path / MODEL).is_file():
        config = read_object(path / MODEL)
        names, labels = config.get("architectures"), config.get("id2label")
        first = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
        return _model(str(path), first, len(labels) if isinstance(labels, dict) else 2)
    raise UserError(f"{path} holds nothing that can be evaluated; looked for {LOOKED_FOR}")


def _open_stage(path: Path, methods: Sequence[str]) -> PolicySubject:
    """Open a trained policy, knowing its method, what it started from and what it maximised."""
    origin = read_stage(path, methods)
    return PolicySubject(str(path / "policy"), method=origin.method, start=origin.start, maximised=origin.maximised)


def _open_hub(name: str) -> Subject:
    from transformers import AutoConfig

    try:
        # Asked for nothing else, the library would ask on the terminal whether to run a stranger's code.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # whatever a config of anybody's making leads to
        raise UserError(f"{name} is no local folder, and no model of the hub that can be loaded: {error}") from None
    return _model(name, (config.architectures or [""])[0], config.num_labels)


def _model(source: str, architecture: str, labels: int) -> Subject:
    if not architecture.endswith("ForSequenceClassification"):
        return PolicySubject(source, "causal language model", adapter=False)
    if labels != 1:
        raise UserError(f"{source} is a classifier with {labels} labels; a reward model has one")
    return RewardSubject(source, "reward model", adapter=False)


def evaluate_subject(name: str, subject: Subject, ground: Ground) -> Records:
    """Evaluate a subject as `evaluation_stage` does, and read what was found."""
    return Records.read(evaluation_stage(name, subject, ground).folder)


def evaluation_stage(name: str, subject: Subject, ground: Ground) -> Stage:
    """Evaluate a subject as a stage of the experiment's run: finished ones are reused, killed ones go on.

    Args:
        name: for the stage and what is shown of its progress.
        subject: what is evaluated.
        ground: what all of a table share.
    """
    experiment = ground.experiment
    inputs = {
        **experiment.identity(),
        "subject": [subject.kind, subject.key],
        **StandsOn.of(ground.sft, ground.reward)._asdict(),
        "judge": ground.judge.key if ground.judge else None,
        "config": {k: v for k, v in as_dict(ground.config).items() if k not in OF_OTHERS},
        "seed": ground.seed,
        "generate": ground.generate,
    }

    def work(folder: Path) -> dict[str, Any]:
        records = subject.evaluate(ground, name, folder)
        records.write(folder)
        return {"samples": len(records.samples), "preferences": len(records.preferences)}

    return experiment.run.stage(f"eval-{name}", inputs, work)
