"""A report, read as a browser would read it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from report_fixture import typed

from preflab.eval.report.page import render
from preflab.eval.report.text import clean


class Page(HTMLParser):
    """Elements, texts, and everything in a page that could load or run something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.said: list[tuple[str, str]] = []
        self._open = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.inside.get(self._open):
            self.inside[self._open][-1] += data
        else:
            self.texts.append(data)
            self.said.append((self._open, data))

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def of(self, tag: str) -> list[str]:
        """Return the texts that stand right inside elements of a kind."""
        return [text for inside, text in self.said if inside == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page(compared: dict[str, Any], answers: dict[str, Any] | None = None) -> Page:
    shown = clean(typed(compared))
    return Page(render(shown, answers or {}, []))
