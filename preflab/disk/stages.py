"""A run on disk: stages named by what they were made of, finished or absent, never half-done, verified when reused."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, NamedTuple

from preflab import ranks
from preflab.disk.attempts import go_on
from preflab.disk.digests import digest
from preflab.disk.files import (
    disk_space,
    json_ready,
    read_object,
    remove,
    sync,
    write_json,
)
from preflab.disk.seals import SUMS, damage, files, seal
from preflab.errors import UserError
from preflab.progress import reused, stage
from preflab.versions import versions

logger = logging.getLogger(__name__)

RECORD = "stage.json"
SECONDS = "seconds.jsonl"
"""In a run folder: how long each stage took, of the attempt that finished it; beside the stages, which are the same to
the byte whenever they are built."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What network storage answers that has none."""

PATIENCE = 2.0
"""Seconds until a folder counts as in use: what a killed run had forked off is a moment behind it."""


class Stage(NamedTuple):
    """A finished stage.

    Attributes:
        name: such as ``sft`` or ``dpo-seed0``.
        key: hash of everything that decided its result.
        folder: what it made.
        record: what it reported.
        reused: whether it was finished before this call.
    """

    name: str
    key: str
    folder: Path
    record: dict[str, Any]
    reused: bool


class Run:
    """A folder of stages. Only one process, and what it forks off, may write to it at a time.

    Of the processes of a launcher that is the first; the others hold a `JoinedRun` (see `open_run`).

    Args:
        folder: made if it does not exist.

    Attributes:
        built: the stages that this run has built since it was opened, by their folders.
        known: these, and those that it has found.

    Raises:
        UserError: if another process holds the folder, or it cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.stages = folder, folder / "stages"
        try:
            self.stages.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (folder / ".lock").open("w")
            self._building: IO[str] = (folder / ".building").open("w")
        except OSError as error:
            raise UserError(f"run folder {folder} cannot be written: {error}") from None
        self._verified: dict[Path, Any] = {}
        self.built, self.known = set[Path](), set[Path]()
        until = time.monotonic() + PATIENCE
        while not self._locked():
            if time.monotonic() > until:
                raise UserError(f"run folder {folder} is in use by another process; wait, or choose --output")
            time.sleep(PATIENCE / 40)

    def _locked(self) -> bool:
        """Whether the folder is this process's now; the kernel frees it however a process ends, SIGKILL included."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                return False
            logger.warning("%s: its storage has no locks: see that one command at a time writes there", self.folder)
        return True

    def close(self) -> None:
        """Let others have the folder."""
        self._lock.close()
        self._building.close()

    def stage(self, name: str, inputs: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]) -> Stage:
        """Return a stage, building it unless it is finished.

        `build` fills a working folder and returns a record. The folder takes its final name in one rename at
        the end, once all in it is on the disk, so that a kill at any moment leaves a stage finished or absent.
        What an interrupted `build` left (checkpoints, say) is there when it is called again.

        A finished stage is verified against the digests of its files, once in the life of a run unless one of
        them is touched. A damaged one is said, moved to the run's ``damaged`` folder and built again. Stages
        that stand on it are kept: they were made from what it held before the damage, and building again
        gives the same.

        Args:
            name: for people to read; letters, digits, ``.``, ``_`` and ``-``.
            inputs: everything that decides the result, JSON-ready.
            build: does the work. Of its record, what JSON cannot hold is said and left out, never the work.

        Raises:
            UserError: if the disk is full, or something lies in the way that cannot be moved.
        """
        inputs, key = identified(name, inputs)
        final = self.stages / f"{name}-{key}"
        kept = ranks.from_first(self._finished(final, inputs))
        if kept is not None:
            if final not in self.known:
                reused(name)
            self.known.add(final)
            return Stage(name, key, final, kept, True)
        with self._alone(key), disk_space(self.folder):
            kept = self._finished(final, inputs)  # by another process forked off, while this one waited
            if kept is not None:
                self.known.add(final)
                return Stage(name, key, final, kept, True)
            made = self._made(name, key, inputs, build)
            return made._replace(record=ranks.from_first(made.record))

    def _made(
        self, name: str, key: str, inputs: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]
    ) -> Stage:
        """Build a stage in a working folder, and give it its name."""
        final = self.stages / f"{name}-{key}"
        working, began = self._working(final), time.monotonic()
        with stage(name):
            go_on(working)
            self._workplace(working)
            record, changed = json_ready(dict(_built(build, working)))
            if changed:
                logger.warning(
                    "%s: JSON cannot hold all of its record: %s; written as null or text", name, "; ".join(changed)
                )
            write_json(working / RECORD, {"inputs": inputs, "record": record})
            seal(working)
            self._named(working, final)
            sync(self.stages)
        with (self.folder / SECONDS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": final.name, "seconds": time.monotonic() - began}) + "\n")
        self._verified[final] = _signature(final)
        self.built.add(final)
        self.known.add(final)
        return Stage(name, key, final, record, False)

    def _working(self, final: Path) -> Path:
        """Return the folder that a stage is built in."""
        return final.with_name(f".{final.name}.partial")

    def _named(self, working: Path, final: Path) -> None:
        """Give the folder that a stage was built in its name."""
        working.replace(final)

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Wait until no other process builds the stage of a key; of those forked off, two may need one stage."""
        place = int(key, 16)  # a byte of its own: these locks are of ranges and of processes, and need no file each
        try:
            fcntl.lockf(self._building, fcntl.LOCK_EX, 1, place)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        try:
            yield
        finally:
            with suppress(OSError):  # as above
                fcntl.lockf(self._building, fcntl.LOCK_UN, 1, place)

    def _finished(self, final: Path, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the record of a stage that is whole; say so and move it away where it is not."""
        if not os.path.lexists(final):
            return None
        untouched = final in self._verified and self._verified[final] == _signature(final)
        trouble, record = None if untouched else damage(final), None
        if trouble is None:
            try:
                record = _record(final / RECORD, inputs)
            except UserError as error:
                trouble = str(error)
        if trouble is None:
            self._verified[final] = _signature(final)
            return record
        logger.warning("stage %s is damaged: %s; it is moved to damaged/ and built again", final.name, trouble)
        _move(final, self.folder / "damaged" / final.name)
        return None

    @staticmethod
    def _workplace(working: Path) -> None:
        """See that the folder a stage is built in is there."""
        try:
            if working.is_symlink() or (os.path.lexists(working) and not working.is_dir()):
                working.unlink()
            working.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{working} cannot be written: {error.strerror or error}; choose another --output"
            ) from None


