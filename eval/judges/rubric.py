"""What a judge of pairs is asked, word for word, and the only answers that count."""

from __future__ import annotations

from preflab.endpoint.rubric import COMMON, Rubric

_PAIR = (
    "You compare two responses to one request and say which serves the person who made the request better.\n"
    + COMMON
    + """The order in which the two appear is chance and says nothing about them.

First weigh them in two to four sentences. Then end with one line, exactly one of these three, and nothing after it:
VERDICT: FIRST
VERDICT: SECOND
VERDICT: TIE
TIE is for responses that serve equally well, not for a close choice."""
)

PAIR = Rubric(
    "pair-1",
    _PAIR,
    ("REQUEST", "FIRST RESPONSE", "SECOND RESPONSE"),
    "'VERDICT: FIRST', 'VERDICT: SECOND' or 'VERDICT: TIE'",
    {"VERDICT: FIRST": 1.0, "VERDICT: TIE": 0.5, "VERDICT: SECOND": 0.0},
)
