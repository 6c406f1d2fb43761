"""A folder put on the hub, only where somebody asks for it; who may do so is seen before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preflab.errors import UserError, crash
from preflab.errors.terminal import one_line, shown
from preflab.settings.fields import option

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
TRANSPORT = ("httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub", "hf_xet")
"""Packages whose own errors, of no common kind, say that the hub was not reached."""

LOGIN = "log in (hf auth login), or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class PushConfig:
    """Whether what is made is put on the hub."""

    push_to_hub: str | None = option(
        None,
        "put it on the Hugging Face hub as OWNER/NAME, private, with the login that its library finds; none: nowhere",
    )
    push_public: bool = option(False, "let everybody see it there")

    def __post_init__(self) -> None:
        name = self.push_to_hub
        if name is None and self.push_public:
            raise ValueError("push_public is of what push_to_hub names; give that too")
        if name is not None and (not NAME.fullmatch(name) or ".." in name or "--" in name or name[-1] in ".-"):
            raise ValueError(f"push_to_hub {shown(name)} is no name of the hub: it has the form OWNER/NAME")


def check_destination(config: PushConfig) -> None:
    """See that the hub is there, knows who asks, lets them write to the owner's name, and shows nothing unasked.

    Raises:
        UserError: if not, with what to do.
    """
    if config.push_to_hub is None:
        return
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise UserError("--push-to-hub: HF_HUB_OFFLINE is set, which forbids it; unset that, or leave the option out")
    api, owner = _api(), config.push_to_hub.partition("/")[0]
    with _answered("the hub does not say who you are"):
        me = api.whoami()
    owners = [str(me.get("name")), *(str(one.get("name")) for one in me.get("orgs") or ())]
    if owner.lower() not in map(str.lower, owners):
        raise UserError(f"--push-to-hub {config.push_to_hub}: you are {', '.join(owners)} there, not {owner}")
    if ((me.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise UserError(f"--push-to-hub {config.push_to_hub}: your token may read only; {LOGIN}")
    try:
        with _answered(f"{config.push_to_hub} cannot be looked at"):
            there = api.repo_info(config.push_to_hub, repo_type="model")
    except RepositoryNotFoundError:
        return
    if not there.private and not config.push_public:
        raise UserError(
            f"--push-to-hub {config.push_to_hub}: it is there already, and everybody sees it; add --push-public true, "
            "or name another"
        )


def push(folder: Path, config: PushConfig) -> str | None:
    """Put a folder on the hub, private unless asked otherwise.

    Returns:
        Its address; None where nothing was to be put there.

    Raises:
        UserError: if the hub refuses; the folder stays.
    """
    if config.push_to_hub is None:
        return None
    api, name = _api(), config.push_to_hub
    with _answered(f"{folder} could not be put there as {name}"):
        address = api.create_repo(name, repo_type="model", private=not config.push_public, exist_ok=True)
        api.upload_folder(repo_id=name, repo_type="model", folder_path=str(folder), commit_message="Upload by preflab")
    return str(address)


def _api() -> Any:
    import huggingface_hub

    if token := huggingface_hub.get_token():
        crash.keep_secret(token)
    return huggingface_hub.HfApi()


@contextmanager
def _answered(what: str) -> Iterator[None]:
    """Answer what the hub, or the way there, refuses in one line; that a repository is not there goes its way."""
    from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError

    try:
        yield
    except RepositoryNotFoundError:
        raise
    except LocalTokenNotFoundError:
        raise UserError(f"--push-to-hub: no login is found here; {LOGIN}") from None
    except (OSError, ValueError, RuntimeError) as error:  # what the library and its transport raise
        reason = crash.without_secrets(one_line(error, 300))
        raise UserError(f"--push-to-hub: {what}: {reason}; {LOGIN}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in TRANSPORT:
            raise
        raise UserError(f"--push-to-hub: {what}: {crash.without_secrets(crash.described(error))}") from None
