"""YAML as configs need it: names, numbers, texts, lists and mappings; nothing with two meanings, nothing without bound.

YAML 1.1 has more than that: dates, octal numbers and times that look like plain ones, keys that stand twice, aliases
that multiply. What would be read as something else than a person sees is refused by its line, or left as text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from preflab.errors import UserError
from preflab.errors.terminal import shown

LARGEST_FILE = 200_000  # bytes
MOST_VALUES = 10_000  # with every alias written out
LONGEST_NUMBER = 400  # digits; Python itself stops at 4300, with an error of its own

PREFIX = "tag:yaml.org,2002:"
PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
LIKE_OTHERS = ("timestamp", "value")  # 2026-01-01 and = are texts here

_TWO_MEANINGS = re.compile(r"[-+]?0[0-7_]+$|.*:")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without what configs have no use for."""

    yaml_constructors = {
        **{PREFIX + name: SafeConstructor.yaml_constructors[PREFIX + name] for name in PLAIN},
        None: SafeConstructor.construct_undefined,
    }
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag.removeprefix(PREFIX) not in LIKE_OTHERS]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping, and refuse keys that are no names or stand there twice."""
        node = Composer.compose_mapping_node(self, anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == PREFIX + "merge":
                continue
            if key.tag != PREFIX + "str":
                kind = key.tag.removeprefix(PREFIX)
                what = key.value if isinstance(key, ScalarNode) else "one of them"
                raise _refusal(key, f"the keys of a mapping are names, and {what} is read as {kind}; put it in quotes")
            if key.value in lines:
                raise _refusal(
                    key, f"the key {shown(key.value)} stands there twice, first in line {lines[key.value]}; keep one"
                )
            lines[key.value] = key.start_mark.line + 1
        return node

    def construct_number(self, node: ScalarNode) -> int | float:
        """Read a number that has one meaning."""
        text = str(self.construct_scalar(node))
        if _TWO_MEANINGS.match(text):
            raise _refusal(
                node, f"{text} is one number in YAML 1.1 and another elsewhere; write it plainly, or in quotes"
            )
        if len(text) > LONGEST_NUMBER:
            raise _refusal(node, f"{shown(text, 40)} has {len(text)} digits; no setting is that large")
        whole = node.tag == PREFIX + "int"
        number: int | float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        return number


for _name in ("int", "float"):
    _Loader.add_constructor(PREFIX + _name, _Loader.construct_number)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: if the file is missing, is not YAML, or is not a mapping.
    """
    try:
        if not path.exists():
            raise UserError(f"config file {path} does not exist")
        if not path.is_file():
            raise UserError(f"config file {path} is no file")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise UserError(f"config file {path} is larger than {LARGEST_FILE:,} bytes; is it one?")
    value = read_value(content, f"config file {path} is not readable YAML")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"config file {path} must hold a mapping of names to values")
    return value


def read_value(content: str | bytes, refusal: str) -> Any:
    """Read any YAML value.

    Args:
        content: UTF-8, or UTF-16 with its mark.
        refusal: how the message begins.

    Raises:
        UserError: if it is no YAML, or more than configs need.
    """
    loader = None
    try:
        loader = _Loader(content)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_VALUES:
            raise UserError(f"{refusal}: its aliases written out, it holds more than {MOST_VALUES:,} values")
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        at = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{refusal}: {at}{error.problem}") from None
    except yaml.YAMLError as error:  # characters that no text has, or bytes that are none
        raise UserError(f"{refusal}: {error}") from None
    except RecursionError:
        raise UserError(f"{refusal}: it is nested too deeply, or holds itself") from None
    finally:
        if loader is not None:
            loader.dispose()


def _size(node: Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for; one that holds itself ends in a `RecursionError`."""
    if id(node) not in known:
        children: list[Node] = []
        if isinstance(node, MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, SequenceNode):
            children = node.value
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _refusal(node: Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
