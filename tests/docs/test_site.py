"""The site: every page has its place in it, and no link of a page leads nowhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def places(nav):
    """Return the pages that a navigation names, however deep."""
    if isinstance(nav, str):
        return {nav}
    return {place for part in (nav if isinstance(nav, list) else nav.values()) for place in places(part)}


def anchor(heading):
    """Return what a heading is called in links."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {anchor(re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading)) for heading in headings}


def test_every_page_has_its_place():
    nav = places(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    apart = ("methods", "studies", "example_package", "notebooks")  # found by their own lists
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    listed = {name for name in there if name.split("/")[0] not in apart} | {"methods/README.md", "index.md"}
    assert nav == listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        if "://" in target:
            continue
        path, _, place = unquote(target).partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if place and found.suffix == ".md":
            assert place in anchors(found), target


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the site is built by make site")
def test_the_site_is_built(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
