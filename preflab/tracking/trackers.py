"""The trackers: how each opens a run that transformers' own integration logs to, and what it takes of a result.

None of their packages is imported before a run is opened.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from preflab.errors import UserError, crash
from preflab.progress import say

logger = logging.getLogger(__name__)

PROJECT = "preflab"
"""What runs are filed under, unless the tracker's own variable (``WANDB_PROJECT``, …) says another."""


class Run(NamedTuple):
    """A run as trackers know it.

    Attributes:
        name: such as ``dpo-seed0``.
        group: what the runs of one comparison have in common.
        tags: the method, the seed and the comparison.
        config: its settings, JSON-ready, without secrets.
        folder: the run folder of the comparison.
    """

    name: str
    group: str
    tags: Sequence[str]
    config: Mapping[str, Any]
    folder: Path


class Outcome(NamedTuple):
    """What a comparison has found.

    Attributes:
        figures: by ``method/figure``.
        columns: of the table of all figures.
        rows: of that table.
        text: the verdict and the table, in Markdown.
        page: the report; None where none was written.
    """

    figures: Mapping[str, float]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    text: str
    page: Path | None = None


class Tracker(Protocol):
    """A tracker that gets every stage as a run, and the result as another."""

    def missing(self) -> str | None:
        """Say what is missing before anything can be logged, and what to do; None where nothing is."""

    def following(self, run: Run) -> Any:
        """Return a block in which a run is open, which what a trainer logs goes to; it is finished behind."""

    def report(self, run: Run, outcome: Outcome) -> None:
        """Log a result as a run."""


class WandB:
    """Weights & Biases: transformers logs to the run that is open in the process."""

    def missing(self) -> str | None:
        """See `Tracker`."""
        if find_spec("wandb") is None:
            return "wandb is not installed; pip install wandb, or leave it out"
        return None if _wandb_may_begin() else "not logged in; wandb login, or set WANDB_MODE=offline to keep runs here"

    @contextmanager
    def following(self, run: Run) -> Iterator[None]:
        """See `Tracker`; a run that is open already, as Python code may have one, is logged to and left open."""
        import wandb

        if wandb.run is not None:
            yield
            return
        self._begin(run, "train")
        with _finished(lambda code: wandb.finish(exit_code=code)):
            yield

    def report(self, run: Run, outcome: Outcome) -> None:
        """See `Tracker`."""
        import wandb

        begun = self._begin(run, "result")
        with _finished(lambda code: begun.finish(exit_code=code)):
            begun.summary.update({**outcome.figures, "verdict": outcome.text})
            begun.log({"figures": wandb.Table(columns=list(outcome.columns), data=[list(row) for row in outcome.rows])})
            if outcome.page is not None:
                begun.log({"report": wandb.Html(outcome.page.read_text(encoding="utf-8"))})

    def _begin(self, run: Run, kind: str) -> Any:
        import wandb

        # Metrics are asked for, not the code and the changes of whatever folder this is called from.
        settings = wandb.Settings(silent=True, console="off", save_code=False, disable_git=True)
        with _quietly():
            begun = wandb.init(**self._about(run, kind), settings=settings)
        if begun.url:
            say(f"{run.name}: tracked at {begun.url}")
        return begun

    @staticmethod
    def _about(run: Run, kind: str) -> dict[str, Any]:
        import wandb

        return dict(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            group=run.group,
            name=run.name,
            job_type=kind,
            tags=[tag[:64] for tag in run.tags if tag],  # it takes no more
            config=dict(run.config),
            **({"reinit": "create_new"} if wandb.run is not None else {}),
        )


def _wandb_may_begin() -> bool:
    """Whether W&B would begin a run without asking for a key, which nobody gives in the midst of training."""
    if os.environ.get("WANDB_MODE", "online") not in ("online", "shared"):
        return True
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        kept = netrc(os.environ.get("NETRC") or None).hosts
    except (OSError, NetrcParseError):
        return False
    return any(known == host or "wandb" in known for known in kept)


class TensorBoard:
    """TensorBoard: transformers writes where a variable says."""

    variable = "TENSORBOARD_LOGGING_DIR"

    def missing(self) -> str | None:
        """See `Tracker`."""
        found = find_spec("tensorboard") or find_spec("tensorboardX")
        return None if found else "tensorboard is not installed; pip install tensorboard, or leave it out"

    @contextmanager
    def following(self, run: Run) -> Iterator[None]:
        """See `Tracker`."""
        before, place = os.environ.get(self.variable), self._place(run)
        with self._writer(place) as writer:
            writer.add_text("run", _fenced(run))
        os.environ[self.variable] = str(place)
        try:
            yield
        finally:
            os.environ.pop(self.variable)
            if before is not None:
                os.environ[self.variable] = before

    def report(self, run: Run, outcome: Outcome) -> None:
        """See `Tracker`."""
        with self._writer(self._place(run)) as writer:
            writer.add_text("result", outcome.text)
            for name, value in outcome.figures.items():
                writer.add_scalar(name, value, 0)

    def _place(self, run: Run) -> Path:
        """Return the folder of a run: in the run folder, or, by group, where the variable says."""
        given = os.environ.get(self.variable)
        return Path(given).expanduser() / run.group / run.name if given else run.folder / "tensorboard" / run.name

    @contextmanager
    def _writer(self, place: Path) -> Iterator[Any]:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # as transformers does
            from tensorboardX import SummaryWriter  # type: ignore[import-not-found,no-redef]

        writer = SummaryWriter(str(place))
        try:
            yield writer
        finally:
            writer.close()


