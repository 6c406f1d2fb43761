"""One device to a process: GPUs that are not chosen are hidden, and what is not there is refused."""

from __future__ import annotations

import os

import pytest
import torch

from preflab.errors import UserError
from preflab.eval.pipeline.session import Session
from preflab.eval.pipeline.workers import WORKERS, check_workers
from preflab.experiment.settings import RunConfig
from preflab.model import devices
from preflab.model.devices import VISIBLE, check_device, choose_device, default_device
from preflab.settings.fields import build


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(devices, "_chosen", ["auto"])
    monkeypatch.setattr(devices, "_before", [])
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps"])
def test_devices_are_named_as_torch_names_them(name):
    assert RunConfig(device=name).device == name


@pytest.mark.parametrize("name", ["gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:0,1", "cuda:１", "tpu", "cpu:0"])
def test_other_names_are_refused_with_the_choices(name):
    with pytest.raises(UserError, match=r"device is .*choose one of auto, cpu, cuda"):
        build(RunConfig, {"device": name}, "config")


@pytest.mark.parametrize(
    ("shown", "name", "left"),
    [
        (None, "auto", None),
        (None, "cuda", None),
        (None, "cpu", ""),
        (None, "cuda:1", "1"),
        ("4,5", "cuda:1", "5"),
        ("GPU-a, GPU-b", "cuda:0", "GPU-a"),
        ("4,5", "cpu", ""),
        ("4,5", "cuda", "4,5"),
    ],
)
def test_gpus_that_are_not_chosen_are_hidden_until_another_choice(shown, name, left, monkeypatch):
    if shown is not None:
        monkeypatch.setenv(VISIBLE, shown)
    choose_device(name)
    assert os.environ.get(VISIBLE) == left
    choose_device(name)
    assert os.environ.get(VISIBLE) == left, "once more changes nothing"
    choose_device("auto")
    assert os.environ.get(VISIBLE) == shown


def test_a_gpu_that_is_not_shown_cannot_be_chosen(monkeypatch):
    monkeypatch.setenv(VISIBLE, "7")
    with pytest.raises(UserError, match=r"--device cuda:1: CUDA_VISIBLE_DEVICES shows 1 GPUs \(7\)"):
        choose_device("cuda:1")
    assert os.environ[VISIBLE] == "7"


def test_a_process_that_computes_on_cuda_already_stays_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(UserError, match="computes on CUDA already"):
        choose_device("cpu")
    choose_device("cuda")


def test_processes_of_a_launcher_have_a_gpu_each(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="give cuda"):
        choose_device("cuda:1")
    choose_device("cpu")


@pytest.mark.parametrize("builders", [{"ray": "local"}, {"slurm": "cluster=local"}])
def test_a_gpu_of_this_machine_is_none_of_a_cluster(builders):
    with pytest.raises(UserError, match="--device cuda:1 is a GPU of this machine; give cuda, or cpu"):
        check_workers(Session({"device": "cuda:1", **builders}, configs=WORKERS))


@pytest.mark.parametrize("there", [False, True])
def test_what_torch_does_not_find_is_refused(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("auto", "cpu"):
        check_device(name)
    with pytest.raises(UserError, match="--device mps: torch finds no such device here; there is cpu"):
        check_device("mps")
    if there:
        check_device("cuda:1")
    else:
        with pytest.raises(UserError, match="--device cuda:1: torch finds no such device here; there is cpu"):
            check_device("cuda:1")


def test_models_go_where_was_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device() == "cuda"
    for name, device in {"cpu": "cpu", "mps": "mps", "cuda:1": "cuda", "cuda": "cuda", "auto": "cuda"}.items():
        choose_device(name)
        assert default_device() == device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device() == "cpu"
