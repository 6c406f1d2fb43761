"""What is judged, by whom, how they are asked, and where their verdicts go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from preflab.settings.fields import option
from preflab.settings.values import LARGEST_SEED

TERMINAL_ANNOTATOR = "human"


@dataclass(frozen=True)
class AnnotateConfig:
    """What is judged, by whom, and where the verdicts go."""

    samples: tuple[str, ...] = option((), "two models' samples.jsonl on the same prompts: first=FILE,second=FILE")
    pairs: str | None = option(None, "preference file (json, jsonl, csv, parquet) whose pairs are judged afresh")
    output: str = option("verdicts.jsonl", "file of verdicts; those in it are not asked for again")
    export: str | None = option(None, "file to write the verdicts to as preference data: prompt, chosen, rejected")
    agreement: bool = option(False, "say how far the annotators of the file of verdicts agree")
    annotator: str | None = option(
        None,
        f"name that the verdicts are given under; without it {TERMINAL_ANNOTATOR!r}, and with --web each annotator "
        "types one",
    )
    seed: int = option(
        0, "seed of each annotator's order of pairs and of the responses' places", minimum=0, maximum=LARGEST_SEED
    )
    limit: int | None = option(None, "at most this many pairs, drawn by the seed, the same for all", minimum=1)
    web: bool = option(False, "ask on a page in the browser, any number of annotators (pip install 'preflab[web]')")
    host: str | None = option(
        None,
        "with --web, the address to serve at; without it 127.0.0.1, which this machine alone reaches. At another one a "
        "token in the page's address is needed to get in",
    )
    port: int | None = option(None, "with --web, the port; without it 8765; 0: any free one", minimum=0, maximum=65535)
    open: bool = option(False, "with --web, open the page in the browser of this machine")

    def __post_init__(self) -> None:
        if bool(self.samples) == bool(self.pairs) and (self.samples or not (self.export or self.agreement)):
            raise ValueError(
                "give either samples or pairs (or export or agreement alone, of verdicts that there are already)"
            )
        unused = [name for name in ("host", "port") if vars(self)[name] is not None] + ["open"] * self.open
        if unused and not self.web:
            raise ValueError(f"{unused[0]} is for the page in the browser; add web, or leave it out")
        if self.web and not (self.samples or self.pairs):
            raise ValueError("web shows pairs, and there are none; give samples or pairs")
        if self.annotator is not None and not self.annotator.isprintable():
            raise ValueError(f"annotator is {self.annotator!r}; a name is one line of characters that can be seen")
        self._check_export()

    def _check_export(self) -> None:
        files = (self.output, self.pairs, *(item.partition("=")[2] for item in self.samples))
        if self.export and Path(self.export).expanduser().is_dir():
            raise ValueError(f"export {self.export} is a folder; name a file in it")
        if self.export and any(file and _same_file(self.export, file) for file in files):
            raise ValueError(f"export {self.export} would overwrite what is read; choose another file")


def _same_file(one: str, other: str) -> bool:
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
