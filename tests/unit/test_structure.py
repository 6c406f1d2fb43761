"""The floors that docs/architecture.md draws are those of the imports: nothing looks up, nothing goes in a circle."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from preflab.eval.metrics import METRICS
from preflab.method.registry import registered

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("preflab", "algorithms", "eval", "recipes")
LOOSE = 3
LONGEST = 400
ROLES = {"policy", "reference", "reward", "value"}
OFFERED = "eval.python"
"""What `preflab` offers names of, fetched when they are first asked for: its own import is one of types alone."""


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def by_folder(name: str) -> str:
    """Return what a module is called by the folder it lies in: `preflab.eval` is the folder `eval`."""
    inside = name.removeprefix("preflab.")
    return inside if inside.partition(".")[0] in PACKAGES else name


def imported(source: str, known: set[str]) -> set[str]:
    """Return the modules among `known` that a source imports, wherever in it: late imports are arrows too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {by_folder(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [by_folder(f"{node.module}.{alias.name}") for alias in node.names]
            found |= {name if name in known else by_folder(node.module) for name in names}
    return found & known


def names_a_folder(source: str) -> set[str]:
    """Return the imports of a source that name a folder beside preflab/, as nobody can who installed a wheel."""
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
    return {name for name in names if name.partition(".")[0] in PACKAGES[1:]}


@cache
def arrows() -> dict[str, set[str]]:
    known = set(modules())
    found = {name: imported(path.read_text(encoding="utf-8"), known) - {name} for name, path in modules().items()}
    return {**found, "preflab": found["preflab"] - {OFFERED}}


def room_of(module: str) -> str:
    """Return the folder that a module stands in, no deeper than the second; loose modules are rooms of their own."""
    parts = module.split(".")
    return parts[0] if parts[0] in ("algorithms", "recipes") else ".".join(parts[:2])


def rooms() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module, targets in arrows().items():
        found.setdefault(room_of(module), set()).update(room_of(target) for target in targets)
    return {room: targets - {room} for room, targets in found.items()}


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """Return names that import each other in a circle, if there are any."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for target in sorted(graph.get(name, ())):
            if found := walk(target, [*path, name]):
                return found
        done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := walk(name, []))), None)


def drawn_floors() -> list[list[str]]:
    """Return the rooms of each floor as docs/architecture.md draws them, highest first."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    plan = re.search(r"```floors\n(.*?)```", page, re.DOTALL)
    assert plan is not None
    return [line.split() for line in plan[1].splitlines() if line.strip()]


def upward(graph: dict[str, set[str]], floors: list[list[str]]) -> list[str]:
    """Return the arrows that do not lead to a lower floor."""
    level = {room: at for at, floor in enumerate(floors) for room in floor}
    return [f"{a} -> {b}" for a, targets in graph.items() for b in sorted(targets) if level[b] <= level[a]]


def test_no_module_imports_itself_in_a_circle():
    assert circle(arrows()) is None


def test_no_room_imports_itself_in_a_circle():
    assert circle(rooms()) is None


def test_every_arrow_leads_down():
    floors = drawn_floors()
    drawn = {room for floor in floors for room in floor}
    assert drawn == set(rooms()), "docs/architecture.md draws other rooms than there are"
    assert upward(rooms(), floors) == []


def named_in(page: str, package: str) -> dict[str, set[str]]:
    """Return the modules that the table of a package's rooms names, by room."""
    table = page.partition(f"\n## The rooms of {package}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)/` \| (.*) \|$", table, re.MULTILINE)
    return {room: set(re.findall(r"`([a-z_0-9]+)`", text)) for room, text in rows}


@pytest.mark.parametrize("package", ["preflab", "eval"])
def test_every_module_is_named_and_no_other(package):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    there: dict[str, set[str]] = {}
    for package_, room, *module in (name.split(".") for name in modules() if name.count(".")):
        if package_ == package:
            there.setdefault(room, set()).update(module[:1])
    loose = {path.stem for path in (ROOT / package).glob("*.py")}
    there["metrics"] = there.get("metrics", set()) - set(METRICS)  # docs/metrics.md has those
    there = {room: inside for room, inside in there.items() if inside and room not in loose}
    assert named_in(page, package) == there
    assert named_in("\n## The rooms of x\n| `a/` | `b`: 1 · `C`, `d/` |\n\n## y\n| `e/` | `f` |\n", "x") == {"a": {"b"}}


def test_circles_and_arrows_upward_are_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) is None
    assert upward({"a": {"b"}, "b": {"a"}, "c": {"d"}}, [["a"], ["b"], ["c", "d"]]) == ["b -> a", "c -> d"]
    late = "def f():\n    from preflab.eval.x import y\n    import preflab.eval.z\n    from preflab import eval"
    assert imported(late, {"eval", "eval.x", "eval.z"}) == {"eval", "eval.x", "eval.z"}


def test_the_folders_at_the_top_are_imported_as_parts_of_preflab():
    assert names_a_folder("import eval.x\nfrom recipes import y\nfrom preflab.eval import z") == {"eval.x", "recipes"}
    sources = [path for folder in (*PACKAGES, "benchmarks", "docs", "tests") for path in (ROOT / folder).rglob("*.py")]
    found = {path.name: names_a_folder(path.read_text(encoding="utf-8")) for path in sources}
    assert {name: names for name, names in found.items() if names} == {}
    for folder in PACKAGES[1:]:
        assert (ROOT / "preflab" / folder).resolve() == ROOT / folder


@pytest.mark.parametrize("package", ["preflab", "eval"])
def test_few_modules_are_loose(package):
    loose = [path.name for path in (ROOT / package).glob("*.py") if not path.name.startswith("__")]
    assert len(loose) <= LOOSE, loose


def strings(source: str) -> set[str]:
    """Return the texts that a source holds, docstrings included: none of them is as short as a name."""
    return {
        node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) and type(node.value) is str
    }


def test_machinery_knows_no_method():
    names = set(registered()) - ROLES
    found = {
        module: both
        for module, path in modules().items()
        if module.split(".")[0] in ("preflab", "eval")
        if (both := names & strings(path.read_text(encoding="utf-8")))
    }
    assert found == {}
    assert not [
        module for module, targets in arrows().items() for target in targets if points_at_a_method(module, target)
    ]


def points_at_a_method(module: str, target: str) -> bool:
    return target.startswith("algorithms.") and not module.startswith("algorithms.")


def test_no_file_is_long():
    folders = (*PACKAGES, "benchmarks", "docs", "tests")
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_no_page_holds_two_versions():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if re.search("^(<<<<<<<|>>>>>>>) ", page.read_text(encoding="utf-8"), re.M)] == []


def test_no_two_test_files_share_a_name():
    # Their folders are no packages: of two files of one name, pytest would import one alone.
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]
