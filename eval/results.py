"""Results on disk: a figure that JSON cannot hold never costs the training it came from."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from preflab.errors import UserError
from preflab.runs import write_json

logger = logging.getLogger(__name__)

NAMED = 5  # of the figures that are left out; the others are counted


def write_result(path: Path, content: Any) -> Any:
    """Write a result as JSON, with null for what is no finite number; say which figures that were.

    Returns:
        The content as it is written.

    Raises:
        UserError: if the file cannot be written.
    """
    lost: list[str] = []
    content = _writable(content, "", lost)
    if lost:
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        logger.warning("%s: written as null, being no finite numbers: %s%s", path, ", ".join(lost[:NAMED]), more)
    try:
        write_json(path, content)
    except IsADirectoryError:
        raise UserError(
            f"{path} is a folder, and a result goes there; remove it and run the same command again"
        ) from None
    return content


def _writable(value: Any, name: str, lost: list[str]) -> Any:
    """Return a value as JSON knows it; names of figures that are no numbers go into `lost`."""
    if isinstance(value, Mapping):
        return {str(key): _writable(part, f"{name}.{key}".lstrip("."), lost) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(part, f"{name}[{at}]", lost) for at, part in enumerate(value)]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):  # NumPy's too
        return int(value)
    if isinstance(value, Real):
        if math.isfinite(value):
            return float(value)
        lost.append(name)
        return None
    return str(value)
