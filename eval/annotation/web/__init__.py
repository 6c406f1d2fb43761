"""The annotator as a page: served by this machine to any number of browsers, each its own annotator.

Raises:
    UserError: on import, where the libraries that serve it are not installed.
"""

from __future__ import annotations

from preflab.errors import UserError

try:
    from preflab.eval.annotation.web.server import serve
except ModuleNotFoundError as error:
    absent = (error.name or "").partition(".")[0]
    if absent not in ("starlette", "uvicorn"):
        raise
    raise UserError(
        f"--web serves a page by Starlette and Uvicorn, and {absent} is not installed: pip install 'preflab[web]'"
    ) from None

__all__ = ["serve"]
