"""The text of a template into Jinja2's syntax tree, and the checks that need the text or the whole tree."""

from jinja2 import TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.errors import BadRequest
from runtime.expr.parser import ROOTS, is_variable

SOURCE_MAX = 256 * 1024
"""Characters of one text with ``{{ }}``; a text without may have any length."""
TOKENS_MAX = 10_000
DEPTH_MAX = 50
BRACKETS_MAX = 20
"""The parser's stack takes more frames a bracket than the tree takes a level."""

# Comments get delimiters that no stored text can hold: "{#" is common in prompts about code.
_SYNTAX = ImmutableSandboxedEnvironment(
    comment_start_string="{#\x00", comment_end_string="\x00#}", keep_trailing_newline=True
)


class TemplateError(BadRequest):
    """A template that was refused, or, at rendering, one whose output is too large or takes too long."""

    code = "bad_template"


def parse(source: str) -> list[nodes.Expr]:
    """The texts and expressions of ``source``, in order."""
    if len(source) > SOURCE_MAX:
        raise TemplateError(f"the template is over {SOURCE_MAX} characters")
    try:
        _scan(source)
        tree = _SYNTAX.parse(source)
    except TemplateSyntaxError as error:
        raise refusal(source, error.lineno, (error.message or "bad syntax").rstrip(".").lower()) from error
    except ValueError as error:  # thousands of digits: Python would not read them
        raise TemplateError("the template has a number out of range") from error
    except RecursionError as error:
        raise TemplateError("the template is nested too deeply") from error
    pieces: list[nodes.Expr] = []
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            raise refusal(source, output.lineno, "statements are not supported, only {{ expressions }}")
        pieces.extend(output.nodes)
    for piece in pieces:
        if _depth(piece) > DEPTH_MAX:
            raise refusal(source, piece.lineno, f"nested deeper than {DEPTH_MAX} levels")
    return pieces


def _scan(source: str) -> None:
    """Hold the bounds that the parser itself relies on, before it runs."""
    brackets = 0
    for count, (line, kind, text) in enumerate(_SYNTAX.lex(source)):
        if kind in ("block_begin", "raw_begin"):
            raise refusal(source, line, "statements ({% ... %}) are not supported, only {{ expressions }}")
        if count > TOKENS_MAX:
            raise refusal(source, line, f"the template has over {TOKENS_MAX} tokens")
        if kind == "operator":
            brackets += (text in "([{") - (text in ")]}")
            if brackets > BRACKETS_MAX:
                raise refusal(source, line, f"brackets nest deeper than {BRACKETS_MAX} levels")


def _depth(root: nodes.Node) -> int:
    deepest = 0
    stack = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        stack.extend((child, depth + 1) for child in node.iter_child_nodes())
    return deepest


def names_read(source: str, root: nodes.Node) -> frozenset[str]:
    """The dotted names that an expression reads, each as far as its keys are constant."""
    names: set[str] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        keys = _constant_keys(node)
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            stack += [node.node.node, *node.args]
        elif keys is None:
            stack.extend(node.iter_child_nodes())
        elif keys[0] == "env" and not is_variable(keys[1:]):
            raise refusal(source, node.lineno, "'env' wants the name of one variable, as in env.NAME")
        elif keys != ["null"]:
            names.add(".".join(map(str, keys if keys[0] in ROOTS else ["state", *keys])))
    return frozenset(names)


def _constant_keys(node: nodes.Node) -> list[str | int] | None:
    """A name and the constant keys that follow it; None for anything else."""
    keys: list[str | int] = []
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        key = constant_key(node)
        if key is None:
            return None
        keys.append(key)
        node = node.node
    return [node.name, *reversed(keys)] if isinstance(node, nodes.Name) else None


def constant_key(node: nodes.Getattr | nodes.Getitem) -> str | int | None:
    """The key in ``base.key`` and in ``base[key]`` where that is a constant."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node.arg, nodes.Const) and type(node.arg.value) in (str, int):
        key: str | int = node.arg.value
        return key
    return None


def refusal(source: str, line: int, reason: str) -> TemplateError:
    """The error for ``reason``, with the line that it is on."""
    lines = source.splitlines()
    piece = lines[line - 1].strip() if 0 < line <= len(lines) else source
    piece = piece if len(piece) <= 80 else piece[:77] + "..."
    return TemplateError(f"{reason}: line {line}, {piece!r}", line=line)
