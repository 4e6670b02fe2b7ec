"""Tokens into a syntax tree, by operator precedence (a Pratt parser).

From loose to tight: ``a if c else b``, ``or``, ``and``, ``not``, comparisons
(which do not chain), ``+ -``, ``* / %``, unary ``-`` and ``!``, then paths,
items and calls. The whole tree is at most ``DEPTH_MAX`` deep, because the
evaluator's stack is as deep as the tree.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from runtime.expr.lexer import Token, refuse, tokenize
from runtime.expr.values import FUNCTIONS, METHODS, Operation

DEPTH_MAX = 50
ROOTS = frozenset(("state", "output", "env", "execution", "node"))
"""Names that stand for themselves. Any other bare name is a key of the state."""


class Node:
    """A part of the syntax tree."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Literal(Node):
    value: Any


@dataclass(frozen=True, slots=True)
class Name(Node):
    name: str
    column: int


@dataclass(frozen=True, slots=True)
class Path(Node):
    """``base`` and the constant keys that follow it; an int is an index, or the key of that spelling."""

    base: Node
    keys: tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Item(Node):
    base: Node
    key: Node


@dataclass(frozen=True, slots=True)
class Array(Node):
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Object(Node):
    keys: tuple[str, ...]
    values: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Unary(Node):
    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary(Node):
    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Junction(Node):
    """``and`` or ``or`` over two or more operands, flat so that long lists of cases stay shallow."""

    operator: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice(Node):
    test: Node
    then: Node
    otherwise: Node


@dataclass(frozen=True, slots=True)
class Call(Node):
    """A function with its arguments, or a method with its receiver first."""

    operation: Operation
    arguments: tuple[Node, ...]


_CHOICE, _OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _SIGN, _POSTFIX = range(10, 100, 10)
_COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">=", "in", "not", "is"))
_POWERS = {
    "if": _CHOICE,
    "or": _OR,
    "and": _AND,
    **dict.fromkeys(_COMPARISONS, _COMPARE),
    **dict.fromkeys("+-", _SUM),
    **dict.fromkeys("*/%", _PRODUCT),
    **dict.fromkeys(".[", _POSTFIX),
}


def parse(source: str) -> tuple[Node, frozenset[str]]:
    """The syntax tree of ``source`` and the dotted names that it reads (``state.a.b``, ``env.KEY``).

    Raises:
        ExpressionError: saying what is wrong and at which column.
    """
    tree = _Parser(source).whole()
    return tree, _names(tree)


