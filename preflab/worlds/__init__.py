"""Worlds: where prompts, a base model, preferences and (where planted) a gold reward come from."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from preflab.data.asked import Asked
from preflab.data.columns import parse_columns
from preflab.data.splits import fingerprint
from preflab.data.turns import Dialogues
from preflab.errors import UserError
from preflab.errors.terminal import shown
from preflab.rewards import OwnReward, RewardOptions
from preflab.settings.fields import option
from preflab.settings.values import LARGEST_SEED

if TYPE_CHECKING:
    from datasets import Dataset

    from preflab.data.encoding import EncodedGroup

GoldReward = Callable[[Sequence[str], Sequence[str]], list[float]]
"""Planted reward r*: prompts and responses (texts, same length) to one score each."""


GOLD_SHARE = 0.25


@dataclass(frozen=True)
class WorldConfig(RewardOptions):
    """Which model, which preferences, how they are cut into splits, and which reward of one's own."""

    world: Literal["auto", "reviews", "exact", "function", "real"] = option(
        "auto",
        "where data comes from; auto: real with --dataset or --heldout, function with --reward, else reviews",
        means="kind",
    )
    model: str | None = option(None, "base causal language model: hub name or local folder")
    dataset: str | None = option(
        None,
        "preference data: hub name or local json, jsonl(.gz), parquet or csv file",
        brief="preference data: a file (json, jsonl, csv, parquet) or hub name",
    )
    dataset_split: str = option("train", "split to load when the data set comes from the hub")
    columns: tuple[str, ...] = option(
        (),
        "which column holds what, where names differ: prompt=question,chosen=answer_a,… (also a.b for inner fields)",
        brief="names of columns, as prompt=question chosen=answer_a",
    )
    heldout: str | None = option(
        None,
        "separate held-out preference file; default: split by hashed prompt. Without --dataset, to evaluate only",
        brief="held-out preferences in a file of their own",
    )
    prompts: str | None = option(
        None,
        "prompt file of the function world: txt, or data with 'prompt' as text or messages; default: the model samples "
        "openings, or, where it has a chat template, instructions",
    )
    chat_template: str | None = option(None, "file with a Jinja chat template, for tokenizers that have none")
    dialogues: Dialogues = option(
        "auto",
        "what text becomes for a model with a chat template; auto: messages (a Human/Assistant dialogue its turns, "
        "anything else one user's message), but what a template wrote stays; messages: refuse that; text: all stays",
    )
    system: str | None = option(
        None, "system prompt of dialogues that have none, as text or @FILE; default: what the chat template does"
    )
    heldout_fraction: float = option(
        0.2, "share of prompts held out for evaluation; 0 where nothing is evaluated", minimum=0.0, maximum=0.8
    )
    gold_fraction: float | None = option(
        None,
        "share of training prompts kept for the judge's own reward model (real data); default: 0.25, and none where "
        "reward is functions alone, which judge then",
        minimum=0.0,
        maximum=0.8,
    )
    validation_fraction: float | None = option(
        None,
        "share of training prompts set aside for evaluations during training; default: 0.1 with eval_steps, else none",
        minimum=0.0,
        maximum=0.5,
    )
    max_prompt_tokens: int = option(
        256, "longer prompts are dropped and counted (see long_prompts)", minimum=1, maximum=2**24
    )
    long_prompts: Literal["drop", "last-turns", "truncate"] = option(
        "drop",
        "what to do with longer prompts of real data: drop the row; keep the last turns of a dialogue that fit; or, "
        "besides, cut off the beginning of what is still too long",
    )
    max_response_tokens: int = option(
        128, "longer responses are dropped (see long_responses); sampling stops here", minimum=1, maximum=2**20
    )
    long_responses: Literal["drop", "truncate"] = option(
        "drop", "what to do with longer responses of real data: drop the row, or cut them there, without an end token"
    )
    max_pairs: int | None = option(None, "at most this many pairs (and unpaired responses), drawn by seed", minimum=4)
    special_tokens: Literal["auto", "text", "tokens"] = option(
        "auto",
        "what special-token strings such as <|im_end|> are in rows of plain text (in messages they are text); auto: "
        "tokens in dialogues that a chat template wrote, and at the end of a response",
    )
    bad_rows: Literal["drop", "refuse"] = option("drop", "what to do with unusable rows: drop and count, or stop")
    trust_remote_code: bool = option(False, "run Python code that comes with a hub model")
    data_seed: int = option(
        0, "seed of splits, planted preferences and the embedded base model", minimum=0, maximum=LARGEST_SEED
    )
    tail: bool = option(
        False,
        "exact world: with symbols that the reference all but never says, and preferences say nothing of",
        brief="with symbols that the reference all but never says",
    )
    quick: bool = option(False, "a smaller run of everything, for a first look")

    @property
    def system_prompt(self) -> str | None:
        """What ``system`` says, read from its file if it names one.

        Raises:
            ValueError: if the file cannot be read, or nothing is in it.
        """
        if self.system is None:
            return None
        text = self.system
        if text.startswith("@"):
            try:
                text = Path(text[1:]).expanduser().read_text(encoding="utf-8")
            except (OSError, RuntimeError, ValueError) as error:
                raise ValueError(f"system {shown(self.system)} cannot be read: {error}") from None
        if not text.strip():
            raise ValueError("system is empty; leave it out, or say something")
        return text.strip()

    @property
    def truncated(self) -> tuple[Literal["prompt", "response"], ...]:
        """What is cut where it is over its limit."""
        prompt: tuple[Literal["prompt"], ...] = ("prompt",) if self.long_prompts == "truncate" else ()
        return (*prompt, "response") if self.long_responses == "truncate" else prompt

    @property
    def kind(self) -> str:
        """The world that ``auto`` stands for."""
        if self.world != "auto":
            return self.world
        return "real" if self.dataset else "function" if self.reward else "real" if self.heldout else "reviews"

    @property
    def judges(self) -> bool:
        """Whether the world itself says how good an answer is: by a planted reward, or by one of functions alone."""
        return self.kind != "real" or self.reward_is_code

    @property
    def gold_share(self) -> float:
        """The share that ``gold_fraction`` stands for."""
        if self.gold_fraction is None:
            return 0.0 if self.reward_is_code else GOLD_SHARE
        return self.gold_fraction

    def required(self) -> tuple[str, ...]:
        """Return the options that this world cannot do without."""
        # Held-out preferences alone are enough to evaluate on.
        data = "heldout" if self.heldout and not self.dataset else "dataset"
        return {"real": ("model", data), "function": ("model", "reward")}.get(self.kind, ())

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.required():
            if getattr(self, name) is None:
                raise ValueError(f"the {self.kind} world needs --{name}")
        if self.kind == "real" and self.prompts is not None:
            raise ValueError("the real world has its own preferences and takes no prompts; drop it, or --dataset")
        if self.kind not in ("real", "function") and self.reward is not None:
            raise ValueError(f"the {self.kind} world has a planted reward and takes no reward; drop it, or --world")
        if self.kind == "real" and self.gold_fraction and self.reward_is_code:
            raise ValueError("gold_fraction is for a judge's own reward model, and reward judges; leave it out")
        for name in ("long_prompts", "long_responses"):
            if self.kind != "real" and getattr(self, name) != "drop":
                raise ValueError(f"{name} is for real data, and the {self.kind} world makes its own; leave it out")
        for name in ("model", "dataset", "heldout", "prompts", "chat_template"):
            value = getattr(self, name)
            if value is not None and _looks_local(value, name):
                _check_path(name, value)
        parse_columns(self.columns)
        _ = self.system_prompt  # raises for a file that is not there
        if self.dialogues == "messages" and self.special_tokens == "tokens":
            raise ValueError(
                "in messages, special-token strings are text; drop --special-tokens tokens, or --dialogues"
            )
        for name in ("dialogues", "system"):
            if self.kind in ("reviews", "exact") and getattr(self, name) not in ("auto", None):
                raise ValueError(f"the {self.kind} world makes its own texts and takes no {name}; drop it")
        if self.tail and self.kind != "exact":
            raise ValueError(f"tail is of the exact world, and this is the {self.kind} world; drop it")
        if self.heldout_fraction + self.gold_share >= 1:
            raise ValueError("heldout_fraction and gold_fraction leave nothing to train on; make one smaller")


