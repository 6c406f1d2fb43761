"""What turns docs/ into a site: the README is its first page, and a link out of docs/ becomes the name of a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the README as index.md, its links seen from docs/."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=re.sub(r"\]\(docs/", "](", text)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Write links to what is no page as the file's name: the site has no sources."""
    here = (ROOT / "docs" / page.file.src_uri).parent

    def kept(link: re.Match[str]) -> str:
        picture, text, target, _ = link.groups()
        if "://" in target or picture:
            return link[0]
        path = (here / target).resolve()
        index = path.is_dir() or path.name == "README.md"
        path = path / "README.md" if path.is_dir() else path
        inside = path.is_relative_to(ROOT / "docs")
        file = files.get_file_from_path(path.relative_to(ROOT / "docs").as_posix()) if inside else None
        if file is None or file.inclusion.is_excluded():
            return f"{text} (`{path.relative_to(ROOT).as_posix()}`)" if path.is_relative_to(ROOT) else text
        return f"[{text}]({target.removesuffix('README.md').rstrip('/')}/README.md)" if index else link[0]

    return LINK.sub(kept, markdown)
