"""Templates, compiled once and rendered many times."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from jinja2 import nodes

from runtime.expr import values
from runtime.expr.evaluate import env_names
from runtime.template.compile import Compiler
from runtime.template.frame import Frame, Run
from runtime.template.syntax import TemplateError, names_read, parse

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rendered:
    """``value`` may share parts with the scope: it is to be read, not changed."""

    value: Any
    warnings: tuple[str, ...] = ()
    """Such as ``state.x is undefined``: each once, at most ``WARNINGS_MAX``."""


class Template:
    """A compiled value: a text, or lists and objects that hold texts at any depth.

    Attributes:
        names: the dotted names that it reads, such as ``state.user`` and ``env.KEY``.
        env_names: the variables among them, such as ``KEY``.
    """

    __slots__ = ("_run", "_source", "env_names", "names")

    def __init__(self, source: Any) -> None:
        self._source = source
        self._run, self.names = _compile_value(source, "")
        self.env_names = env_names(self.names)

    def render(self, scope: Mapping[str, Any]) -> Rendered:
        """Fill in the value from ``state``, ``output``, ``env``, ``execution`` and ``node``.

        Raises:
            TemplateError: over ``OUTPUT_BYTES_MAX``, or over the bounds of ``runtime.expr.values``.
        """
        frame = Frame(scope)
        try:
            value = self._run(frame)
        except values.LimitExceeded as error:
            raise TemplateError(f"the template cannot be rendered: {error}") from error
        except RecursionError as error:
            raise TemplateError("the template cannot be rendered: a value is nested too deeply") from error
        return Rendered(value, tuple(frame.warnings))

    def __reduce__(self) -> tuple[Any, ...]:
        return (compile_template, (self._source,))


def compile_template(value: Any) -> Template:
    """Parse and compile every text in ``value``. Keys of objects are left as they are.

    Raises:
        TemplateError: naming the place, the piece and what is wrong with it.
    """
    try:
        return Template(value)
    except RecursionError as error:
        raise TemplateError("the value is nested too deeply") from error


def names_used(value: Any) -> frozenset[str]:
    """The dotted names that the templates in ``value`` read.

    Raises:
        TemplateError: as ``compile_template``.
    """
    return compile_template(value).names


def _compile_value(value: Any, place: str) -> tuple[Run, frozenset[str]]:
    """The closure for a value, and the names it reads."""
    if isinstance(value, str):
        if "{{" not in value and "{%" not in value:
            return lambda frame: value, _NOTHING
        try:
            return _compile_text(value)
        except TemplateError as error:
            where = f"{place}: " if place else ""
            raise TemplateError(where + error.detail, place=place, **error.fields) from error.__cause__
    if isinstance(value, dict):
        fields = {key: _compile_value(inner, f"{place}.{key}".lstrip(".")) for key, inner in value.items()}
        runs = {key: run for key, (run, _) in fields.items()}
        names = _NOTHING.union(*(names for _, names in fields.values()))
        return lambda frame: {key: run(frame) for key, run in runs.items()}, names
    if isinstance(value, list | tuple):
        items = [_compile_value(inner, f"{place}[{index}]") for index, inner in enumerate(value)]
        names = _NOTHING.union(*(names for _, names in items))
        return lambda frame: [run(frame) for run, _ in items], names
    return lambda frame: value, _NOTHING


@lru_cache(maxsize=2048)
def _compile_text(source: str) -> tuple[Run, frozenset[str]]:
    pieces = parse(source)
    names = _NOTHING.union(*(names_read(source, piece) for piece in pieces))
    compiler = Compiler(source)
    if len(pieces) == 1 and not isinstance(pieces[0], nodes.TemplateData):
        return _typed(compiler.compile(pieces[0])), names
    return _joined(tuple(map(compiler.compile, pieces))), names


def _typed(expression: Run) -> Run:
    """The value of an only expression, of whatever type."""

    def run(frame: Frame) -> Any:
        value = frame.known(expression(frame))
        if isinstance(value, str):
            frame.produce(_size(value))
        elif isinstance(value, list | dict):
            frame.produce(_size_as_json(value))
        return value

    return run


def _joined(pieces: tuple[Run, ...]) -> Run:
    def run(frame: Frame) -> str:
        texts = []
        for piece in pieces:
            text = frame.show(piece(frame))
            frame.produce(_size(text))
            texts.append(text)
        return "".join(texts)

    return run


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _size_as_json(value: Any) -> int:
    try:
        return len(orjson.dumps(value))
    except orjson.JSONEncodeError as error:
        raise values.LimitExceeded("it gives a value that is not JSON") from error