def _check_path(name: str, value: str) -> None:
    try:
        path = Path(value).expanduser()
        found = path.exists()
    except (OSError, RuntimeError) as error:  # a name that no file system has, the home of nobody
        raise ValueError(f"{name} {shown(value)} is no path: {error}") from None
    if not found:
        raise ValueError(f"{name} {shown(value)} does not exist")
    if name in ("prompts", "chat_template") and not path.is_file():
        raise ValueError(f"{name} {shown(value)} is no file")


def _looks_local(value: str, name: str) -> bool:
    """Whether a name is a path rather than a hub id (``owner/name``)."""
    if name in ("heldout", "prompts", "chat_template"):
        return True
    suffixes = (".json", ".jsonl", ".gz", ".parquet", ".csv")
    return value.startswith((".", "/", "~")) or value.count("/") > 1 or value.endswith(suffixes)


SPLITS = ("demonstrations", "pairs", "singles", "heldout", "gold_pairs", "prompts", "eval_prompts")


@dataclass(frozen=True)
class World:
    """Texts and model of one comparison. All splits are disjoint in their prompts, but for the exact world's.

    Attributes:
        name: ``reviews``, ``exact``, ``function`` or ``real``.
        model: hub name or folder of the base causal language model, tokenizer beside it.
        demonstrations: columns ``prompt``, ``response``; empty where there is no SFT stage.
        pairs: preference training set; columns ``prompt``, ``chosen``, ``rejected``, and where the data have
            them ``responses`` (all, best first), ``rank`` (where some of those tie), ``preference``, ``margin``.
        heldout: held-out preferences, same columns (and ``subset`` where the data has it).
        gold_pairs: training set of the judge's own reward model; empty where `gold` is given.
        prompts: column ``prompt``; what on-policy methods sample from.
        eval_prompts: column ``prompt``; shared by every method's evaluation.
        gold: the planted reward, a reward of one's own that is functions alone, or None: who judges.
        gold_key: what decides the planted reward beside the data, for the keys of stages that maximise it or are judged
            by it.
        max_response_tokens: the longest response there is, where the world knows one; else the settings say.
        facts: counts, fingerprints and notes, for people: they decide nothing, and no key depends on them.
        chat: whether texts were rendered by a chat template that writes its own special tokens.
        singles: responses to training prompts that come without a pair, for methods that learn from single
            ones; columns ``prompt``, ``response``, ``desirable``. None where the data have none.
        encoded: splits (and ``demonstrations``, ``prompts``, ``eval_prompts``) that were encoded on the way, by name.
        cut: whether a response that fills the token limit was cut there and bears no end token.
        reward: the reward of one's own that is not planted but given, with what it is told of prompts.
        asked: more of the prompts of all splits, by their text; of those that there is more to say of. Their further
            columns are part of the data's fingerprint.
        validation: the same world with rows set aside in the place of those that are learnt from; None: no such rows
            (`preflab.worlds.validation`).
    """

    name: str
    model: str
    demonstrations: Dataset
    pairs: Dataset
    heldout: Dataset
    gold_pairs: Dataset
    prompts: Dataset
    eval_prompts: Dataset
    gold: GoldReward | None
    gold_key: str = ""
    max_response_tokens: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    chat: bool = False
    cut: bool = False
    singles: Dataset | None = None
    encoded: Mapping[str, list[EncodedGroup]] = field(default_factory=dict)
    asked: Mapping[str, Asked] = field(default_factory=dict)
    validation: World | None = None
    reward: OwnReward | None = None

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """What is in each split, by name, and in further columns (``asked``); of those that there are."""
        found = {name: fingerprint(getattr(self, name)) for name in SPLITS if getattr(self, name) is not None}
        # The messages of a prompt are in its text already.
        columns = [{"prompt": p, "columns": dict(said.columns)} for p, said in self.asked.items() if said.columns]
        return {**found, "asked": fingerprint(columns)} if columns else found


def open_world(config: WorldConfig, cache: Path) -> World:
    """Load or build the world that `config` names; slow parts are kept under `cache`.

    Raises:
        UserError: where the data or model cannot be used.
    """
    try:
        module = importlib.import_module(f"preflab.worlds.{config.kind}")
    except ModuleNotFoundError as error:
        raise UserError(f"world {config.kind!r} cannot be imported: {error}") from None
    world: World = module.build(config, cache)
    return world
