"""Files that are written whole or not at all, and read with every line named that cannot be."""

from __future__ import annotations

import errno
import json
import os

import pytest

from preflab.disk.files import read_jsonl, write_json, write_jsonl, write_result, write_text
from preflab.disk.stages import content_hash
from preflab.errors import UserError


def test_content_hash_depends_on_content_alone():
    assert content_hash({"a": 1, "b": [2.5, None]}) == content_hash({"b": [2.5, None], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert len(content_hash({})) == 12


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(path, {"a": bad})
    assert json.loads(path.read_text()) == {"a": 1}

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}, "the old content stays"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"], "what was begun takes no space"


def test_a_result_is_written_whatever_is_in_it(tmp_path, caplog):
    write_result(tmp_path / "comparison.json", {"kl": {"mean": float("inf")}, "steps": 3})
    assert json.loads((tmp_path / "comparison.json").read_text()) == {"kl": {"mean": None}, "steps": 3}
    assert "kl.mean is inf" in caplog.text


def test_a_place_that_cannot_be_written_is_a_users_error(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "absent" / "x.json"):
        with pytest.raises(UserError, match="cannot be written"):
            write_json(path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a"', "[1]\n", "[" * 10**5, "\udcff"])
def test_lines_that_are_no_rows_are_named(tmp_path, text):
    (tmp_path / "rows.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"rows\.jsonl"):
        read_jsonl(tmp_path / "rows.jsonl")


def test_writing_again_replaces(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "one")
    write_text(path, "zwei é")
    assert path.read_text(encoding="utf-8") == "zwei é"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_json_lines_round_trip(tmp_path):
    rows = [{"text": "a\nb é \u2028"}, {"half a character": "\ud83d"}, {}, {"n": 1.5}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
