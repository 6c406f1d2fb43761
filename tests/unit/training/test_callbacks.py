"""What a trainer shows by itself is taken away, a notebook's table too."""

from __future__ import annotations

from transformers import TrainerCallback

from preflab.training import callbacks


class Table(TrainerCallback):
    """Stands for what transformers shows in a notebook."""


class Trainer:
    def __init__(self):
        self.kept = {callbacks.PrinterCallback, callbacks.ProgressCallback, Table}

    def remove_callback(self, kind):
        self.kept.discard(kind)

    def add_callback(self, added):
        self.kept.add(type(added))


def test_our_progress_is_the_only_one(monkeypatch, tmp_path):
    monkeypatch.setattr(callbacks, "DEFAULT_PROGRESS_CALLBACK", Table)
    trainer = Trainer()
    callbacks.watch(trainer, "dpo-seed0", tmp_path)
    shown = (callbacks.ShowProgress, callbacks.MetricsFile, callbacks.StopAtNaN, callbacks.SealCheckpoints)
    assert trainer.kept == set(shown)
