"""The command that made a run: a script's words, and nothing where a kernel's would stand in for a notebook's."""

from __future__ import annotations

import sys

import pytest

from preflab.versions import command


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["recipes/compare.py", "--seeds", "0"], ("compare.py", "--seeds", "0")),
        (["lib/ipykernel_launcher.py", "-f", "/home/me/kernel.json"], ()),
        ([""], ()),
        (["-c"], ()),
    ],
)
def test_a_command_is_a_scripts(monkeypatch, words, kept):
    monkeypatch.setattr(sys, "argv", words)
    assert command() == kept