class Trackio:
    """Trackio, which keeps runs on this machine; only where ``TRACKIO_SPACE_ID`` names a Space do they go there."""

    def missing(self) -> str | None:
        """See `Tracker`."""
        return None if find_spec("trackio") else "trackio is not installed; pip install trackio, or leave it out"

    @contextmanager
    def following(self, run: Run) -> Iterator[None]:
        """See `Tracker`. transformers begins the run itself, and is told neither group nor settings: they are added."""
        import trackio

        begin, end = trackio.init, trackio.finish

        def with_group(**given: Any) -> Any:
            private = True if given.get("private") is None else given["private"]
            with beginning("trackio", run), _quietly():
                return begin(**{**given, **self._about(run), "private": private})

        def ended() -> None:
            with _quietly(), _finished(lambda code: end()):
                pass

        trackio.init, trackio.finish = with_group, ended
        try:
            with _finished(lambda code: self._finish()):
                yield
        finally:
            trackio.init, trackio.finish = begin, end

    def report(self, run: Run, outcome: Outcome) -> None:
        """See `Tracker`."""
        import trackio

        with _quietly(), _finished(lambda code: self._finish()):
            trackio.init(project=self.project, private=True, **self._about(run))
            table = trackio.Table(data=[dict(zip(outcome.columns, row, strict=True)) for row in outcome.rows])
            trackio.log({**outcome.figures, "figures": table, "verdict": trackio.Markdown(outcome.text)})

    @property
    def project(self) -> str:
        """What its runs are filed under."""
        return os.environ.get("TRACKIO_PROJECT", PROJECT)

    @staticmethod
    def _about(run: Run) -> dict[str, Any]:
        config = {**run.config, "tags": list(run.tags)}
        return {"name": run.name, "group": run.group, "config": config, "embed": False}

    @staticmethod
    def _finish() -> None:
        import trackio

        if trackio.context_vars.current_run.get() is not None:
            trackio.finish()


class MLflow:
    """MLflow: transformers logs to the run that is active."""

    def missing(self) -> str | None:
        """See `Tracker`."""
        return None if find_spec("mlflow") else "mlflow is not installed; pip install mlflow, or leave it out"

    @contextmanager
    def following(self, run: Run) -> Iterator[None]:
        """See `Tracker`."""
        import mlflow

        self._begin(run)
        with _finished(lambda code: mlflow.end_run("FAILED" if code else "FINISHED")):
            yield

    def report(self, run: Run, outcome: Outcome) -> None:
        """See `Tracker`."""
        import mlflow

        self._begin(run)
        with _finished(lambda code: mlflow.end_run("FAILED" if code else "FINISHED")):
            mlflow.log_metrics({name: float(value) for name, value in outcome.figures.items()})
            mlflow.log_text(outcome.text, "result.md")
            if outcome.page is not None:
                mlflow.log_artifact(str(outcome.page))

    @staticmethod
    def _begin(run: Run) -> None:
        import mlflow

        if "MLFLOW_EXPERIMENT_NAME" not in os.environ:
            mlflow.set_experiment(PROJECT)
        tags = {"group": run.group, **{f"tag{place}": tag for place, tag in enumerate(run.tags)}}
        mlflow.start_run(run_name=run.name, tags=tags)


TRACKERS: Mapping[str, Tracker] = {
    "wandb": WandB(),
    "tensorboard": TensorBoard(),
    "trackio": Trackio(),
    "mlflow": MLflow(),
}
"""By the names that ``report_to`` has for them."""


@contextmanager
def beginning(name: str, run: Run) -> Iterator[None]:
    """Answer whatever a tracker raises where a run is begun, of its own or its network's, in one line.

    Raises:
        UserError: in its place.
    """
    try:
        yield
    except Exception as error:
        reason = crash.without_secrets(crash.described(error))
        raise UserError(
            f"{name} cannot begin the run {run.name}: {reason}; mend that, or leave it out (finished stages are kept)"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what a package prints in a block from stdout, which has results alone."""
    with redirect_stdout(io.StringIO()):
        yield


@contextmanager
def _finished(finish: Any) -> Iterator[None]:
    """Call what ends a run behind a block, with 1 where it has failed, else 0; what was trained is lost by neither."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            finish(1)
        raise
    try:
        finish(0)
    except Exception as error:
        logger.warning("a tracker did not end its run: %s", crash.without_secrets(crash.described(error)))


def _fenced(run: Run) -> str:
    """Return what a run is, as text that Markdown leaves alone."""
    about = {"name": run.name, "group": run.group, "tags": list(run.tags), **run.config}
    lines = json.dumps(about, indent=1, ensure_ascii=False, default=str).splitlines()
    return "\n".join(f"    {line}" for line in lines)
