"""Folders put on the hub: only if asked, privately, by those who may; held against a hub that is none."""

from __future__ import annotations

from types import SimpleNamespace

import httpx2 as httpx
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError

from preflab.errors import UserError, crash
from preflab.model.pushing import PushConfig, check_destination, push
from preflab.settings.fields import build

TOKEN = "not-a-real-secret-value"


class Hub:
    """Stands for `HfApi`: knows one person, and what was put there."""

    def __init__(self):
        self.there, self.calls, self.role, self.trouble = {}, [], "write", None

    def whoami(self):
        if self.trouble:
            raise self.trouble
        return {"name": "me", "orgs": [{"name": "lab"}], "auth": {"accessToken": {"role": self.role}}}

    def repo_info(self, name, repo_type):
        if name not in self.there:
            answer = httpx.Response(404, request=httpx.Request("GET", "http://hub"))
            raise RepositoryNotFoundError("404", response=answer)
        return SimpleNamespace(private=self.there[name])

    def create_repo(self, name, *, repo_type, private, exist_ok):
        if self.trouble:
            raise self.trouble
        self.there.setdefault(name, private)
        return f"https://hub/{name}"

    def upload_folder(self, **given):
        self.calls.append(given)


@pytest.fixture
def hub(monkeypatch):
    found = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: found)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(crash, "_secrets", set())
    return found


def test_nothing_is_asked_or_sent_unless_it_is_named(hub, tmp_path):
    hub.trouble = AssertionError("asked")
    check_destination(PushConfig())
    assert push(tmp_path, PushConfig()) is None
    assert hub.calls == []


@pytest.mark.parametrize(("public", "private"), [(False, True), (True, False)])
def test_what_is_pushed_is_private_unless_asked_otherwise(public, private, hub, tmp_path):
    config = PushConfig(push_to_hub="lab/mine", push_public=public)
    check_destination(config)
    assert push(tmp_path, config) == "https://hub/lab/mine"
    assert hub.there == {"lab/mine": private}
    (call,) = hub.calls
    assert (call["repo_id"], call["folder_path"]) == ("lab/mine", str(tmp_path))
    assert TOKEN not in str(call)


def test_what_everybody_sees_is_not_added_to_unasked(hub):
    hub.there["me/shown"] = False
    with pytest.raises(UserError, match="everybody sees it; add --push-public true"):
        check_destination(PushConfig(push_to_hub="me/shown"))
    check_destination(PushConfig(push_to_hub="me/shown", push_public=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trouble": LocalTokenNotFoundError("none")}, "no login is found here; log in"),
        ({"trouble": httpx.ConnectError("no way there")}, "the hub does not say who you are.*no way there"),
        ({"trouble": OSError(f"401 for {TOKEN}")}, r"does not say who you are: 401 for \*\*\*"),
        ({"role": "read"}, "your token may read only"),
    ],
)
def test_who_may_not_push_hears_so_before(change, message, hub):
    vars(hub).update(change)
    with pytest.raises(UserError, match=message) as caught:
        check_destination(PushConfig(push_to_hub="me/mine"))
    assert TOKEN not in str(caught.value)


def test_another_owners_name_is_refused(hub):
    with pytest.raises(UserError, match="you are me, lab there, not them"):
        check_destination(PushConfig(push_to_hub="them/mine"))


def test_offline_is_offline(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        check_destination(PushConfig(push_to_hub="me/mine"))


def test_a_push_that_fails_says_where_the_folder_is(hub, tmp_path):
    hub.trouble = OSError("503")
    with pytest.raises(UserError, match=f"{tmp_path} could not be put there as me/mine: 503"):
        push(tmp_path, PushConfig(push_to_hub="me/mine"))


@pytest.mark.parametrize(
    "name", ["mine", "a/b/c", "me/", "/x", "me/a b", "me/..", "me/a--b", "me/x.", "https://hub/me/x"]
)
def test_what_no_hub_takes_for_a_name_is_refused_with_the_settings(name):
    with pytest.raises(UserError, match="OWNER/NAME"):
        build(PushConfig, {"push_to_hub": name}, "config")


def test_public_without_a_name_is_refused():
    with pytest.raises(UserError, match="push_public is of what push_to_hub names"):
        build(PushConfig, {"push_public": True}, "config")
