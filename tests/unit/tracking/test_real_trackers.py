"""The trackers themselves, where they are installed: two stages and a result, read back from what lies on the disk."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__)
LIMIT = 240  # seconds; only a hang reaches it

pytestmark = pytest.mark.slow  # each begins processes of its own

TRACKED = """
import sys
from pathlib import Path
from test_trackers import OUTCOME, followed
from preflab.tracking.runs import Tracking, check_trackers, report
from preflab.tracking.trackers import Run

name, folder = sys.argv[1], Path(sys.argv[2])
folder.mkdir()
page = folder / "report.html"
page.write_text("<p>all of it</p>")
check_trackers([name])
for seed in (0, 1):
    followed(Tracking((name,), "mine-abc", folder), f"dpo-seed{seed}", folder / f"dpo{seed}", seed=seed)
run = Run("mine-result", "mine-abc", ("result",), {"seeds": [0, 1]}, folder)
took = report([name], run, OUTCOME._replace(page=page))
assert took == [name], took
"""

READ_TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
runs = SQLiteStorage.get_runs("preflab")
found = {run: [SQLiteStorage.get_run_config("preflab", run), SQLiteStorage.get_logs("preflab", run)] for run in runs}
print(json.dumps(found))
"""

READ_MLFLOW = """
import json, mlflow
found = mlflow.search_runs(search_all_experiments=True, output_format="list")
client = mlflow.MlflowClient()
print(json.dumps({run.info.run_name: [run.info.status, run.data.tags, run.data.metrics,
    [file.path for file in client.list_artifacts(run.info.run_id)]] for run in found}))
"""


def tracked(name, tmp_path, monkeypatch, **environment):
    """Train and report with a tracker, in a process of its own, as it may keep threads and files open."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install {name}")
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, [str(HERE.parent), *sys.path])))
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    folder = tmp_path / "mine"
    python(TRACKED, name, folder, cwd=tmp_path)
    return folder


def python(source, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_wandb_offline(tmp_path, monkeypatch):
    folder = tracked("wandb", tmp_path, monkeypatch, WANDB_MODE="offline")
    places = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(places) == 3
    assert all(list(place.glob("run-*.wandb")) for place in places), "each is finished, and written"
    stored = b"".join(path.read_bytes() for place in places for path in place.glob("run-*.wandb"))
    for text in (b"dpo-seed0", b"dpo-seed1", b"mine-result", b"mine-abc", b"seed1", b"train/loss", b"dpo/gold_reward"):
        assert text in stored, text
    assert not list(folder.rglob("*.patch")), "no code"
    assert not (tmp_path / "wandb").exists()


def test_tensorboard(tmp_path, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    folder = tracked("tensorboard", tmp_path, monkeypatch)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = {}
    for place in sorted((folder / "tensorboard").iterdir()):
        read[place.name] = EventAccumulator(str(place)).Reload()
    assert list(read) == ["dpo-seed0", "dpo-seed1", "mine-result"]
    steps = [event.step for event in read["dpo-seed1"].Scalars("train/loss")]
    assert steps == [1, 2]
    assert [event.value for event in read["mine-result"].Scalars("dpo/gold_reward")] == [0.5]
    assert "result/text_summary" in read["mine-result"].Tags()["tensors"]
    assert not list(folder.glob("dpo*/**/events.*")), "none among the stage's own files"


def test_trackio_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("TRACKIO_SPACE_ID", raising=False)
    tracked("trackio", tmp_path, monkeypatch, TRACKIO_DIR=str(tmp_path / "kept"))
    found = json.loads(python(READ_TRACKIO, cwd=tmp_path).splitlines()[-1])
    assert set(found) == {"dpo-seed0", "dpo-seed1", "mine-result"}
    config, logs = found["dpo-seed1"]
    assert config["_Group"] == "mine-abc"
    assert {"dpo", "seed1"} <= set(config["tags"])
    assert config["beta"] == 0.1
    assert [row["train/loss"] for row in logs if "train/loss" in row]
    assert any(row.get("dpo/gold_reward") == 0.5 for row in found["mine-result"][1])


def test_mlflow_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    place = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracked("mlflow", tmp_path, monkeypatch, MLFLOW_TRACKING_URI=place)
    found = json.loads(python(READ_MLFLOW, cwd=tmp_path).splitlines()[-1])
    assert set(found) == {"dpo-seed0", "dpo-seed1", "mine-result"}
    assert {status for status, *_ in found.values()} == {"FINISHED"}
    assert found["dpo-seed1"][1]["group"] == "mine-abc"
    assert found["dpo-seed1"][2]["loss"] > 0
    assert found["mine-result"][2] == {"dpo/gold_reward": 0.5}
    assert {"result.md", "report.html"} <= set(found["mine-result"][3])
