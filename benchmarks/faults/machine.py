"""A machine that gives out: a full disk, few open files, no memory, nobody who reads the output."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.faults.cases import Case, Right, refused, said, words
from benchmarks.faults.kit import begun

SHARED = words("--model kit/model --dataset kit/pairs.jsonl --config kit/tiny.yaml --output out")
COMPARE = ("compare.py", *SHARED, *words("--algorithms dpo"))
EVALUATE = ("evaluate.py", *SHARED, *words("--models a=kit/adapter"))
KIB, MIB = 1 << 10, 1 << 20
CLONE_NEWNS, MS_REC, MS_PRIVATE = 1 << 17, 1 << 14, 1 << 18  # linux/sched.h, sys/mount.h


def cases(seed: int) -> Iterator[Case]:
    """Yield every way in which a machine gives out; a full disk only where this process may mount one."""
    if os.geteuid() == 0:
        for size in (0, 4, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 144):
            for name, command in {"a comparison": COMPARE, "an evaluation": EVALUATE}.items():
                if name == "a comparison" or size <= 48:
                    yield case(f"disk/of {size} KiB, {name}", command, disk(size), refused("space|disk|full"))
    for output in ("/dev/full", "/dev/null/run", "/sys/run", "/proc/self/run"):
        name = f"output/in {output.replace('/', '_')}"
        yield case(name, (*COMPARE, "--output", output), lambda folder: None, refused(output))
    for count in (12, 16, 24, 32):
        limit = set_limit(resource.RLIMIT_NOFILE, count)
        yield case(
            f"files/{count} open at a time", COMPARE, limit, (*refused("files are open|open files|descriptor"), *said())
        )
    for size in (64, 128, 256):  # with less, torch's own threads abort the process, which nothing in it can answer
        right = (*refused("memory|allocate"), *said())
        yield case(f"memory/of {size} MiB more than now", COMPARE, memory(size * MIB), right)
    for name, command in {
        "a comparison": COMPARE,
        "help": words("sft.py --help"),
        "a list": words("compare.py --algorithms list"),
        "an evaluation": EVALUATE,
    }.items():
        yield case(f"reader/gone, of {name}", command, begun("evaluated", nobody(1)), said())
        yield case(
            f"reader/full, of {name}", command, begun("evaluated", full(1)), (*said(), *refused("space|written|output"))
        )
    for variable, value in (
        ("HOME", "/nowhere"),
        ("COLUMNS", "-5"),
        ("COLUMNS", "0"),
        ("COLUMNS", "1"),
        ("LINES", "many"),
    ):
        made = case(f"environment/{variable} is {value}", EVALUATE, begun("evaluated", lambda folder: None), said())
        yield Case(made.name, made.command, made.right, made.make, environment={variable: value})


def case(name: str, command: tuple[str, ...], spoil: Callable[[Path], object], right: tuple[Right, ...]) -> Case:
    """Return a case in which `spoil` is called by the process that is to be the command."""
    return Case(f"machine/{name}", command, right, lambda folder: (spoil(folder), None)[1])


def disk(size: int) -> Callable[[Path], None]:
    """Return what puts the run folder on a disk of so many KiB; it is gone with the process."""

    def spoil(folder: Path) -> None:
        system = ctypes.CDLL(None, use_errno=True)
        (folder / "out").mkdir()
        place, options = str(folder / "out").encode(), f"size={max(size, 4)}k".encode()
        if (
            system.unshare(CLONE_NEWNS)
            or system.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
            or system.mount(b"tmpfs", place, b"tmpfs", 0, options)
        ):
            raise OSError(ctypes.get_errno(), "no disk can be mounted")
        if not size:
            (folder / "out" / "all").write_bytes(bytes(4 * KIB))

    return spoil


def set_limit(what: int, value: int) -> Callable[[Path], None]:
    """Return what limits a resource of the process."""
    return lambda folder: resource.setrlimit(what, (value, value))


def memory(more: int) -> Callable[[Path], None]:
    """Return what gives the process so many bytes more than it has."""

    def spoil(folder: Path) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        now = next(int(line.split()[1]) * KIB for line in lines if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (now + more, now + more))

    return spoil


def nobody(descriptor: int) -> Callable[[Path], None]:
    """Return what makes output go to a pipe that nobody reads any more."""

    def spoil(folder: Path) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, descriptor)

    return spoil


def full(descriptor: int) -> Callable[[Path], None]:
    """Return what makes output go to a disk that is full."""
    return lambda folder: os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
