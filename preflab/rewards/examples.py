"""Rewards to try and to copy from: verifiable ones, and some for story models.

    python recipes/compare.py --model M --dataset D --reward preflab.rewards.examples:final_number
    python recipes/compare.py --model M --reward preflab.rewards.examples:happy_story

A reward is any function of a response that returns a finite number and always the same one; what else it asks for
by the names of its parameters, the prompt and columns of the data, it is given (docs/rewards.md). Where preferences
are drawn by it, a response that is better by d is preferred with probability sigmoid(d), so d = 1 gives labels that
are right 73 % of the time. The rewards of stories trade their aim against repetition, which a policy would otherwise
find to be the cheapest way to a high score.
"""

from __future__ import annotations

import re
from decimal import Decimal

_HAPPY = """
    beautiful best brave bright cheer cheered cheerful clap clapped cozy dance danced dancing delicious enjoy
    enjoyed excited fantastic friend friendly friends fun funny generous gentle giggle giggled giggling glad good
    great happily happiness happy hug hugged hugging hugs joy joyful kind kindness laugh laughed laughing laughter
    love loved lovely loves loving lucky nice peaceful perfect pleased pretty proud proudly safe sang share shared
    sharing sing singing smile smiled smiles smiling special strong sunny surprise sweet thank thanked thankful
    treasure welcome wonderful yummy"""
_SAD = """
    afraid alone angry annoyed ashamed awful bad broke broken cried cries cruel cry crying danger dangerous dark
    dead die died disappointed fell fight fought frightened frown frowned gloomy grumpy hate hated hurt lonely lost
    mad mean mess nasty naughty pain poor regret sad sadly sadness scared scary scream screamed selfish shouted sick
    sorry stole tears terrible tired trouble ugly unhappy upset weak worried worry wrong yelled"""

HAPPY, SAD = frozenset(_HAPPY.split()), frozenset(_SAD.split())

NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")
ENDED = re.compile(r"[.!?][\"'”’)]*$")
SPEECH = re.compile(r"[\"“]([^\"“”]+)[\"”]")


def final_number(response: str, answer: str | float) -> float:
    """Return 1 if the last number of the response is that of the column ``answer``, else 0.

    Commas between thousands and zeros at the end say nothing: 1,200.50 is 1200.5. Of an answer that is a text with
    several numbers, such as a worked solution, the last one counts too.

    Raises:
        ValueError: if the answer holds no number.
    """
    found, wanted = NUMBER.findall(response), NUMBER.findall(str(answer))
    if not wanted:
        raise ValueError(f"the column answer holds no number: {str(answer)[:80]!r}")
    return float(bool(found) and _value(found[-1]) == _value(wanted[-1]))


def _value(number: str) -> Decimal:
    return Decimal(number.replace(",", ""))


def words(text: str) -> list[str]:
    """Return the words of a text, lower case, without punctuation."""
    return re.findall(r"[a-z]+", text.lower())


def repetition(text: str) -> float:
    """Return the share of three-word sequences that stood in the text before; 0 for short texts."""
    found = words(text)
    triples = list(zip(found, found[1:], found[2:], strict=False))
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def unfinished(text: str) -> float:
    """Return 1 if the text does not end with a sentence's end, else 0."""
    return 0.0 if ENDED.search(text.rstrip()) else 1.0


def happy_story(prompt: str, response: str) -> float:
    """Return how happily a story goes on.

    ::

        r = min(6, H) − min(6, S) − 6 · repetition − ½ · unfinished

    H and S are the numbers of *different* happy and sad words (`HAPPY`, `SAD`) in the response that
    the prompt did not hold yet: saying "happy" five times earns no more than saying it once.
    """
    new = set(words(response)) - set(words(prompt))
    mood = min(6, len(new & HAPPY)) - min(6, len(new & SAD))
    return mood - 6 * repetition(response) - 0.5 * unfinished(response)


def talking_story(prompt: str, response: str) -> float:
    """Return how much the people of a story talk: 4 · sqrt(min(0.6, share of words in quotes)).

    Only closed quotes count, and more than 60 % speech is no better. 6 · repetition and ½ · unfinished are
    taken off, as in `happy_story`.
    """
    spoken = sum(len(words(piece)) for piece in SPEECH.findall(response))
    share = spoken / max(1, len(words(response)))
    return 4 * min(0.6, share) ** 0.5 - 6 * repetition(response) - 0.5 * unfinished(response)


def varied_story(prompt: str, response: str) -> float:
    """Return how rich a story's words are: 0.4 for each different word of five letters or more.

    Words of the prompt do not count; 6 · repetition and ½ · unfinished are taken off. A longer answer has
    more of them: this reward is there to see how methods exploit length.
    """
    rich = {word for word in words(response) if len(word) >= 5} - set(words(prompt))
    return 0.4 * len(rich) - 6 * repetition(response) - 0.5 * unfinished(response)
