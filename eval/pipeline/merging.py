"""A trained model made ready to go elsewhere: folded into its base, or as an adapter, with figures on its card."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from preflab.disk.files import disk_space, read_object, remove, sync, write_json, write_text
from preflab.disk.stages import RECORD
from preflab.errors import UserError
from preflab.errors.terminal import one_line, say
from preflab.eval.subjects.run_folders import verify
from preflab.experiment.cards import NAME as CARD
from preflab.experiment.cards import SCALAR, Trained, card_of, mapping
from preflab.experiment.identity import StandsOn
from preflab.experiment.settings import RunConfig
from preflab.method import registry
from preflab.model.adapter_config import CONFIG, NORMALISATION, read_config
from preflab.model.card import Section
from preflab.model.hub_names import hub_model
from preflab.model.pushing import PushConfig, check_destination, push
from preflab.progress import progress
from preflab.settings.fields import option
from preflab.worlds import WorldConfig

if TYPE_CHECKING:
    from preflab.eval.records.comparison import Comparison
    from preflab.model.merging import Agreement

logger = logging.getLogger(__name__)

ROLES = ("policy", *SCALAR)
TOKENIZER = "tokenizer_config.json"


@dataclass(frozen=True)
class MergeConfig:
    """What becomes of an adapter, and where it goes."""

    output: str | None = option(None, "folder to write, which must not be there yet")
    fold: bool = option(True, "fold the adapter into its base; false: keep it an adapter, with tokenizer and card")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "type that the folded model is stored in; auto: the base's own"
    )
    base: str | None = option(None, "the base, hub name or folder, where it is not what the adapter says")
    trust_remote_code: bool = option(False, "run Python code that comes with the model named as base")

    def __post_init__(self) -> None:
        if self.output is None:
            raise ValueError("output names the folder to write; give one")
        if self.trust_remote_code and self.base is None:
            raise ValueError("trust_remote_code is for a model that you name: give base too")
        if self.dtype != "auto" and not self.fold:
            raise ValueError("dtype is of a folded model, and fold is false; leave it out")


class Place(NamedTuple):
    """A trained role on disk.

    Attributes:
        adapter: its folder.
        trained: what is known of it.
    """

    adapter: Path
    trained: Trained


def merge_model(source: str, config: MergeConfig, destination: PushConfig) -> None:
    """Write a trained model to a folder of its own and, if asked, put that on the hub.

    Args:
        source: a run, one of its stages, or the folder of an adapter.
        config: what becomes of it.
        destination: where on the hub it goes.

    Raises:
        UserError: if it is not clear which model is meant, or it cannot be opened, folded, written or pushed.
    """
    output = Path(str(config.output)).expanduser()
    if output.exists():
        raise UserError(f"--output {output} is there already; name a folder that is not")
    place = found_at(Path(source).expanduser(), config.base)
    if destination.push_to_hub and not config.fold:
        check_public(place.trained.base)
    check_destination(destination)
    agreement = export(place, config, output)
    if agreement is not None:
        say(agreement.sentence())
    say(f"written to {output}")
    if address := push(output, destination):
        say(f"pushed to {address}")


def export(place: Place, config: MergeConfig, output: Path) -> Agreement | None:
    """Write a model, whole or not at all, with tokenizer and card; return how far it is what it was, if folded."""
    with _appearing(output) as folder:
        if not config.fold:
            _copied(place, folder)
            agreement, more = None, []
        else:
            check_foldable(place)
            agreement = _folded(place, config, folder)
            more = [Section("Folded", [agreement.sentence()])]
        sections = [*filter(None, [found_of(place.trained)]), *more]
        write_text(folder / CARD, card_of(place.trained, sections, merged=config.fold).text())
    return agreement


def check_push(run: RunConfig, world: WorldConfig, destination: PushConfig) -> None:
    """See, before anything is trained, that what is to be trained can go where it is to be put on the hub.

    Raises:
        UserError: if not, with what to do.
    """
    if destination.push_to_hub is None:
        return
    if len(run.seeds) > 1:
        raise UserError(
            f"--push-to-hub takes one model, and seeds names {len(run.seeds)}; push one of them afterwards: preflab "
            "merge STAGE --fold false --output FOLDER --push-to-hub OWNER/NAME"
        )
    check_public(world.model or f"that of the {world.kind} world")
    check_destination(destination)


def push_trained(adapter: Path, destination: PushConfig) -> None:
    """Put an adapter on the hub, with its figures, if asked to."""
    if destination.push_to_hub is None:
        return
    with TemporaryDirectory(prefix="preflab-") as folder:
        output = Path(folder) / "adapter"
        export(found_at(adapter), MergeConfig(output=str(output), fold=False), output)
        say(f"pushed to {push(output, destination)}")


# ---- which model -------------------------------------------------------------------------------------


def found_at(path: Path, base: str | None = None) -> Place:
    """Return the trained role that a path names: a run's only model, a stage, or the folder of an adapter.

    Raises:
        UserError: if there is none, or several, which are then named.
    """
    if (path / "stages").is_dir():
        path = _only(path)
    folders = (path, *(path / role for role in ROLES))
    adapter = next((folder for folder in folders if (folder / CONFIG).is_file()), None)
    if adapter is None:
        raise UserError(f"{path} holds no adapter; name a run, one of its stages, or the folder of an adapter")
    if not verify(adapter):
        logger.warning("%s has no list of digests: that it is as it was written is not verified", adapter)
    said, about = read_config(adapter), _stage_of(adapter)
    named = base or said.get("base_model_name_or_path")
    if not named:
        raise UserError(f"{adapter} does not say which model it stands on; give --base")
    role = adapter.name if adapter.name in ROLES else "reward" if said.get("task_type") == "SEQ_CLS" else "policy"
    inputs, record = (mapping(about, part) for part in ("inputs", "record"))
    stage = adapter.absolute().parent
    run = stage.parent.parent if about else adapter  # an adapter by itself has no manifest
    name = str(inputs.get("stage", adapter.absolute().name))
    return Place(adapter, Trained(name, role, str(named), inputs, record, run, _algorithm(inputs)))


def _only(run: Path) -> Path:
    """Return the one stage of a run that is meant: a policy that no other starts from, else a reward model.

    Raises:
        UserError: if there are several, or none.
    """
    records = sorted((run / "stages").glob(f"*/{RECORD}"))
    stages = [path.parent for path in records if not path.parent.name.startswith(".")]
    starts = {str(StandsOn.said(mapping(read_object(stage / RECORD), "inputs")).sft) for stage in stages}
    policies = [stage for stage in stages if (stage / "policy" / CONFIG).is_file()]
    trained = [stage for stage in policies if stage.name.rpartition("-")[2] not in starts] or policies
    found = trained or [stage for stage in stages if (stage / "reward" / CONFIG).is_file()]
    if not found:
        raise UserError(f"{run} is a run in which no model is trained yet")
    if len(found) > 1:
        listed = ", ".join(str(stage) for stage in found)
        raise UserError(f"{run} holds {len(found)} models; name one of them: {one_line(listed)}")
    return found[0]


def _stage_of(adapter: Path) -> dict[str, Any]:
    """Return what the stage says that an adapter lies in; nothing where it lies in none."""
    record = adapter.absolute().parent / RECORD
    return read_object(record) if record.is_file() else {}


def _algorithm(inputs: Mapping[str, Any]) -> Any:
    """Return the class of an installed method; code that a folder names is not run."""
    name = inputs.get("method")
    return registry.load(name) if isinstance(name, str) and name in registry.registered() else None


# ---- what it becomes ---------------------------------------------------------------------------------


def check_public(base: str) -> None:
    """Refuse an adapter for the hub that others could not put on anything.

    Raises:
        UserError: if its base lies on this machine alone.
    """
    if hub_model(base) is None:
        raise UserError(
            f"--push-to-hub: others open an adapter on its base, and {base} is a folder of this machine; give the "
            "base's name on the hub as --base (of preflab merge), or push the model folded (--fold true)"
        )


def check_foldable(place: Place) -> None:
    """Refuse what folded in would be another model than was trained.

    Raises:
        UserError: saying which, and what to do instead.
    """
    trained = place.trained
    bits = mapping(trained.inputs, "lora").get("load_in", "none")
    if bits != "none":
        raise UserError(
            f"{place.adapter} was trained on its base in {bits}, and on the whole base is another model; keep it an "
            "adapter (--fold false), and open the base in the same bits"
        )
    if trained.algorithm is not None and trained.algorithm.kind == "decoder":
        raise UserError(f"{trained.method} trains nothing: its policy is the one it starts from; merge that")


def _folded(place: Place, config: MergeConfig, folder: Path) -> Agreement:
    from preflab.data.encoding import load_tokenizer
    from preflab.experiment.opening import quiet_libraries
    from preflab.model.merging import merge

    quiet_libraries()
    base, scalar, trust = place.trained.base, place.trained.role in SCALAR, config.trust_remote_code
    beside = (place.adapter / TOKENIZER).is_file()
    if not beside:
        logger.warning("no tokenizer lies beside %s: the base's own is taken", place.adapter)
    tokenizer = load_tokenizer(str(place.adapter) if beside else base, trust)
    if scalar and not beside:
        raise UserError(
            f"{place.adapter} has no tokenizer that says how its score is padded; train it again, or keep it apart"
        )
    with progress(f"folding {place.adapter.parent.name}"):
        found = merge(
            base, place.adapter, folder, tokenizer, scalar=scalar, dtype=config.dtype, trust_remote_code=trust
        )
    if (place.adapter / NORMALISATION).is_file():
        shutil.copyfile(place.adapter / NORMALISATION, folder / NORMALISATION)
    return found


def _copied(place: Place, folder: Path) -> None:
    """Copy an adapter's files, naming its base as others know it."""
    folder.mkdir()
    for path in sorted(place.adapter.iterdir()):
        if path.is_file() and not path.is_symlink() and path.name != CARD:
            shutil.copyfile(path, folder / path.name)
    public = hub_model(place.trained.base)
    if public is not None:
        said = read_object(folder / CONFIG)
        write_json(folder / CONFIG, {**said, "base_model_name_or_path": public.name, "revision": public.revision})


def found_of(trained: Trained) -> Section | None:
    """Return what the run's evaluation says of a model; None where it was not evaluated."""
    from preflab.eval.report.model_card import figures_section, reward_section

    for name in ("comparison.json", f"{trained.method}.json"):
        comparison = _comparison(trained.run / name)
        if comparison is None:
            continue
        settings = {**mapping(trained.inputs, "config"), **mapping(trained.inputs, "train")}
        found = figures_section(comparison, trained.method, settings)
        if found is None and trained.role == "reward":
            found = reward_section(comparison)
        if found is not None:
            return found
    return None


def _comparison(path: Path) -> Comparison | None:
    from preflab.eval.records.comparison import read_comparison

    if not path.is_file():
        return None
    try:
        return read_comparison(path)
    except UserError as error:
        logger.warning("no figures on the card: %s", error)
        return None


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """Give a place to write to that takes the output's name once all in it is written; nothing is left otherwise."""
    working = output.absolute().with_name(f".{output.name}.partial")
    try:
        working.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from None
    remove(working)
    try:
        with disk_space(working.parent):
            yield working
            for path in working.iterdir():
                sync(path)
            working.replace(output.absolute())
            sync(working.parent)
    finally:
        remove(working)
