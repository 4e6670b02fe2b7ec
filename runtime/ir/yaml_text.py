"""YAML text read into plain JSON values: bounded, without tags, with lines in the errors.

Refused: more than ``TEXT_BYTES_MAX`` bytes, duplicate keys, tags that make other
than JSON, and aliases that would expand to more than ``VALUES_MAX`` values. Keys,
versions and dates stay the text that was written: ``version: 1.10`` is not 1.1,
and a node may be called ``on``.
"""

from typing import Any, NoReturn

import yaml

from runtime.errors import InvalidWorkflow

TEXT_BYTES_MAX = 1024 * 1024
VALUES_MAX = 100_000
DEPTH_MAX = 64

_TAG = "tag:yaml.org,2002:"
_TEXT = _TAG + "str"
_MERGE = _TAG + "merge"
_PLAIN_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map"))
_AS_WRITTEN = frozenset(_TAG + name for name in ("timestamp", "value"))


class _Loader(yaml.CSafeLoader):
    """Constructs plain values only: ``_Guard`` lets no other tag through."""


def load(text: str) -> Any:
    """Read one YAML document.

    Raises:
        InvalidWorkflow: with the line, where there is one.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > TEXT_BYTES_MAX:
        _refuse(f"the yaml text is {size} bytes, over the limit of {TEXT_BYTES_MAX}")
    try:
        _bound(text)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                _refuse("the yaml text is empty")
            _Guard().check(root)
            return loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark is not None else ""
        _refuse(f"{place}the yaml text does not parse: {error.problem or error.context}")
    except (yaml.YAMLError, UnicodeError, ValueError) as error:
        _refuse(f"the yaml text does not parse: {error}")


def _bound(text: str) -> None:
    """Refuse what is too deep or too much before the tree is composed.

    libyaml's composer recurses in C, where a megabyte of brackets ends the process;
    its events come one after another.
    """
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_MAX:
            _refuse(f"{_line(event)}the yaml text is nested deeper than {DEPTH_MAX} levels")
        if count > 2 * VALUES_MAX:
            _refuse(f"{_line(event)}the yaml text holds more than {VALUES_MAX} values")


class _Guard:
    """Checks the tree of nodes before it is constructed, each node once, whatever aliases share it."""

    def __init__(self) -> None:
        self._measured: dict[int, tuple[int, int]] = {}
        """By node: how many values it makes, and how deep, with aliases expanded."""
        self._open: set[int] = set()

    def check(self, node: yaml.Node) -> tuple[int, int]:
        known = self._measured.get(id(node))
        if known is not None:
            return known
        if id(node) in self._open:
            _refuse(f"{_line(node)}an alias refers to what contains it")
        self._check_tag(node)
        self._open.add(id(node))
        parts = [self.check(part) for part in self._parts(node)]
        self._open.discard(id(node))
        count = 1 + sum(part[0] for part in parts)
        depth = 1 + max((part[1] for part in parts), default=0)
        if count > VALUES_MAX:
            _refuse(f"{_line(node)}the yaml text holds more than {VALUES_MAX} values")
        if depth > DEPTH_MAX:
            _refuse(f"{_line(node)}the yaml text is nested deeper than {DEPTH_MAX} levels")
        self._measured[id(node)] = (count, depth)
        return count, depth

    def _check_tag(self, node: yaml.Node) -> None:
        if node.tag in _AS_WRITTEN:
            node.tag = _TEXT
        if node.tag not in _PLAIN_TAGS:
            _refuse(f"{_line(node)}the tag {node.tag!r} is not allowed")

    def _parts(self, node: yaml.Node) -> list[yaml.Node]:
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            return [value for _, value in node.value]
        return list(node.value) if isinstance(node, yaml.SequenceNode) else []

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse(f"{_line(key)}a key must be a text")
            if key.tag == _MERGE:
                continue
            if key.value in seen:
                _refuse(f"{_line(key)}the key {key.value!r} stands twice")
            seen.add(key.value)
            key.tag = _TEXT
            if key.value == "version" and isinstance(value, yaml.ScalarNode):
                value.tag = _TEXT


def _line(part: yaml.Node | yaml.Event) -> str:
    return f"line {part.start_mark.line + 1}: " if part.start_mark is not None else ""


def _refuse(problem: str) -> NoReturn:
    raise InvalidWorkflow(problem, problems=[problem])
