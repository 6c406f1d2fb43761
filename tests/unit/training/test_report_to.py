"""``report_to``: what the loop logs goes where the library's own integrations send it."""

from __future__ import annotations

import json
import sys

import pytest
from tiny import make_groups, train

from preflab.algorithms.dpo import DPO, DPOConfig
from preflab.errors import UserError

# In place of the package, which is no dependency.
WRITER = """
import json, pathlib
class SummaryWriter:
    def __init__(self, log_dir):
        self.file = pathlib.Path(log_dir) / "scalars.jsonl"
        self.file.parent.mkdir(parents=True)
    def add_text(self, *args): pass
    def add_scalar(self, name, value, step):
        with self.file.open("a") as file:
            file.write(json.dumps([step, name, value]) + "\\n")
    def flush(self): pass
    def close(self): pass
"""


def test_tensorboard_gets_every_line_of_metrics(tmp_path, monkeypatch):
    (tmp_path / "tensorboardX.py").write_text(WRITER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # the library then takes tensorboardX
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    _, _, lines = train(
        DPO(DPOConfig()),
        tmp_path / "run",
        groups=make_groups(),
        max_steps=2,
        logging_steps=1,
        report_to=("tensorboard",),
    )
    sent = [json.loads(line) for line in (tmp_path / "board" / "scalars.jsonl").read_text().splitlines()]
    for line in lines:
        found = {name.removeprefix("train/"): value for step, name, value in sent if step == line["step"]}
        assert found.items() >= {name: value for name, value in line.items() if name != "step"}.items()
        assert {"loss", "accuracy", "margin"} <= set(found)


@pytest.mark.parametrize("place", ["nowhere", "wandb"])
def test_a_place_that_is_unknown_or_not_installed_is_answered(place, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    with pytest.raises(UserError, match=f"training settings are not accepted: .*{place}"):
        train(DPO(DPOConfig()), tmp_path, groups=make_groups(), max_steps=1, report_to=(place,))
