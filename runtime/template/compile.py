"""Jinja2's syntax tree into closures. The walk is the allow-list: a node without a rule is refused."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from jinja2 import nodes

from runtime.expr import values
from runtime.expr.parser import ROOTS
from runtime.template.filters import FILTERS
from runtime.template.frame import Frame, Missing, Run
from runtime.template.syntax import constant_key, refusal

_OPERATORS: Mapping[type[nodes.Node], str] = {
    nodes.Mul: "*",
    nodes.Pow: "**",
    nodes.Div: "/",
    nodes.FloorDiv: "//",
    nodes.Mod: "%",
    nodes.Pos: "unary +",
}

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

_COMPARE: Mapping[str, Callable[[values.Work, Any, Any], bool]] = {
    "eq": values.equal,
    "ne": values.unequal,
    "lt": values.less,
    "lteq": values.at_most,
    "gt": values.greater,
    "gteq": values.at_least,
    "in": values.within,
    "notin": lambda work, item, container: not values.within(work, item, container),
}

_TESTS: Mapping[str, Callable[[Any], bool]] = {
    "defined": lambda value: type(value) is not Missing,
    "undefined": lambda value: type(value) is Missing,
    "none": lambda value: _plain(value) is None,
}


class Compiler:
    """Syntax tree to closures. The method for a node is its class's name: no method, no node."""

    def __init__(self, source: str) -> None:
        self._source = source

    def compile(self, node: nodes.Node) -> Run:
        rule: Callable[[Any], Run] | None = getattr(self, f"_{type(node).__name__}", None)
        if rule is None:
            sign = _OPERATORS.get(type(node))
            what = repr(sign) if sign else f"the syntax {type(node).__name__.lower()!r}"
            self._refuse(node, f"{what} is not supported")
        return rule(node)

    def _refuse(self, node: nodes.Node, reason: str) -> NoReturn:
        raise refusal(self._source, node.lineno, reason)

    def _known(self, node: nodes.Node) -> Run:
        run = self.compile(node)
        return lambda frame: frame.known(run(frame))

    def _TemplateData(self, node: nodes.TemplateData) -> Run:
        return lambda frame: node.data

    def _Const(self, node: nodes.Const) -> Run:
        value = node.value
        if values.is_number(value) and values.bounded(value) is None:
            self._refuse(node, "a number is out of range")
        if isinstance(value, str) and _UNSTORABLE.search(value):
            self._refuse(node, "a text has U+0000 or half a surrogate pair")
        return lambda frame: value

    def _Name(self, node: nodes.Name) -> Run:
        if node.name == "null":
            return lambda frame: None
        if node.name not in ROOTS:
            return self._member(lambda frame: frame.scope.get("state"), node.name, _path(node))
        missing = Missing(node.name)
        return lambda frame: frame.scope.get(node.name, missing)

    def _Getattr(self, node: nodes.Getattr) -> Run:
        return self._member(self.compile(node.node), node.attr, _path(node))

    def _Getitem(self, node: nodes.Getitem) -> Run:
        if isinstance(node.arg, nodes.Slice):
            return self._slice(node, node.arg)
        constant = constant_key(node)
        if constant is not None:
            return self._member(self.compile(node.node), constant, _path(node))
        base, key, missing = self.compile(node.node), self._known(node.arg), Missing(_path(node))

        def run(frame: Frame) -> Any:
            return values.member(base(frame), key(frame), missing)

        return run

    def _member(self, base: Run, key: str | int, path: str) -> Run:
        missing = Missing(path)
        return lambda frame: values.member(base(frame), key, missing)

    def _slice(self, node: nodes.Getitem, bounds: nodes.Slice) -> Run:
        if bounds.step is not None:
            self._refuse(node, "a slice with a step is not supported")
        base = self._known(node.node)
        start = self._known(bounds.start) if bounds.start else lambda frame: None
        stop = self._known(bounds.stop) if bounds.stop else lambda frame: None

        def run(frame: Frame) -> Any:
            value, first, last = base(frame), start(frame), stop(frame)
            whole = all(edge is None or type(edge) is int for edge in (first, last))
            if not isinstance(value, str | list) or not whole:
                return None
            frame.spend(len(value) if isinstance(value, list) else len(value) >> 4)
            return value[first:last]

        return run

    def _Compare(self, node: nodes.Compare) -> Run:
        first = self.compile(node.expr)
        steps = [(_COMPARE[operand.op], self.compile(operand.expr)) for operand in node.ops]

        def run(frame: Frame) -> bool:
            left = _plain(first(frame))
            for holds, right_run in steps:
                right = _plain(right_run(frame))
                if not holds(frame, left, right):
                    return False
                left = right
            return True

        return run

    def _And(self, node: nodes.And) -> Run:
        left, right = self.compile(node.left), self.compile(node.right)
        return lambda frame: left(frame) and right(frame)

    def _Or(self, node: nodes.Or) -> Run:
        left, right = self.compile(node.left), self.compile(node.right)
        return lambda frame: left(frame) or right(frame)

    def _Not(self, node: nodes.Not) -> Run:
        operand = self.compile(node.node)
        return lambda frame: not operand(frame)

    def _CondExpr(self, node: nodes.CondExpr) -> Run:
        test, then = self.compile(node.test), self.compile(node.expr1)
        otherwise = self.compile(node.expr2) if node.expr2 else lambda frame: None
        return lambda frame: then(frame) if test(frame) else otherwise(frame)

    def _Test(self, node: nodes.Test) -> Run:
        test = _TESTS.get(node.name)
        if test is None or node.args or node.kwargs or node.dyn_args or node.dyn_kwargs:
            self._refuse(node, f"the test {node.name!r} is not supported")
        value = self.compile(node.node)
        return lambda frame: test(value(frame))

    def _Concat(self, node: nodes.Concat) -> Run:
        runs = [self.compile(part) for part in node.nodes]
        return lambda frame: values.joined(frame, "", (frame.show(part(frame)) for part in runs))

    def _Add(self, node: nodes.Add) -> Run:
        return self._arithmetic(node, "+", values.add)

    def _Sub(self, node: nodes.Sub) -> Run:
        return self._arithmetic(node, "-", values.subtract)

    def _arithmetic(self, node: nodes.BinExpr, sign: str, compute: Callable[..., Any]) -> Run:
        left, right = self._known(node.left), self._known(node.right)

        def run(frame: Frame) -> Any:
            one, other = left(frame), right(frame)
            result = compute(frame, one, other)
            if result is None:
                frame.warn(f"{sign!r} has no value for {_kind(one)} and {_kind(other)}")
            return result

        return run

    def _Neg(self, node: nodes.Neg) -> Run:
        operand = self._known(node.node)
        return lambda frame: values.negate(operand(frame))

    def _List(self, node: nodes.List) -> Run:
        return self._array(node.items)

    def _Tuple(self, node: nodes.Tuple) -> Run:
        return self._array(node.items)

    def _array(self, items: list[nodes.Expr]) -> Run:
        runs = [self._known(item) for item in items]
        return lambda frame: [run(frame) for run in runs]

    def _Dict(self, node: nodes.Dict) -> Run:
        fields: dict[str, Run] = {}
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const) or not isinstance(pair.key.value, str):
                self._refuse(node, "the keys of an object are texts in quotes")
            fields[pair.key.value] = self._known(pair.value)
        return lambda frame: {key: run(frame) for key, run in fields.items()}

    def _Call(self, node: nodes.Call) -> Run:
        method = node.node
        operation = values.METHODS.get(method.attr) if isinstance(method, nodes.Getattr) else None
        if operation is None or not isinstance(method, nodes.Getattr):
            self._refuse(node, f"only these methods can be called: {', '.join(sorted(values.METHODS))}")
        name = method.attr
        if node.kwargs or node.dyn_args or node.dyn_kwargs:
            self._refuse(node, f"the method {name!r} takes plain arguments only")
        if not operation.least <= len(node.args) <= operation.most:
            self._refuse(node, f"the method {name!r} does not take {len(node.args)} arguments")
        apply, runs = operation.run, [self._known(part) for part in (method.node, *node.args)]

        def run(frame: Frame) -> Any:
            receiver, *arguments = (part(frame) for part in runs)
            result = apply(frame, receiver, *arguments)
            if result is None:
                frame.warn(f"{name!r} has no value for {_kind(receiver)}")
            return result

        return run

    def _Filter(self, node: nodes.Filter) -> Run:
        apply = FILTERS.get(node.name)
        if apply is None or node.node is None:
            self._refuse(
                node, f"the filter {node.name!r} is not supported, only {', '.join(sorted(FILTERS))}"
            )
        if node.dyn_args or node.dyn_kwargs:
            self._refuse(node, f"the filter {node.name!r} takes plain arguments only")
        value = self.compile(node.node)
        arguments = [self._known(argument) for argument in node.args]
        named: dict[str, Run] = {str(pair.key): self._known(pair.value) for pair in node.kwargs}
        try:
            inspect.signature(apply).bind(None, None, *arguments, **named)
        except TypeError as error:
            self._refuse(node, f"the filter {node.name!r} does not take these arguments ({error})")

        def run(frame: Frame) -> Any:
            given = [argument(frame) for argument in arguments]
            return apply(frame, value(frame), *given, **{key: run(frame) for key, run in named.items()})

        return run


def _plain(value: Any) -> Any:
    """Null in place of a path that does not exist, without a warning: comparisons may ask."""
    return None if type(value) is Missing else value


def _kind(value: Any) -> str:
    """The JSON type of a value, for warnings."""
    kinds = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a text"}
    return kinds.get(type(value), "a list" if isinstance(value, list) else "an object")


def _path(node: nodes.Node) -> str:
    """How a path is named in warnings and for registration: ``state.a.0.b``."""
    match node:
        case nodes.Name(name=name):
            return name if name in ROOTS else f"state.{name}"
        case nodes.Getattr(node=base, attr=key):
            return f"{_path(base)}.{key}"
        case nodes.Getitem(node=base, arg=nodes.Const(value=key)):
            return f"{_path(base)}.{key}"
        case nodes.Getitem(node=base):
            return f"{_path(base)}[...]"
        case _:
            return "(...)"
