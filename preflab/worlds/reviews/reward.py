"""The planted reward r* of the reviews world: a documented function of the text alone."""

from __future__ import annotations

from collections.abc import Sequence as Texts
from functools import lru_cache
from typing import NamedTuple

from preflab.worlds.reviews.grammar import Sentence, parse_prompt, parse_sentence

REWARD_VERSION = 2
FREE_WORDS = 20
SCALE = 0.6
CENTRE = 0.6
FLOOR = -4.0
"""r* of a response without one well-formed sentence (the empty one too), the least r* can be."""


class Parts(NamedTuple):
    """The parts of r*, before weighing; see `reward`."""

    cover: float
    asked: float
    tone: float
    off_topic: float
    repetition: float
    over_length: float
    broken: float


WEIGHTS = Parts(cover=2.0, asked=0.5, tone=1.5, off_topic=-1.5, repetition=-2.0, over_length=-0.08, broken=-3.0)


def reward(prompts: Texts[str], responses: Texts[str]) -> list[float]:
    """Return r*(prompt, response) for each of the texts.

    With s the sentences of the response (what full stops divide; a last piece without one is broken),
    and w = `WEIGHTS`::

        r* = max(FLOOR, SCALE · (Σ_i w_i · part_i − CENTRE))

        cover        1 − 0.6^k, k = number of different aspects of the asked topic that are judged
        asked        1 if the asked aspect is among them, else 0
        tone         with m the mean of all opinions on the asked topic (+1 good, −1 bad):
                     m if asked warm, −m if asked harsh; −1 without an opinion
        off_topic    share of the well-formed sentences that are about another topic
        repetition   share of content words (nouns, opinion words) that were said before
        over_length  words beyond FREE_WORDS, full stops included
        broken       share of the sentences that are not of the grammar

    Trade-offs: a further aspect adds ever less cover and costs words. A sentence past the limit costs
    more than the third aspect or the fourth and last brings, so short sentences cover more in the same
    space. No response is good for all prompts, because topic, aspect and tone are the prompt's.

    Args:
        prompts: any texts; those not of this world ask for nothing and can earn no cover or tone.
        responses: any texts, of the same length as `prompts`.

    Raises:
        ValueError: if the two differ in length. No text makes it fail.
    """
    return [_reward(p, r) for p, r in zip(prompts, responses, strict=True)]


@lru_cache(maxsize=65536)
def _reward(prompt: str, response: str) -> float:
    parts = reward_parts(prompt, response)
    if parts is None:
        return FLOOR
    total = sum(weight * part for weight, part in zip(WEIGHTS, parts, strict=True))
    return max(FLOOR, SCALE * (total - CENTRE))


def reward_parts(prompt: str, response: str) -> Parts | None:
    """Return the parts of r*, or None where the response holds no well-formed sentence."""
    request = parse_prompt(prompt)
    parsed = _sentences(response)
    sentences = [s for s in parsed if s is not None]
    if not sentences:
        return None
    on_topic = [s for s in sentences if s.topic is not None and s.topic == request.topic]
    aspects = {s.aspect for s in on_topic if s.aspect is not None}
    content = [word for s in sentences for word in s.content]
    elsewhere = sum(s.topic is not None and s.topic != request.topic for s in sentences)
    return Parts(
        cover=1 - 0.6 ** len(aspects),
        asked=float(request.aspect in aspects),
        tone=_tone(request.tone, [p for s in on_topic for p in s.polarity]),
        off_topic=elsewhere / len(sentences),
        repetition=1 - len(set(content)) / len(content),
        over_length=float(max(0, len(response.split()) - FREE_WORDS)),
        broken=1 - len(sentences) / len(parsed),
    )


def _sentences(response: str) -> list[Sentence | None]:
    *whole, rest = " ".join(response.split()).split(".")
    found = [parse_sentence(piece.strip()) for piece in whole]
    return [*found, None] if rest.strip() else found


def _tone(asked: str | None, opinions: list[int]) -> float:
    if asked is None or not opinions:
        return -1.0
    mean = sum(opinions) / len(opinions)
    return mean if asked == "warm" else -mean
