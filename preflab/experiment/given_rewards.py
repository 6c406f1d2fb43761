"""Reward models from elsewhere: adapters on the base, or classifiers with weights and texts of their own."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflab.disk.stages import content_hash
from preflab.errors import UserError
from preflab.experiment.identity import model_fingerprint
from preflab.model.adapter_config import NORMALISATION, read_config
from preflab.model.hub_names import called_alike
from preflab.tokens.templates import has_template

if TYPE_CHECKING:
    from preflab.data.asked import Asked
    from preflab.data.encoding import EncodedGroup
    from preflab.experiment.experiment import Experiment
    from preflab.model.classifiers import Classifier
    from preflab.tokens.literals import Literals

logger = logging.getLogger(__name__)

AT_ONCE = 32  # texts, where they are short


@dataclass(frozen=True)
class GivenReward:
    """A reward model as a person names it.

    Attributes:
        source: a PEFT adapter saved as a classifier, or a classifier with one label: its folder, or name on the hub.
        adapter: which of the two.
    """

    source: str
    adapter: bool = True

    @cached_property
    def key(self) -> str:
        """Hash of the weights' files."""
        return model_fingerprint(self.source)

    def key_in(self, experiment: Experiment) -> str:
        """Return a hash of all that its scores come from: its files, and the base where that is another model."""
        base = self.base(experiment)
        if base in (self.source, experiment.world.model):
            return self.key
        return content_hash([self.key, model_fingerprint(base)])

    @property
    def normalised(self) -> bool:
        """Whether mean and deviation of its scores lie beside it."""
        return self.adapter and (Path(self.source) / NORMALISATION).is_file()

    def base(self, experiment: Experiment) -> str:
        """Return the model that it stands on: the experiment's own, unless it says that it was made for another."""
        ours = experiment.world.model
        if not self.adapter:
            return self.source
        named = read_config(Path(self.source)).get("base_model_name_or_path")
        if named and Path(named).is_dir():  # its name may be that of another folder
            return ours if model_fingerprint(named) == experiment.data["model_fingerprint"] else str(named)
        if not named or called_alike(named, ours):
            return ours
        return str(named) if _on_hub(named) else ours

    def on_base(self, experiment: Experiment) -> bool:
        """Whether the roles can read it on their own base, in the texts that the policy writes.

        Not so an adapter that reads messages by a chat template of its own, as other trainers write it to the last
        token, and one that is more than LoRA.
        """
        from preflab.model.adapters import OtherAdapterError, read_folder

        if not self.adapter or self.base(experiment) != experiment.world.model:
            return False
        said = experiment.world.asked.values()
        if not self.normalised and any(one.messages is not None for one in said) and has_template(Path(self.source)):
            return False
        try:
            read_folder(Path(self.source))
        except OtherAdapterError as error:
            logger.info("%s; folding it into a base of its own", error)
            return False
        return True

    def load(self, experiment: Experiment) -> tuple[Classifier, Any]:
        """Load it with weights of its own, and its tokenizer.

        Raises:
            UserError: if either cannot be loaded.
        """
        from preflab.data.encoding import load_tokenizer
        from preflab.model.classifiers import load_classifier

        base, ours = self.base(experiment), experiment.world.model
        # Only code of models that a person named is run, never that of a base which an adapter names.
        trust = experiment.world_config.trust_remote_code and base in (self.source, ours)
        adapter = Path(self.source) if self.adapter else None
        if experiment.lora.load_in != "none":
            logger.warning(
                "%s has weights of its own, in %s: load_in %s is for the base that the policy shares",
                self.source,
                experiment.lora.dtype,
                experiment.lora.load_in,
            )
        classifier = load_classifier(base, experiment.lora.dtype, adapter, trust_remote_code=trust)
        if adapter is not None and (adapter / "tokenizer_config.json").is_file() and not self.normalised:
            return classifier, load_tokenizer(self.source)
        return classifier, experiment.tokenizer if base == ours else load_tokenizer(base, trust)

    def texts(self, experiment: Experiment) -> TextReward:
        """Return it as a function of texts; nothing is loaded before that is called."""
        return TextReward(self, experiment)


