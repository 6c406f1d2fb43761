"""Pieces built by jobs that submitit submits, here to its local executor."""

from functools import partial

import pytest
import toy

from preflab.disk.stages import Run
from preflab.errors import UserError
from preflab.execution.executing import execute
from preflab.execution.on_slurm import OnSlurm, parameters_of

pytest.importorskip("submitit", reason="submitit is not installed: pip install 'preflab[slurm]'")


@pytest.fixture
def run(tmp_path):
    opened = Run(tmp_path / "run")
    yield opened
    opened.close()


def build(run, folder, *names):
    crew = OnSlurm(partial(toy.joined, folder), {"cluster": "local", "timeout_min": 5}, 3, folder / "slurm")
    execute(run, toy.only(toy.graph(run, folder), *names), crew)
    return {name: run.stage(name, {}, toy.forbidden).record for name in names}


def test_each_piece_is_a_job_and_one_that_dies_goes_on_in_another(run, tmp_path, caplog):
    (tmp_path / "deaths").write_text("2")
    found = build(run, tmp_path, "a", "b", "c", "dies", "after")
    assert found["c"]["of"] == [found["a"]["pid"], found["b"]["pid"]]
    assert len({record["pid"] for record in found.values()}) == 5
    assert "the process of dies was killed, by the system if memory ran out; it is begun again" in caplog.text
    first = int((run.stage("dies", {}, toy.forbidden).folder / "checkpoint-1/weights").read_text())
    assert first != found["dies"]["pid"], "its checkpoint is that of the first attempt"


def test_a_mistake_ends_all_at_once(run, tmp_path):
    with pytest.raises(UserError, match="row 7"):
        build(run, tmp_path, "waits", "fails")


def test_parameters_are_read_and_what_slurm_or_submitit_refuses_is_said(tmp_path):
    assert parameters_of("slurm_partition=gpu, gpus_per_node=1") == {"slurm_partition": "gpu", "gpus_per_node": 1}
    with pytest.raises(UserError, match="'gpu' must have the form name=value"):
        parameters_of("gpu")
    with pytest.raises(UserError, match=r"--slurm: .*partitoin"):
        OnSlurm(partial(toy.joined, tmp_path), {"cluster": "local", "partitoin": "gpu"}, 1, tmp_path)
    with pytest.raises(UserError, match="--slurm: "):
        OnSlurm(partial(toy.joined, tmp_path), {"slurm_partition": "gpu"}, 1, tmp_path)
