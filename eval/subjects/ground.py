"""What every subject of one table shares."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.disk.digests import digest_of_files
from preflab.disk.stages import Stage
from preflab.errors import UserError
from preflab.eval.settings import EvalConfig
from preflab.model.adapter_config import CONFIG, NORMALISATION, WEIGHTS

if TYPE_CHECKING:
    from preflab.eval.judges import Judge, JudgeSpec
    from preflab.experiment.experiment import Experiment
    from preflab.experiment.rewards import Rewards
    from preflab.model.roles import Roles


class Ground(NamedTuple):
    """What every subject of one table shares.

    Attributes:
        experiment: rows, base and tokenizer.
        config: sizes and temperature.
        sft: the adapter of the reference, which best-of-n may start from too; None: the bare base.
        reward: gives the proxy reward, and chooses for best-of-n; None where there is none.
        judge: gives gold rewards; None leaves them out.
        seed: of the sampled responses.
        generate: whether policies answer the prompts.
    """

    experiment: Experiment
    config: EvalConfig
    sft: Stage | None = None
    reward: Stage | Rewards | None = None
    judge: JudgeSpec | None = None
    seed: int = 0
    generate: bool = True

    def roles(self) -> Roles:
        """Open the world's base with the reference, the policy that stands on it, and the reward model."""
        wanted: Any = ("policy", "reference", *(("reward",) if self.reward else ()))
        return self.experiment.open_roles(wanted, sft=self.sft, reward=self.reward)

    def judge_on(self, roles: Roles) -> Judge | None:
        """Open the judge, beside what the roles are, where there are answers for it to judge."""
        return self.judge.open(roles) if self.judge and self.generate else None


def adapter_stage(folder: Path, role: str) -> Stage:
    """Wrap an adapter as a finished stage, keyed by its weights and what says how they are read.

    Raises:
        UserError: if it holds no safetensors weights.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no {WEIGHTS} (only safetensors are read)")
    # The same weights at another alpha, or on another scale, are another policy or reward.
    files = [path for name in (WEIGHTS, CONFIG, NORMALISATION) if (path := folder / name).is_file()]
    # Stages keep each role in a folder of its own name.
    stage = Path(tempfile.mkdtemp(prefix="preflab-"))
    atexit.register(shutil.rmtree, stage, ignore_errors=True)
    (stage / role).symlink_to(folder.resolve(), target_is_directory=True)
    return Stage(role, digest_of_files(*files, digits=12), stage, {}, True)