class TextReward:
    """A reward model as a function of prompts and responses, normalised by what lies beside it.

    A prompt that was given as messages is written, with its response, by the model's own chat template where it has
    one, to the last token, as trainers of such models do. Everything else is encoded as the policy's texts are.

    Args:
        given: the model.
        experiment: says what the prompts were before they were text.
    """

    def __init__(self, given: GivenReward, experiment: Experiment) -> None:
        self.given, self.experiment = given, experiment

    @cached_property
    def _loaded(self) -> tuple[Classifier, OwnTexts]:
        classifier, tokenizer = self.given.load(self.experiment)
        world = self.experiment.world
        if world.chat and not tokenizer.chat_template:
            logger.warning(
                "reward model %s has no chat template: it reads the texts that the policy's template wrote",
                self.given.source,
            )
        return classifier, OwnTexts(tokenizer, world.asked, self.experiment.encoder.literals)

    @property
    def reads_messages(self) -> bool:
        """Whether it writes dialogues by a template of its own."""
        return any(said.messages is not None for said in self._loaded[1].asked.values())

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the reward of each response.

        Raises:
            UserError: for a text that is longer than the model reads, or messages that its template refuses.
        """
        mean, std = self._loaded[0][1:]
        return [(logit - mean) / std for logit in self.logits(prompts, responses)]

    def logits(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Return the same before it is normalised: its differences are log-odds."""
        from preflab.data.batches import collate
        from preflab.model.in_parts import scored
        from preflab.scoring.batching import rows_at_once

        classifier, texts = self._loaded
        groups = texts(prompts, responses)
        longest = max((len(group.prompt_ids) + len(group.response_ids[0]) for group in groups), default=0)
        room = getattr(classifier.model.config.get_text_config(), "max_position_embeddings", None) or longest
        if longest > room:
            raise UserError(
                f"reward model {self.given.source} reads {room} tokens, and a prompt with its response takes {longest} "
                "in its tokenizer; lower --max-prompt-tokens or --max-response-tokens"
            )
        batch = collate(groups, texts.tokenizer.pad_token_id)
        found: list[float] = scored(classifier.logits, batch, rows_at_once(AT_ONCE, longest))[:, 0].tolist()
        return found


class OwnTexts:
    """Prompts with their responses in a reward model's own tokens.

    Args:
        tokenizer: the reward model's.
        asked: what else is known of prompts; their messages, where a chat template wrote them.
        literals: special-token strings that the prompts were written with.
    """

    def __init__(self, tokenizer: Any, asked: Mapping[str, Asked], literals: Literals | None = None) -> None:
        from preflab.data.encoding import Encoder
        from preflab.tokens.literals import Literals
        from preflab.tokens.tokenising import Tokeniser

        self.tokenizer, self.asked = tokenizer, asked if tokenizer.chat_template else {}
        self.encoder = Encoder(tokenizer, literals=literals)
        self.tokenise = Tokeniser(tokenizer, Literals.of(tokenizer))

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[EncodedGroup]:
        """Return each prompt, a text as the world wrote it, with its response, a text without special tokens.

        Raises:
            UserError: for messages that the chat template refuses.
        """
        from preflab.data.encoding import EncodedGroup
        from preflab.tokens.templates import limited

        found = []
        with limited():
            for prompt, response in zip(prompts, responses, strict=True):
                said = self.asked.get(prompt)
                if said is None or said.messages is None:
                    ids, answer = self.encoder.prompt(prompt), self.encoder.response(prompt, response)
                else:
                    whole = self._written(said.messages, response, said.tools)
                    ids, answer = whole[:-1], whole[-1:]
                found.append(EncodedGroup(ids, [answer], 0))
        return found

    def _written(self, messages: Sequence[Mapping[str, Any]], response: str, tools: Sequence[Any]) -> list[int]:
        """Return a whole dialogue as the template writes it; a turn that the prompt began goes on in the response."""
        from preflab.tokens.literals import guard
        from preflab.tokens.templates import written

        begun = messages[-1] if messages[-1]["role"] == "assistant" else {"role": "assistant", "content": ""}
        answer = {**begun, "content": begun["content"] + response}
        said = [*(messages[:-1] if messages[-1] is begun else messages), answer]
        guarded = [{k: v if k == "role" else guard(v, self.tokenizer) for k, v in one.items()} for one in said]
        try:
            text = written(self.tokenizer, guarded, tools=guard(tools, self.tokenizer) or None)
        except UserError:
            raise
        except Exception as error:  # a template is a program of somebody else's, and raises whatever it likes
            raise UserError(
                f"the chat template of reward model {self.tokenizer.name_or_path} refuses a dialogue: {error}"
            ) from None
        return self.tokenise([text], False)[0]


def _on_hub(name: str) -> bool:
    """Whether a name is that of a model that the hub, or what is kept of it here, has."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return False
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception:  # whatever a config of anybody's making leads to; the adapter is then tried on our own base
        return False
    return True
