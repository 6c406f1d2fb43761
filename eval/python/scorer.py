"""A reward model opened by whatever names it, and rows in its own tokens."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from preflab.data.in_memory import is_named
from preflab.errors import UserError
from preflab.eval.python.objects import CLASSIFIER, loaded

if TYPE_CHECKING:
    from preflab.data.encoding import EncodedGroup
    from preflab.data.formats import Cleaned
    from preflab.data.reading import Row
    from preflab.model.classifiers import Classifier
    from preflab.tokens.literals import How

logger = logging.getLogger(__name__)

PAIRS = "pairs"
"""What the data are called in messages: the name of the argument."""

UNLIMITED = 1 << 30


class Scorer(NamedTuple):
    """A reward model that is ready to score.

    Attributes:
        name: what it is called.
        classifier: the model.
        tokenizer: its own.
        writes_messages: whether it reads dialogues as its chat template writes them, to the last token, as models of
            other trainers do; else as policies are given them.
    """

    name: str
    classifier: Classifier
    tokenizer: Any
    writes_messages: bool


@contextmanager
def opened(
    reward_model: Any, tokenizer: Any, base: str | Path | None, dtype: str, trust_remote_code: bool
) -> Iterator[Scorer]:
    """Open a reward model; a loaded one is in the mode afterwards that it was in, and nothing else of it changes.

    Args:
        reward_model: a name, or a loaded classifier, with or without its tokenizer.
        tokenizer: of a loaded one.
        base: of an adapter; None: the one that its config names.
        dtype: of a named one's weights.
        trust_remote_code: run Python code that comes with it.

    Raises:
        UserError: for what is no reward model.
    """
    if is_named(reward_model):
        if tokenizer is not None:
            raise UserError(
                "tokenizer goes with a reward model that is loaded; one that is named has its own, so leave it out"
            )
        yield _named(str(reward_model), base, dtype, trust_remote_code)
        return
    if base is not None:
        raise UserError("model is the base of an adapter, and the reward model is loaded with its own; leave it out")
    from preflab.data.encoding import load_tokenizer
    from preflab.model.classifiers import Classifier
    from preflab.model.loaded import check_loaded, evaluating

    given = loaded(reward_model)
    words = given.tokenizer if tokenizer is None else tokenizer
    check_loaded(given.model, words, kind=CLASSIFIER, name="reward_model")
    with TemporaryDirectory(prefix="preflab-") as folder, evaluating(given.model):
        # Read again as everybody's is: copies are prepared, not what was given.
        copy.deepcopy(given.model.config).save_pretrained(folder)
        copy.deepcopy(words).save_pretrained(folder)
        yield Scorer(type(given.model).__name__, Classifier(given.model), load_tokenizer(folder), True)


def _named(spec: str, base: str | Path | None, dtype: str, trust_remote_code: bool) -> Scorer:
    from preflab.eval.subjects import RewardSubject, open_subject

    subject = open_subject(spec)
    if not isinstance(subject, RewardSubject):
        raise UserError(f"score takes a reward model, and {spec} is a {subject.kind}")
    if not subject.adapter and base is not None:
        raise UserError(f"model is the base of an adapter, and {spec} is a model of its own; leave it out")
    from preflab.data.encoding import load_tokenizer
    from preflab.model.adapter_config import read_config
    from preflab.model.classifiers import load_classifier

    folder = Path(subject.source)
    if not subject.adapter:
        classifier = load_classifier(subject.source, dtype, trust_remote_code=trust_remote_code)
        return Scorer(spec, classifier, load_tokenizer(subject.source, trust_remote_code), True)
    under = str(base or read_config(folder).get("base_model_name_or_path") or "")
    if not under:
        raise UserError(f"{spec} is an adapter that does not name its base; give it as model")
    classifier = load_classifier(under, dtype, folder, trust_remote_code=trust_remote_code and base is not None)
    own = not subject.given.normalised and (folder / "tokenizer_config.json").is_file()
    # Those that were trained here read what the policy is given, in its tokens.
    return Scorer(spec, classifier, load_tokenizer(str(folder) if own else under), not subject.given.normalised)


class Encoded(NamedTuple):
    """Rows in a scorer's tokens.

    Attributes:
        rows: clean ones, as `preflab.data.formats.clean_rows` returns them.
        numbers: of these in the data.
        groups: prompt and responses of each, as policies are given them.
        texts: what is scored: these groups, or each response with its prompt as one text, in the same order.
    """

    rows: Sequence[Row]
    numbers: Sequence[int]
    groups: Sequence[EncodedGroup]
    texts: Sequence[EncodedGroup]


def encoded(scorer: Scorer, rows: Sequence[tuple[int, Row]], single: bool, special_tokens: How, **how: Any) -> Encoded:
    """Read rows as preferences are everywhere, and write them in a scorer's tokens; none is dropped for its length.

    Args:
        scorer: whose.
        rows: numbered raw rows.
        single: whether each has one response.
        special_tokens: what special-token strings in text are.
        how: as `preflab.data.formats.clean_rows` takes it.

    Raises:
        UserError: for data of which no row is usable, and of which some are messages, others text.
    """
    from preflab.data.encoding import Encoder
    from preflab.data.formats import clean_rows
    from preflab.tokens.literals import raw_rows

    found = clean_rows(rows, scorer.tokenizer, source=PAIRS, **how)
    if found.seen.messages and found.seen.texts:
        raise UserError(f"some rows of {PAIRS} are messages, others text that stays text; bring all to one format")
    if not single and any("chosen" not in row for row in found.rows):
        raise UserError(
            f"some rows of {PAIRS} are single responses with a label; without it, these alone can be scored"
        )
    if found.bad.total:
        logger.warning("%s: %d bad rows dropped: %s", PAIRS, found.bad.total, found.bad.summary())
    bad = {number for numbers in found.bad.reasons.values() for number in numbers}
    clean = found.rows if found.seen.messages else raw_rows(found.rows, scorer.tokenizer, special_tokens, PAIRS)
    chat = bool(found.seen.messages and scorer.tokenizer.chat_template)
    encoder = Encoder(scorer.tokenizer, UNLIMITED, UNLIMITED, chat)
    groups = encoder.encode_demonstrations(clean)[0] if single else encoder.encode_pairs(clean, equals=True)[0]
    encoder.report(PAIRS)
    texts = _as_messages(scorer, clean, groups, found) if chat and scorer.writes_messages else groups
    return Encoded(clean, [number for number, _ in rows if number not in bad], groups, texts)


def _as_messages(
    scorer: Scorer, rows: Sequence[Mapping[str, Any]], groups: Sequence[EncodedGroup], found: Cleaned
) -> list[EncodedGroup]:
    """Write dialogues anew, by the scorer's template to their last token, from what the tokens say."""
    from preflab.data.asked import by_prompt
    from preflab.experiment.given_rewards import OwnTexts

    prompts = [row["prompt"] for row in rows]
    write = OwnTexts(scorer.tokenizer, by_prompt(prompts, found.asked, PAIRS))
    said = [[scorer.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in g.response_ids] for g in groups]
    asked = [prompt for prompt, texts in zip(prompts, said, strict=True) for _ in texts]
    return write(asked, [text for texts in said for text in texts])


def logits(scorer: Scorer, found: Encoded, size: int) -> list[list[float]]:
    """Return the score of each response ``[N, K]``.

    Args:
        scorer: the reward model.
        found: what it scores.
        size: responses scored at a time.

    Raises:
        UserError: for a text that is longer than the model reads.
    """
    from preflab.data.batches import collate
    from preflab.model.in_parts import scored

    longest = max(len(group.prompt_ids) + max(map(len, group.response_ids)) for group in found.texts)
    room = scorer.classifier.model.config.get_text_config().to_dict().get("max_position_embeddings") or UNLIMITED
    if longest > room:
        raise UserError(
            f"reward model {scorer.name} reads {room} tokens, and a prompt with its response takes {longest} in its "
            "tokenizer; leave long rows out"
        )
    batch = collate([group._replace(feedback={}) for group in found.texts], scorer.tokenizer.pad_token_id)
    scores: list[list[float]] = scored(scorer.classifier.logits, batch, size).reshape(len(found.groups), -1).tolist()
    return scores
