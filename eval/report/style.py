"""Colours and marks: one of each per method, the same in figures, legends, tables and print, in light and in dark."""

from __future__ import annotations

from typing import NamedTuple

from preflab.eval.records.comparison import Comparison

# Okabe and Ito's colours (jfly.uni-koeln.de/color), told apart by every common kind of colour vision; some are
# darkened to be read on white, and all lightened for a dark page. Name, on light, on dark.
METHOD_COLOURS = (
    ("m0", "#0072b2", "#58b4f0"),
    ("m1", "#d55e00", "#ff8a3c"),
    ("m2", "#009e73", "#35c79a"),
    ("m3", "#b5478f", "#e58fc4"),
    ("m4", "#b98200", "#f0b73a"),
    ("m5", "#3f9fd6", "#8fd3fb"),
    ("m6", "#6f4fc9", "#b09cf5"),
    ("m7", "#8c5a2b", "#d0a070"),
)
BASELINE_COLOUR = ("base", "#727a83", "#a3abb4")
PAGE_COLOURS = (
    ("ink", "#1f2328", "#e3e6e9"),
    ("muted", "#5f6871", "#9ca5ae"),
    ("line", "#dfe2e5", "#2c3239"),
    ("paper", "#fdfdfc", "#14171b"),
    ("card", "#f5f6f6", "#1c2025"),
    ("accent", "#0b5cad", "#7dbcf5"),
    ("good", "#0a7a5a", "#4ccfa3"),
    ("bad", "#b3400b", "#ff9a66"),
    ("good-tint", "#e3f3ed", "#14332a"),
    ("bad-tint", "#fbeae1", "#3a2318"),
)
COLOURS = (*PAGE_COLOURS, BASELINE_COLOUR, *METHOD_COLOURS)
LIGHT = {name: light for name, light, _ in COLOURS}
MARKS = {
    "o": ("circle", "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z"),
    "s": ("square", "M-4.2-4.2h8.4v8.4h-8.4z"),
    "D": ("diamond", "M0-5.4L5.4 0 0 5.4-5.4 0z"),
    "^": ("up", "M0-5L5 4.4H-5z"),
    "v": ("down", "M0 5L5-4.4H-5z"),
    "P": ("plus", "M-1.7-5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z"),
    "X": ("cross", "M0-2.4L2.6-5 5-2.6 2.4 0 5 2.6 2.6 5 0 2.4-2.6 5-5 2.6-2.4 0-5-2.6-2.6-5z"),
    "*": ("star", "M0-5.6L1.3-1.8 5.3-1.7 2.1.7 3.3 4.5 0 2.2-3.3 4.5-2.1.7-5.3-1.7-1.3-1.8z"),
    "h": ("hexagon", "M0-5L4.3-2.5V2.5L0 5-4.3 2.5V-2.5z"),
}
"""Matplotlib's markers, and the same as a symbol of the page: what it is called, its outline about the origin."""

MARKERS, BASELINE_MARKER = "osD^vPX*", "h"


class Style(NamedTuple):
    """How a method looks: name of its colour (a CSS class and variable), the colour on white, marker, dashes."""

    css: str
    colour: str
    marker: str
    dashes: str

    @property
    def mark(self) -> str:
        """What the page calls its marker."""
        return MARKS[self.marker][0]


def method_styles(comparison: Comparison) -> dict[str, Style]:
    """Return a style per method; the baseline is grey. Beyond eight, colours return with other dashes."""
    others, styles = 0, {}
    for name in comparison.methods:
        if name == comparison.baseline:
            styles[name] = Style(BASELINE_COLOUR[0], BASELINE_COLOUR[1], BASELINE_MARKER, "-")
            continue
        css, colour, _ = METHOD_COLOURS[others % len(METHOD_COLOURS)]
        lap = others // len(METHOD_COLOURS)
        styles[name] = Style(css, colour, MARKERS[(others + lap) % len(MARKERS)], ("-", "--", ":", "-.")[lap % 4])
        others += 1
    return styles


def css_colours() -> str:
    """Return the CSS that declares every colour as a variable, and a class per method's colour."""
    light = "".join(f"--{name}:{value};" for name, value, _ in COLOURS)
    dark = "".join(f"--{name}:{value};" for name, _, value in COLOURS)
    classes = "".join(f".{name}{{color:var(--{name})}}" for name, _, _ in (BASELINE_COLOUR, *METHOD_COLOURS))
    # Paper is white, whatever the screen is.
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}{classes}"
