"""Text into tokens, each with its column, so that a refusal can point at the place.

After a dot every word is a plain segment: ``state.in``, ``state.0`` and
``state.2fa`` are paths, not keywords and numbers.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from runtime.errors import BadRequest
from runtime.expr.values import bounded

SOURCE_BYTES_MAX = 4096


class ExpressionError(BadRequest):
    """An expression that does not parse; ``fields['column']`` counts from 1."""

    code = "bad_expression"


class Token(NamedTuple):
    """``kind`` is ``literal``, ``name``, ``segment``, ``end``, or the operator or keyword itself."""

    kind: str
    value: Any
    column: int


_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?P<tail>\w*)
    |(?P<name>[^\W\d]\w*)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<operator>==|!=|<=|>=|&&|\|\||[-<>!+*/%()\[\]{},.:])""",
    re.VERBOSE | re.DOTALL,
)
_SEGMENT = re.compile(r"\w+")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", "\\": "\\", '"': '"', "'": "'"}
_KEYWORDS = frozenset(("and", "or", "not", "in", "is", "if", "else"))
_LITERALS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_SYNONYMS = {"&&": "and", "||": "or"}
_HINTS = {
    "=": "a lone '=' compares nothing, write '=='",
    "&": "a lone '&' is not an operator, write 'and'",
    "|": "a lone '|' is not an operator, write 'or'",
    '"': "the string is not closed",
    "'": "the string is not closed",
}


def refuse(reason: str, column: int) -> ExpressionError:
    """The error for ``reason`` found at ``column``."""
    return ExpressionError(f"{reason} at column {column}", column=column)


def tokenize(source: str) -> Iterator[Token]:
    """The tokens of ``source``, an ``end`` token last.

    Raises:
        ExpressionError: over ``SOURCE_BYTES_MAX``, or a character that starts no token.
    """
    if len(source.encode(errors="replace")) > SOURCE_BYTES_MAX:
        raise refuse(f"the expression is over {SOURCE_BYTES_MAX} bytes", 1)
    at, after_dot = 0, False
    while at < len(source):
        column = at + 1
        if after_dot and (segment := _SEGMENT.match(source, at)):
            yield Token("segment", segment.group(), column)
            at, after_dot = segment.end(), False
            continue
        found = _TOKEN.match(source, at)
        if found is None:
            raise refuse(_HINTS.get(source[at], f"unexpected character {source[at]!r}"), column)
        at = found.end()
        if found.group("space") is None:
            token = _token(found, column)
            after_dot = token.kind == "."
            yield token
    yield Token("end", None, len(source) + 1)


def _token(found: re.Match[str], column: int) -> Token:
    text = found.group()
    if found.group("number") is not None:
        if found.group("tail"):
            raise refuse(f"{text!r} is neither a number nor a name", column)
        return Token("literal", _number(text, column), column)
    if found.group("string") is not None:
        return Token("literal", _string(text[1:-1], column), column)
    if found.group("name") is not None:
        if text in _LITERALS:
            return Token("literal", _LITERALS[text], column)
        return Token(text if text in _KEYWORDS else "name", text, column)
    operator = _SYNONYMS.get(text, text)
    return Token(operator, operator, column)


def _number(text: str, column: int) -> Any:
    number = bounded(int(text) if text.isdigit() else float(text))
    if number is None:
        raise refuse("the number is out of range", column)
    return number


def _string(body: str, column: int) -> str:
    """Resolve JSON's escapes, and ``\\'``."""
    if "\\" not in body:
        return body

    def resolve(escape: re.Match[str]) -> str:
        code, letter = escape.groups()
        if code:
            return chr(int(code, 16))
        if letter not in _ESCAPED:
            raise refuse(f"unknown escape '\\{letter}'", column + 1 + escape.start())
        return _ESCAPED[letter]

    text = _ESCAPE.sub(resolve, body)
    try:
        # Two escaped surrogates are one character, as in JSON; one alone is none.
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise refuse("the string has half a surrogate pair", column) from error
