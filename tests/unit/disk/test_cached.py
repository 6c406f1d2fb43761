"""What worlds keep between runs: whole or absent, verified when it is used again."""

from __future__ import annotations

import os
import shutil

import pytest

from preflab.disk.cached import cached_folder
from preflab.errors import UserError


class Maker:
    """Fills a folder with two files, and counts."""

    def __init__(self):
        self.made = 0

    def __call__(self, folder):
        self.made += 1
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights" * 1000)
        (folder / "config.json").write_text("{}")


def flip(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": lambda f: flip(f / "model.safetensors"),
    "cut": lambda f: os.truncate(f / "model.safetensors", 9),
    "deleted": lambda f: (f / "config.json").unlink(),
    "a file too many": lambda f: (f / "generation_config.json").write_text("{}"),
    "digests gone": lambda f: (f / "SHA256SUMS").unlink(),
    "a file": lambda f: (shutil.rmtree(f), f.write_text("")),
    "a link to nowhere": lambda f: (shutil.rmtree(f), f.symlink_to("nowhere")),
    "emptied": lambda f: (shutil.rmtree(f), f.mkdir()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_said_and_made_again(tmp_path, caplog, name):
    make, folder = Maker(), tmp_path / "cache" / "base-1"
    assert cached_folder(folder, make) == cached_folder(folder, make) == folder
    assert make.made == 1
    DAMAGES[name](folder)
    assert cached_folder(folder, make) == folder
    assert make.made == 2
    assert (folder / "model.safetensors").read_bytes() == b"weights" * 1000
    assert [path.name for path in folder.iterdir() if path.name.startswith("gen")] == []
    (said,) = (record.getMessage() for record in caplog.records)
    assert str(folder) in said
    assert "made again" in said
    assert cached_folder(folder, make) == folder
    assert make.made == 2


def test_a_cache_that_cannot_be_made_is_a_users_error(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written.*--cache"):
        cached_folder(tmp_path / "cache" / "base", Maker())
    (tmp_path / ".base.lock").mkdir()
    with pytest.raises(UserError, match=r"cannot be written.*--cache"):
        cached_folder(tmp_path / "base", Maker())


def test_what_a_killed_build_left_is_no_part_of_the_next(tmp_path):
    (tmp_path / ".base.unfinished").mkdir()
    (tmp_path / ".base.unfinished" / "model.safetensors").write_text("half")
    assert sorted(p.name for p in cached_folder(tmp_path / "base", Maker()).iterdir()) == [
        "SHA256SUMS",
        "config.json",
        "model.safetensors",
    ]
