"""Code that a person brings along: held to its contract, and answered for by file and line when it fails."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from preflab.errors import PluginError, UserError, crash
from preflab.errors.answering import INTERRUPTS, is_out_of_memory
from preflab.errors.terminal import shown


@contextmanager
def blamed(what: str, files: Collection[str] = (), *, end: Callable[[], str] = str) -> Iterator[None]:
    """Turn whatever a person's own code raises, an exit included, into an error that names file and line.

    Ctrl-C, an end of memory and mistakes that are answered already go their way.

    Args:
        what: how the message begins.
        files: where that code is written, if known: the place named is in one of them where it can be.
        end: gives what the message ends with.

    Raises:
        PluginError: for anything else.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if type(error) in INTERRUPTS or (is_out_of_memory(error) and not _raised_in(error, files)):
            raise
        at = crash.at(error, files) or crash.at(error)
        if at is None:  # there is no such module: none of its code ever ran
            raise UserError(f"{what} {crash.described(error)}{end()}") from error
        raise PluginError(f"{what} {crash.described(error)} ({at}){end()}") from error


def _raised_in(error: BaseException, files: Collection[str]) -> bool:
    """Whether the innermost frame of an exception is in some files."""
    return bool(files) and crash.at(error) == crash.at(error, files)


@contextmanager
def answering(algorithm: Any, part: str) -> Iterator[None]:
    """Let a method that a person brought along answer for what it raises in one of its parts.

    In a method of our own the same is a fault of ours, and goes its way.
    """
    cls: Any = type(algorithm)
    brought = brought_files(cls)
    with blamed(f"{cls.__name__}.{part} raised", brought) if brought else nullcontext():
        yield


@cache
def brought_files(cls: type) -> frozenset[str]:
    """Return the files outside this project that a class and its bases are written in."""
    ours = f"{Path(__file__).parents[1]}{os.sep}"
    modules = [sys.modules.get(base.__module__) for base in cls.__mro__]
    files = {getattr(module, "__file__", None) for module in modules}
    # A notebook's module has no file; each of its cells goes by a name of its own.
    functions = (part for base in cls.__mro__ if base.__module__ == "__main__" for part in vars(base).values())
    files |= {name for function in functions for name in written_in(function)}
    return frozenset(file for file in files if file and not file.startswith((ours, sys.base_prefix)))


def written_in(function: Any) -> frozenset[str]:
    """Return the file that a function is written in, where Python can tell."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return frozenset({code.co_filename}) if code is not None else frozenset()


def place_of(thing: Any) -> str:
    """Return ``" (file, line n)"`` of a class or function, or ``""`` where Python cannot tell."""
    try:
        return f" ({inspect.getsourcefile(thing)}, line {inspect.getsourcelines(thing)[1]})"
    except (OSError, TypeError):
        return ""


def arguments_of(function: Any, *given: Any) -> str | None:
    """Return what is wrong with a function that is to be called with `given`; None if nothing is."""
    if not callable(function):
        return f"is no function but {shown(function)}"
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return "is async, or yields; it must return its value"
    try:
        inspect.signature(function).bind(*given)
    except TypeError:
        return f"has the arguments {inspect.signature(function)}"
    except ValueError:  # some built-in functions do not tell their arguments; calling them will
        pass
    return None


def file_exists(path: Path) -> bool:
    """Whether a path names a file; False for what no file system takes as a name."""
    try:
        return path.expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False