class JoinedRun(Run):
    """The run of a process that the first has beside it: it builds along, and what it writes is dropped.

    Whoever reads a finished stage reads the first one's: the folder must be on a disk that all see.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.stages = folder, folder / "stages"
        self.built, self.known = set[Path](), set[Path]()

    def close(self) -> None:
        """Nothing is held."""

    def stage(self, name: str, inputs: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]) -> Stage:
        """Return a stage that the first process has found, or builds now, beside this one."""
        _, key = identified(name, inputs)
        final = self.stages / f"{name}-{key}"
        kept: dict[str, Any] | None = ranks.from_first(None)
        if kept is not None:
            return Stage(name, key, final, kept, True)
        with TemporaryDirectory(prefix="preflab-") as folder:
            build(Path(folder))
        record: dict[str, Any] = ranks.from_first({})
        if not (final / RECORD).is_file():
            raise UserError(
                f"process {ranks.rank()} does not see {final}, which the first has made: --output must be on a disk "
                "that all machines share"
            )
        return Stage(name, key, final, record, False)


def open_run(folder: Path) -> Run:
    """Open a run's folder, each process of a launcher in its own part.

    Raises:
        UserError: as `Run` does.
    """
    return Run(folder) if ranks.first() else JoinedRun(folder)


class UnbuiltRun(Run):
    """A run that is looked at and left as it is: nothing is made or locked, and no stage is built.

    Attributes:
        asked: the stages that were asked for, in order, each with its inputs; ``reused`` where they are finished, and
            their records are empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.stages, self.asked = folder, folder / "stages", list[tuple[Stage, Mapping[str, Any]]]()

    def close(self) -> None:
        """Nothing is held."""

    def stage(self, name: str, inputs: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]) -> Stage:
        """Return the stage that would be built, or is there; it is not verified."""
        _, key = identified(name, inputs)
        folder = self.stages / f"{name}-{key}"
        stage = Stage(name, key, folder, {}, (folder / RECORD).is_file())
        self.asked.append((stage, inputs))
        return stage


def identified(name: str, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return all that decides a stage's result, and its key."""
    found = {**inputs, "stage": name, "versions": versions()}
    return found, content_hash(found)


def _built(build: Callable[[Path], Mapping[str, Any]], working: Path) -> Mapping[str, Any]:
    """Build; a folder in a file's place, or the other way round, is what somebody did to an interrupted stage."""
    try:
        return build(working)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        if working not in Path(os.fsdecode(error.filename or "")).parents:
            raise
        raise UserError(
            f"something is in the way in the unfinished stage {working}: {Path(error.filename).name}: "
            f"{error.strerror}; remove that folder and run the same command again"
        ) from error


def _signature(folder: Path) -> Any:
    """Return what changes when a file of a folder is touched; where it cannot be read, what equals nothing."""
    try:
        states = [(name, path.lstat()) for name, path in (*files(folder).items(), (SUMS, folder / SUMS))]
    except OSError:
        return object()
    return sorted((name, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in states)


def _record(path: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a stage reported.

    Raises:
        UserError: if the file is that of another stage, or of nothing that we wrote.
    """
    content = read_object(path)
    # As they read back: tuples as lists, keys as text.
    if content.get("inputs") != json.loads(json.dumps(inputs, default=str)):
        raise UserError(f"{path.name} is of another stage")
    record = content.get("record")
    if not isinstance(record, dict):
        raise UserError(f"{path.name} has no record")
    return record


def _move(path: Path, place: Path) -> None:
    """Move what is damaged out of the way, over what an earlier damage left."""
    try:
        place.parent.mkdir(exist_ok=True)
        remove(place)
        path.rename(place)
    except OSError as error:
        raise UserError(
            f"{path} is damaged and cannot be moved: {error.strerror or error}; remove it, or choose another --output"
        ) from None


def content_hash(content: Any) -> str:
    """Return 12 hex digits that depend on JSON-ready content alone."""
    return digest(json.dumps(content, sort_keys=True, default=str), 12)
