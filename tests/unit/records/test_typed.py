"""Records are read as they were written, and nothing else is taken for one."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from dataclasses import fields, replace

import pytest
from jsonschema import Draft202012Validator
from report_fixture import bare, comparison, typed

from docs.make_record_page import FOLDER, SCHEMAS, page, schema
from preflab.errors import UserError
from preflab.eval.metrics import measures_of
from preflab.eval.metrics.measures import OF_METHOD
from preflab.eval.records.comparison import Comparison, Evaluation, read_comparison, read_evaluation
from preflab.eval.records.figures import Figure, Method
from preflab.eval.records.typed import described, json_schema, records_of, to_json

KINDS = records_of(Evaluation)


def written(tmp_path, content):
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(content))
    return path


def places(value, path=()):
    """Yield the path of everything that a record holds."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from places(part, (*path, name))


def changed(content, path, change):
    """Return a copy in which `change` was done to what holds the end of `path`."""
    found = copy.deepcopy(content)
    holder = found
    for name in path[:-1]:
        holder = holder[name]
    change(holder, path[-1])
    return found


def remove(holder, name):
    del holder[name]


def replaced_by(value):
    return lambda holder, name: holder.__setitem__(name, value)


def small():
    """Return a comparison with one of each thing."""
    found = comparison()
    for name in ("training", "methods", "diagnosis", "overoptimisation"):
        found[name] = {"ppo": found[name]["ppo"]}
    for rows in (found["pairwise"], found["ranking"], found["training"]["ppo"]["0"], found["diagnosis"]["ppo"]):
        del rows[1:]
    for name, rows in found["frontier"].items():
        if name != "oracle":
            del rows[1:]
    del found["overoptimisation"]["ppo"]["points"][1:]
    for name in ("kl", "reward", "low", "high", "ess"):
        del found["frontier"]["oracle"][name][1:]
    return found


@pytest.mark.parametrize("content", [comparison(), bare()], ids=["full", "bare"])
def test_what_is_written_is_read_back(content, tmp_path):
    record = read_comparison(written(tmp_path, content))
    assert json.loads(json.dumps(to_json(record))) == content
    assert typed(to_json(record)) == record


def test_a_number_that_is_none_is_null_in_a_file():
    content = comparison()
    content["methods"]["dpo"]["kl"]["low"] = None
    figure = typed(content).methods["dpo"].figures["kl"]
    assert math.isnan(figure.low)
    assert to_json(Figure(1.0, 0.5, 1.5, 9)) == {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 9}
    assert to_json(Figure(1.0, 0.5, 1.5, 9, "doubtful"))["note"] == "doubtful"


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        (("headline",), remove, "headline is missing"),
        (("surprise",), replaced_by(1), "surprise is unknown"),
        (("methods", "dpo", "train", "flops"), remove, "methods.dpo.train.flops is missing"),
        (("methods", "dpo", "kl", "mean"), remove, "methods.dpo.kl.mean is missing"),
        (("methods", "dpo", "kl"), replaced_by(0.5), "methods.dpo.kl is of type float; it must be dict"),
        (("methods", "dpo", "kl", "n"), replaced_by(True), "methods.dpo.kl.n is of type bool; it must be int"),
        (("pairwise", 0, "p"), replaced_by("0.1"), "pairwise[0].p is of type str; it must be int or float"),
        (("pairwise", 0, "verdict"), replaced_by("maybe"), "pairwise[0].verdict is 'maybe'; it must be one of 'first'"),
        (("frontier", "points"), replaced_by({}), "frontier.points is of type dict; it must be list"),
        (("diagnosis", "ppo", 0, "more"), replaced_by(""), "diagnosis.ppo[0].more is unknown"),
        (
            ("methods", "dpo", "kl", "mean"),
            replaced_by(math.nan),
            "methods.dpo.kl.mean is nan: JSON has no such",
        ),
        (("config", "run", "rate"), replaced_by(math.inf), "config.run.rate is inf: JSON has no such number"),
        (("pairwise", 0, "p"), replaced_by(10**400), "pairwise.0.p is of type int: JSON has no"),
        (("a\n\x1b[31mb",), replaced_by(1), r"a \x1b[31mb is unknown"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_field(path, change, said, tmp_path):
    file = written(tmp_path, changed(comparison(), path, change))
    with pytest.raises(UserError, match=f"^{re.escape(str(file))}: {re.escape(said)}") as caught:
        read_comparison(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "said"), [(None, "has schema none"), (1, "has schema 1"), (2, "has schema 2"), ("3", "has schema '3'")]
)
def test_a_file_of_another_version_is_refused(schema, said, tmp_path):
    content = {**comparison(), "schema": schema}
    if schema is None:
        del content["schema"]
    with pytest.raises(UserError, match=f"comparison.json {said}, and 3 is read here"):
        read_comparison(written(tmp_path, content))


def test_an_evaluation_is_a_comparison_with_its_reference(tmp_path):
    path = written(tmp_path, {**comparison(), "reference": "owner/model"})
    assert read_evaluation(path).reference == "owner/model"
    with pytest.raises(UserError, match="reference is unknown"):
        read_comparison(path)
    with pytest.raises(UserError, match="reference is missing"):
        read_evaluation(written(tmp_path, comparison()))


def test_a_figure_hides_no_field():
    """What a new metric calls itself stands beside the fields of a method."""
    assert not {field.name for field in fields(Method)} & {
        measure.key for of in OF_METHOD for measure in measures_of(of)
    }
    method = typed(comparison()).methods["dpo"]
    with pytest.raises(ValueError, match="'train' is a field of Method; a figure must go by another name"):
        to_json(replace(method, figures={**method.figures, "train": None}))


# ---- the published schema ----------------------------------------------------------------------------


def test_the_published_files_are_made_from_the_records():
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == page(), "run python docs/make_record_page.py"
    for name in SCHEMAS:
        assert (FOLDER / f"{name}.schema.json").read_text(encoding="utf-8") == schema(name), "the same"


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_every_field_is_described(kind):
    assert all(described(kind).values())


def test_the_schema_and_the_reader_agree_on_damages():
    """Parts are taken away, or put in the place of another type: both refuse it, or both take it."""
    content, validator = small(), Draft202012Validator(json_schema(Comparison))
    Draft202012Validator.check_schema(validator.schema)
    assert validator.is_valid(content)
    changes = [remove, *map(replaced_by, (None, "text", 1.5, [], {}))]
    damages = [(path, change) for path in list(places(content))[1:] for change in changes]
    verdicts = []
    for path, change in random.Random(0).sample(damages, 250):
        found = changed(content, path, change)
        try:
            typed(found)
            verdicts.append(True)
        except ValueError:
            verdicts.append(False)
        assert verdicts[-1] == validator.is_valid(found), path
    assert 50 < sum(verdicts) < 200
