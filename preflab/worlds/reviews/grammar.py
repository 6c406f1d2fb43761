"""The language of the reviews world: words, prompts, sentences and a seeded sampler.

All words and templates are the project's own. Texts are lower case with spaces around punctuation, so
that a token is a word and ``" ".join(words)`` is the text.

A prompt names a topic, a tone and an aspect::

    write a warm review of the hotel for a friend , mention the bed :

and a response is a row of short sentences::

    the bed was neat and lovely . i disliked the lobby . i would stay again .

`parse_prompt` and `parse_sentence` read them back, so that the planted reward works on text alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from typing import NamedTuple

GRAMMAR_VERSION = 4
"""Part of every cache key: raise it with any change to words, templates or styles."""

MAX_SENTENCES = 6
SENTENCE_WORDS = 7
"""Longest sentence that is written, its full stop included."""

TOPICS: dict[str, dict[str, str]] = {  # topic -> aspect -> kind of thing, which chooses fitting adjectives
    "hotel": {"bed": "thing", "lobby": "place", "breakfast": "food", "porter": "person"},
    "cafe": {"coffee": "food", "cake": "food", "waiter": "person", "terrace": "place"},
    "book": {"plot": "work", "ending": "work", "hero": "person", "cover": "thing"},
    "train": {"seat": "thing", "carriage": "place", "driver": "person", "ticket": "thing"},
    "park": {"path": "place", "lake": "place", "gardener": "person", "bench": "thing"},
    "shop": {"clerk": "person", "bread": "food", "aisle": "place", "basket": "thing"},
}
RETURN_VERBS = {"hotel": "stay", "cafe": "dine", "book": "read", "train": "travel", "park": "walk", "shop": "buy"}
TONES = {
    "warm": ("warm", "kind", "cheerful"),
    "harsh": ("harsh", "stern", "gloomy"),
}
OPENINGS = ("write", "share", "post", "send", "draft", "add", "leave", "make")
AUDIENCES = (
    "",
    " for a friend",
    " for a family",
    " for my club",
    " for a student",
    " for the paper",
    " for my aunt",
    " for a guest",
    " for my team",
    " for the board",
    " for my class",
    " for a visitor",
)

GOOD = {
    "any": ("lovely", "pleasant", "superb", "charming", "fine", "delightful"),
    "food": ("tasty", "fresh", "rich"),
    "place": ("clean", "bright", "quiet"),
    "thing": ("neat", "sturdy", "handy"),
    "person": ("friendly", "clever", "patient"),
    "work": ("gripping", "graceful", "witty"),
}
BAD = {
    "any": ("dull", "poor", "awful", "dreary", "odd", "weak"),
    "food": ("stale", "bland", "burnt"),
    "place": ("dirty", "cramped", "noisy"),
    "thing": ("shabby", "flimsy", "broken"),
    "person": ("rude", "careless", "bored"),
    "work": ("tedious", "clumsy", "shallow"),
}
LIKES = {1: ("loved", "liked", "enjoyed"), -1: ("hated", "disliked", "regretted")}
LINKS = ("was", "felt", "seemed")
ADVERBS = ("very", "truly", "rather")
FILLERS = (
    "i went there on monday",
    "my cousin came along",
    "it rained all day",
    "we left before noon",
    "i wrote this at home",
)

_ASPECT_TOPIC = {aspect: topic for topic, aspects in TOPICS.items() for aspect in aspects}
_KINDS = {aspect: kind for aspects in TOPICS.values() for aspect, kind in aspects.items()}
_VERB_TOPIC = {verb: topic for topic, verb in RETURN_VERBS.items()}
_TONE_OF = {word: tone for tone, words in TONES.items() for word in words}
_POLARITY = {word: 1 for words in GOOD.values() for word in words}
_POLARITY |= {word: -1 for words in BAD.values() for word in words}
_POLARITY |= {word: sign for sign, words in LIKES.items() for word in words}


class Request(NamedTuple):
    """What a prompt asks for; fields are None where the text does not say (or is no prompt of ours)."""

    topic: str | None
    tone: str | None
    aspect: str | None


class Sentence(NamedTuple):
    """A well-formed sentence.

    Attributes:
        topic: the topic it is about, or None for small talk.
        aspect: the aspect it judges, or None.
        polarity: one +1 or -1 for each opinion in it.
        content: its noun and opinion words, by which repetition is counted.
    """

    topic: str | None
    aspect: str | None
    polarity: tuple[int, ...]
    content: tuple[str, ...]


@dataclass(frozen=True)
class Style:
    """How well a writer follows the request: chances per sentence, and weights of lengths 1, 2, ...

    Attributes:
        topic: stays on the asked topic.
        aspect: takes up the asked aspect (where on topic).
        tone: an opinion has the asked tone.
        repeat: says an earlier sentence again.
        filler: makes small talk instead.
        lengths: weights of 1, 2, ... sentences.
    """

    topic: float
    aspect: float
    tone: float
    repeat: float
    filler: float
    lengths: tuple[float, ...]


CAREFUL = Style(topic=0.97, aspect=0.40, tone=0.95, repeat=0.02, filler=0.02, lengths=(2, 4, 4, 3, 2, 1))
CARELESS = Style(topic=0.35, aspect=0.10, tone=0.45, repeat=0.20, filler=0.15, lengths=(3, 3, 3, 3, 3, 3))

# Texts in the wild come from writers who differ from each other more than from themselves. A model of
# such texts knows how careful writers write, and alignment can bring that out.
UNALIGNED = {CAREFUL: 0.35, CARELESS: 0.65}
DEMONSTRATION = {CAREFUL: 0.6, CARELESS: 0.4}


def prompts() -> list[str]:
    """Return every prompt of the world, in a fixed order."""
    tones = [word for words in TONES.values() for word in words]
    return [
        f"{opening} a {tone} review of the {topic}{audience} , mention the {aspect} :"
        for topic, aspects in TOPICS.items()
        for aspect, tone, opening, audience in product(aspects, tones, OPENINGS, AUDIENCES)
    ]


def vocabulary() -> list[str]:
    """Return the words of all prompts and responses, sorted."""
    words = {word for prompt in prompts() for word in prompt.split()} | {"."}
    words |= set(_POLARITY) | set(LINKS) | set(ADVERBS) | set(_VERB_TOPIC)
    words |= {word for filler in FILLERS for word in filler.split()}
    return sorted(words | {"the", "i", "and", "but", "would", "never", "again"})


_PROMPT = re.compile(r"\ba (\w+) review of the (\w+)\b.*\bmention the (\w+)", re.DOTALL)


@lru_cache(maxsize=65536)
def parse_prompt(prompt: str) -> Request:
    """Read topic, tone and aspect from a prompt; unknown parts are None."""
    match = _PROMPT.search(prompt)
    if match is None:
        return Request(None, None, None)
    tone, topic, aspect = match.groups()
    return Request(topic if topic in TOPICS else None, _TONE_OF.get(tone), aspect if aspect in _ASPECT_TOPIC else None)


def _one_of(words: object) -> str:
    return "(" + "|".join(sorted(words)) + ")"  # type: ignore[call-overload]


@cache
def _sentence_patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    noun = _one_of([*_ASPECT_TOPIC, *TOPICS])
    adjective = _one_of({w for table in (GOOD, BAD) for words in table.values() for w in words})
    describe = f"the {noun} {_one_of(LINKS)} (?:{_one_of(ADVERBS)} )?{adjective}(?: (?:and|but) {adjective})?"
    like = f"i {_one_of([*LIKES[1], *LIKES[-1]])} the {noun}"
    again = f"i would (never )?{_one_of(_VERB_TOPIC)} again"
    return re.compile(describe), re.compile(like), re.compile(again)


@lru_cache(maxsize=65536)
def parse_sentence(text: str) -> Sentence | None:
    """Read one sentence without its full stop; None where it is not a sentence of the grammar."""
    describe, like, again = _sentence_patterns()
    if match := describe.fullmatch(text):
        noun, _, _, first, second = match.groups()
        return _opinion(noun, (first,) if second is None else (first, second))
    if match := like.fullmatch(text):
        return _opinion(match[2], (match[1],))
    if match := again.fullmatch(text):
        return Sentence(_VERB_TOPIC[match[2]], None, (-1 if match[1] else 1,), (match[2],))
    return Sentence(None, None, (), tuple(text.split()[-1:])) if text in FILLERS else None


def _opinion(noun: str, words: tuple[str, ...]) -> Sentence:
    polarity = tuple(_POLARITY[word] for word in words)
    aspect = noun if noun in _ASPECT_TOPIC else None
    return Sentence(_ASPECT_TOPIC.get(noun, noun), aspect, polarity, (noun, *words))


def write_response(
    prompt: str, writers: Mapping[Style, float], rng: random.Random, max_words: int | None = None
) -> str:
    """Return a response to `prompt` by one writer of a mixed crowd.

    Args:
        prompt: a prompt of `prompts`.
        writers: styles and their shares.
        rng: source of all randomness.
        max_words: stop before the sentence that would pass this many words (the first always stays).
    """
    request = parse_prompt(prompt)
    style = rng.choices(list(writers), list(writers.values()))[0]
    count = rng.choices(range(1, len(style.lengths) + 1), style.lengths)[0]
    sentences: list[str] = []
    for _ in range(count):
        again = bool(sentences) and rng.random() < style.repeat
        sentence = rng.choice(sentences) if again else _write_sentence(request, style, rng)
        if sentences and max_words is not None and len(" ".join([*sentences, sentence]).split()) > max_words:
            break
        sentences.append(sentence)
    return " ".join(sentences)


def _write_sentence(request: Request, style: Style, rng: random.Random) -> str:
    if rng.random() < style.filler:
        return rng.choice(FILLERS) + " ."
    other = rng.choice(list(TOPICS))
    on_topic = request.topic is not None and rng.random() < style.topic
    topic = request.topic if on_topic and request.topic else other
    sign = _sign(request.tone, style, rng)
    form = rng.random()
    if form < 0.12:
        return f"i would {'never ' if sign < 0 else ''}{RETURN_VERBS[topic]} again ."
    noun = topic if form < 0.2 else rng.choice(list(TOPICS[topic]))
    if on_topic and request.aspect and rng.random() < style.aspect:
        noun = request.aspect
    return _judge(noun, sign, rng) + " ."


def _sign(tone: str | None, style: Style, rng: random.Random) -> int:
    asked = {"warm": 1, "harsh": -1}.get(tone or "", 0) or rng.choice((1, -1))
    return asked if rng.random() < style.tone else -asked


def _judge(noun: str, sign: int, rng: random.Random) -> str:
    """Return a judgement of `noun`, now and then one with a "but" in it."""
    kind = _KINDS.get(noun, "any")
    table, opposite = (GOOD, BAD) if sign > 0 else (BAD, GOOD)
    words = (*table["any"], *table[kind]) if kind != "any" else table["any"]
    first, second = rng.sample(words, 2)
    form = rng.random()
    if form < 0.2:
        return f"i {rng.choice(LIKES[sign])} the {noun}"
    start = f"the {noun} {rng.choice(LINKS)}"
    if form < 0.25:
        return f"{start} {first} but {rng.choice(opposite['any'])}"
    if form < 0.5:
        return f"{start} {first} and {second}"
    return f"{start} {rng.choice(ADVERBS)} {first}" if form < 0.7 else f"{start} {first}"