class _Parser:
    def __init__(self, source: str) -> None:
        self._tokens = list(tokenize(source))
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        if self._next.kind == "end":
            raise refuse("the expression is empty", 1)
        tree = self._expression()
        if self._next.kind != "end":
            raise self._unexpected(self._next)
        return tree

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _taken(self, kind: str) -> bool:
        found = self._next.kind == kind
        self._at += found
        return found

    def _expect(self, kind: str) -> Token:
        if self._next.kind != kind:
            wanted = "a name after the dot" if kind == "segment" else repr(kind)
            raise refuse(f"expected {wanted}, found {_shown(self._next)}", self._next.column)
        return self._take()

    def _unexpected(self, token: Token) -> Exception:
        if token.kind == "end":
            return refuse("the expression ends too early", token.column)
        if token.kind == "(":
            return refuse("only listed functions and methods can be called: unexpected '('", token.column)
        return refuse(f"unexpected {_shown(token)}", token.column)

    def _expression(self, power: int = 0) -> Node:
        """Everything to the right that binds more tightly than ``power``."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise refuse(f"nested deeper than {DEPTH_MAX} levels", self._next.column)
        left = self._prefix(self._take())
        while _POWERS.get(self._next.kind, 0) > power:
            left = self._infix(self._take(), left)
        self._depth -= 1
        return left

    def _prefix(self, token: Token) -> Node:
        match token.kind:
            case "literal":
                return Literal(token.value)
            case "name":
                return self._call(token) if self._next.kind == "(" else Name(token.value, token.column)
            case "(":
                inner = self._expression()
                self._expect(")")
                return inner
            case "[":
                return Array(self._items("]"))
            case "{":
                return self._object(token)
            case "not":
                return Unary("not", self._expression(_NOT))
            case "!":
                return Unary("not", self._expression(_SIGN))
            case "-":
                return self._negative()
            case _:
                raise self._unexpected(token)

    def _infix(self, token: Token, left: Node) -> Node:
        kind = token.kind
        if kind == ".":
            return self._member(left)
        if kind == "[":
            return self._item(left)
        if kind == "if":
            test = self._expression(_CHOICE)
            self._expect("else")
            return Choice(test, left, self._expression(_CHOICE - 1))
        if kind in ("and", "or"):
            right = self._expression(_POWERS[kind])
            if isinstance(left, Junction) and left.operator == kind:
                return Junction(kind, (*left.operands, right))
            return Junction(kind, (left, right))
        if kind in _COMPARISONS:
            return self._comparison(kind, left)
        return Binary(kind, left, self._expression(_POWERS[kind]))

    def _comparison(self, kind: str, left: Node) -> Node:
        negated = kind == "not"
        if kind == "not":
            kind = self._expect("in").kind
        elif kind == "is":
            kind, negated = "==", self._taken("not")
        result: Node = Binary(kind, left, self._expression(_COMPARE))
        if self._next.kind in _COMPARISONS:
            raise refuse("comparisons do not chain, join them with 'and'", self._next.column)
        return Unary("not", result) if negated else result

    def _negative(self) -> Node:
        operand = self._expression(_SIGN)
        if isinstance(operand, Literal) and type(operand.value) in (int, float):
            return Literal(-operand.value)
        return Unary("-", operand)

    def _member(self, base: Node) -> Node:
        segment = self._expect("segment")
        if self._next.kind == "(":
            operation = METHODS.get(segment.value)
            if operation is None:
                raise refuse(f"there is no method {segment.value!r}", segment.column)
            return self._applied(operation, segment, (base,))
        return _path(base, _key(segment.value))

    def _item(self, base: Node) -> Node:
        key = self._expression()
        self._expect("]")
        if isinstance(key, Literal) and type(key.value) in (str, int):
            return _path(base, key.value)
        return Item(base, key)

    def _call(self, name: Token) -> Node:
        operation = FUNCTIONS.get(name.value)
        if operation is None:
            raise refuse(f"there is no function {name.value!r}", name.column)
        return self._applied(operation, name, ())

    def _applied(self, operation: Operation, name: Token, receiver: tuple[Node, ...]) -> Node:
        self._expect("(")
        arguments = self._items(")")
        if not operation.least <= len(arguments) <= operation.most:
            raise refuse(f"{name.value!r} does not take {len(arguments)} arguments", name.column)
        return Call(operation, receiver + arguments)

    def _items(self, closing: str) -> tuple[Node, ...]:
        items: list[Node] = []
        while not self._taken(closing):
            items.append(self._expression())
            if not self._taken(","):
                self._expect(closing)
                break
        return tuple(items)

    def _object(self, opening: Token) -> Node:
        if self._next.kind == "{":
            raise refuse("a condition is written without '{{ }}'", opening.column)
        keys: list[str] = []
        values: list[Node] = []
        while not self._taken("}"):
            key = self._take()
            if not isinstance(key.value, str) or key.kind != "literal":
                raise refuse(f"expected a key in quotes, found {_shown(key)}", key.column)
            self._expect(":")
            keys.append(key.value)
            values.append(self._expression())
            if not self._taken(","):
                self._expect("}")
                break
        return Object(tuple(keys), tuple(values))


def _path(base: Node, key: str | int) -> Path:
    if isinstance(base, Path):
        return Path(base.base, (*base.keys, key))
    return Path(base, (key,))


def _key(segment: str) -> str | int:
    """``0`` in ``items.0`` is an index; ``007`` and ``2fa`` are words."""
    if segment.isascii() and segment.isdigit() and len(segment) < 10 and str(int(segment)) == segment:
        return int(segment)
    return segment


def _shown(token: Token) -> str:
    return "the end" if token.kind == "end" else repr(token.value)


def _children(node: Node) -> Iterator[Node]:
    for field in fields(node):  # type: ignore[arg-type]  # every concrete node is a dataclass
        value = getattr(node, field.name)
        parts = value if isinstance(value, tuple) else (value,)
        yield from (part for part in parts if isinstance(part, Node))


def _names(tree: Node) -> frozenset[str]:
    """Collect the dotted names, and hold the two rules that need the whole tree: its depth, and ``env``."""
    names: set[str] = set()
    stack: list[tuple[Node, int]] = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > DEPTH_MAX:
            raise refuse(f"nested deeper than {DEPTH_MAX} levels", 1)
        if isinstance(node, Path) and isinstance(node.base, Name):
            names.add(_dotted(node.base, node.keys))
        elif isinstance(node, Name):
            names.add(_dotted(node, ()))
        else:
            stack.extend((child, depth + 1) for child in _children(node))
    return frozenset(names)


def is_variable(keys: Sequence[str | int]) -> bool:
    """Whether the keys after ``env`` spell one variable out, because registration checks each by name."""
    return bool(keys) and isinstance(keys[0], str) and keys[0].isidentifier()


def _dotted(root: Name, keys: tuple[str | int, ...]) -> str:
    if root.name == "env" and not is_variable(keys):
        raise refuse("'env' wants the name of one variable, as in env.NAME", root.column)
    start = (root.name,) if root.name in ROOTS else ("state", root.name)
    return ".".join(map(str, (*start, *keys)))
