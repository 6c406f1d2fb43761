"""Packages that stand for trackers: they note what they are told, and send nothing anywhere."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace


def module(monkeypatch, name, **members):
    """Put a package in the place of one that may not be installed."""
    found = ModuleType(name)
    found.__spec__, found.__version__ = ModuleSpec(name, None), "1000.0"
    vars(found).update(members)
    monkeypatch.setitem(sys.modules, name, found)
    return found


class NotedRun:
    """A run of W&B."""

    def __init__(self, about):
        self.about, self.logged, self.summary, self.ended = about, [], {}, None
        self.config, self.id, self.name, self.url = {}, "id", about.get("name"), None

    def log(self, what):
        self.logged.append(what)

    def _label(self, **_):
        pass

    def finish(self, exit_code=0):
        self.ended = exit_code


class Config(dict):
    """What transformers writes settings into."""

    def update(self, other, allow_val_change=False):
        super().update(other)


def wandb(monkeypatch):
    """Return a package in the place of wandb; ``runs`` has what was begun."""
    runs = []
    found = module(monkeypatch, "wandb", run=None, runs=runs, config=Config(), define_metric=None)
    for name in ("wandb.sdk", "wandb.sdk.lib"):
        module(monkeypatch, name)
    module(monkeypatch, "wandb.sdk.lib.config_util", ConfigError=ValueError)

    def init(**about):
        assert found.run is None or about.get("reinit") == "create_new", "a run of another stage is still open"
        runs.append(NotedRun(about))
        if about.get("reinit") != "create_new":
            found.run = runs[-1]
        return runs[-1]

    def finish(exit_code=0):
        found.run.finish(exit_code)
        found.run = None

    found.init, found.finish = init, finish
    found.log = lambda what: found.run.log(what)
    found.Settings = lambda **given: SimpleNamespace(**given)
    found.Table = lambda columns, data: (columns, data)
    found.Html = lambda text: text
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: True)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return found


def trackio(monkeypatch):
    """Return a package in the place of trackio; ``runs`` has what was begun."""
    runs, current, space = [], ContextVar("run", default=None), ContextVar("space", default=None)
    found = module(monkeypatch, "trackio", runs=runs, config=Config())
    found.context_vars = SimpleNamespace(current_run=current, current_space_id=space, current_project=space)

    def init(**about):
        print("* Created new run")
        runs.append(NotedRun(about))
        current.set(runs[-1])
        return runs[-1]

    def finish():
        current.get().finish()
        current.set(None)

    found.init, found.finish, found.log = init, finish, lambda what: current.get().log(what)
    found.Table, found.Markdown = (lambda data: data), (lambda text: text)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_trackio_available", lambda: True)
    return found


def mlflow(monkeypatch):
    """Return a package in the place of mlflow; ``runs`` has what was begun."""
    runs, active = [], []
    found = module(monkeypatch, "mlflow", runs=runs)
    found.utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100))

    def start_run(run_name, tags=None, nested=False):
        assert not active, "a run of another stage is still open"
        runs.append(NotedRun({"name": run_name, "tags": tags}))
        active.append(runs[-1])

    def end_run(status="FINISHED"):
        active.pop().ended = status

    found.start_run, found.end_run = start_run, end_run
    found.active_run = lambda: active[0] if active else None
    found.is_tracking_uri_set = lambda: True
    found.get_tracking_uri = lambda: "here"
    found.set_experiment = lambda name: None
    found.log_params = lambda params, synchronous=True: active[0].summary.update(params)
    found.log_metrics = lambda metrics, step=None, synchronous=True: active[0].log(metrics)
    found.log_text = lambda text, name: active[0].log({name: text})
    found.log_artifact = lambda path: active[0].log({"artifact": path})
    monkeypatch.setattr("transformers.integrations.integration_utils.is_mlflow_available", lambda: True)
    return found
