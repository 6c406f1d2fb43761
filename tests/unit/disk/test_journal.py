"""Rows taken back from the midst of a journal: the others stay, whatever happens."""

from __future__ import annotations

import os

import pytest

from preflab.disk.journal import Journal
from preflab.errors import UserError

CONTENT = b'{"a": 1}\r\n\n  \n{ "b":2 }\n{"c": 3}\n\n'


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize(
    ("at", "left"),
    [
        (0, b'\n  \n{ "b":2 }\n{"c": 3}\n\n'),
        (1, b'{"a": 1}\r\n\n  \n{"c": 3}\n\n'),
        (2, b'{"a": 1}\r\n\n  \n{ "b":2 }\n'),
        (-1, b'{"a": 1}\r\n\n  \n{ "b":2 }\n'),
    ],
)
def test_the_other_rows_stay_to_the_byte(at, left, path):
    path.chmod(0o640)
    journal = Journal(path)
    rows = list(journal.rows)
    assert journal.remove(at) == rows.pop(at)
    assert (path.read_bytes(), journal.rows) == (left, rows)
    journal.append({"d": 4})
    journal.close()
    assert path.read_bytes() == left + b'{"d": 4}\n'
    assert Journal(path).rows == [*rows, {"d": 4}]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(path.parent.iterdir()) == [path]


def test_the_file_that_takes_the_others_place_is_locked_too(path):
    journal = Journal(path)
    journal.remove(0)
    with pytest.raises(UserError, match="is being written by another process"):
        Journal(path)
    journal.close()
    Journal(path).close()


def test_a_link_goes_on_leading_to_the_file(path, tmp_path):
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    journal = Journal(link)
    journal.remove(0)
    journal.append({"d": 4})
    journal.close()
    assert link.is_symlink()
    assert path.read_bytes().endswith(b'{"d": 4}\n')


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_disk_that_fails_changes_nothing(failing, path, monkeypatch):
    journal = Journal(path)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    owner = os if failing == "fsync" else type(path)
    monkeypatch.setattr(owner, failing, fail)
    with pytest.raises(UserError, match="cannot be written"):
        journal.remove(0)
    monkeypatch.undo()
    assert path.read_bytes() == CONTENT
    assert len(journal.rows) == 3
    assert list(path.parent.iterdir()) == [path]
    journal.append({"d": 4})
    assert path.read_bytes() == CONTENT + b'{"d": 4}\n'
