"""Matplotlib's SVG made part of a page: nothing in it runs or loads, and its colours follow the page's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from markupsafe import Markup

from preflab.eval.report.style import COLOURS

_ELEMENTS = {"svg", "g", "path", "text", "tspan", "defs", "use", "clipPath", "rect", "circle", "line"}
_GEOMETRY = {"id", "d", "x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "width", "height", "transform", "viewBox"}
_PAINT = {
    "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray",
    "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "opacity", "text-anchor", "font-size", "font-weight",
}  # fmt: skip
_LINK = "{http://www.w3.org/1999/xlink}href"


def inline_svg(source: str, name: str, label: str) -> Markup:
    """Return the SVG element of `source` for a page whose policy allows no style attributes.

    Elements and attributes that are not on the lists above are dropped; styles become attributes; colours
    of `eval.report.style` become CSS variables; ids get `name` in front, to be alone on the page.

    Args:
        source: an SVG document written by Matplotlib with ``svg.fonttype`` none.
        name: letters, digits and dashes.
        label: what the figure shows, for people who cannot see it.
    """
    root = ElementTree.fromstring(source)
    box = root.get("viewBox", "")
    element = _copied(root, name)
    element.attrib = {"viewBox": box, "role": "img", "aria-label": label, "stroke-linejoin": "round"}
    return Markup(ElementTree.tostring(element, encoding="unicode"))


def _copied(element: ElementTree.Element, name: str) -> ElementTree.Element:
    copy = ElementTree.Element(_local(element.tag), dict(_attributes(element, name)))
    copy.text, copy.tail = (text if text and text.strip() else None for text in (element.text, element.tail))
    copy.extend(_copied(child, name) for child in element if _local(child.tag) in _ELEMENTS)
    return copy


def _local(tag: object) -> str:
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""  # comments have a function for a tag


def _attributes(element: ElementTree.Element, name: str) -> Iterator[tuple[str, str]]:
    for key, value in element.attrib.items():
        if key == "id":
            yield key, f"{name}-{value}"
        elif key in _GEOMETRY:
            yield key, value
        elif key in _PAINT:
            yield key, _paint(value)
        elif key == _LINK and value.startswith("#"):
            yield "href", f"#{name}-{value[1:]}"
        elif key == "clip-path" and value.startswith("url(#"):
            yield key, value.replace("url(#", f"url(#{name}-", 1)
    for declaration in element.get("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font" and (size := re.search(r"([\d.]+)px", value)):
            yield "font-size", size[1]
        elif key in _PAINT and "url(" not in value:
            yield key, _paint(value)


def _paint(value: str) -> str:
    return _VARIABLES.get(value.lower(), value)


_VARIABLES = {light: f"var(--{name})" for name, light, _ in COLOURS}
