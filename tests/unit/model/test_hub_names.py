"""What a base is called on the hub: by its name or its place among downloads, and by nothing that may be another's."""

from __future__ import annotations

import json

import pytest

from preflab.model.hub_names import HubModel, called_alike, hub_model, public_name, terms_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """Return a snapshot as the hub's library keeps it, found by its name too."""
    folder = tmp_path / "models--owner--Base" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: its-own\nlicense_link: 7\n---\n# Base\n")

    def kept(name, file):
        return str(folder / file) if name == "owner/Base" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", kept)
    return folder


def test_a_hub_name_is_itself_with_the_commit_that_is_kept_here(downloaded):
    assert hub_model("owner/Base") == HubModel("owner/Base", COMMIT)
    assert hub_model("owner/elsewhere") == HubModel("owner/elsewhere", None)


def test_a_snapshot_is_known_by_its_place(downloaded):
    assert hub_model(str(downloaded)) == HubModel("owner/Base", COMMIT)
    assert public_name(str(downloaded)) == "owner/Base"
    assert called_alike("owner/base", str(downloaded))
    assert called_alike("elsewhere/BASE", "owner/Base")
    assert not called_alike("owner/other", str(downloaded))


def test_what_a_config_was_made_from_is_not_what_it_is(tmp_path):
    """A fine-tuned copy names its parent there: an adapter opened by that name would lie on other weights."""
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "owner/Parent"}))
    assert hub_model(str(tmp_path)) is None
    assert public_name(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize("name", ["a b", "a/b/c", "-", "", "owner/na\nme", "../up"])
def test_other_texts_are_no_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_model(name) is None


def test_terms_are_those_of_the_bases_own_card(downloaded, tmp_path):
    expected = {"license": "other", "license_name": "its-own"}
    assert terms_of("owner/Base") == terms_of(str(downloaded)) == expected
    assert terms_of(str(tmp_path)) == terms_of("owner/elsewhere") == {}


@pytest.mark.parametrize(
    "text", ["no front", "---\nlicense: [a\n---\n", "---\n- 1\n---\n", "---\nlicense: 3\n---\n", "\xff"]
)
def test_a_card_that_says_nothing_readable_gives_no_terms(text, tmp_path):
    (tmp_path / "README.md").write_bytes(text.encode("latin-1"))
    assert terms_of(str(tmp_path)) == {}
