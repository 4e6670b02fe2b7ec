"""The language of conditions: what it means, what it refuses, and that nothing makes it raise."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.expr import ExpressionError, compile_expression
from runtime.expr.lexer import SOURCE_BYTES_MAX
from runtime.expr.values import FUNCTIONS, METHODS, TEXT_MAX

SCOPE: dict[str, Any] = {
    "state": {
        "score": 0.9,
        "count": 3,
        "name": "Ann",
        "tags": ["new", "vip"],
        "rows": [{"id": 1}, {"id": 2}],
        "nothing": None,
        "flag": True,
        "zero": 0,
        "empty": {"text": "", "list": [], "object": {}},
        "in": "keyword",
        "output": "shadowed",
        "items": "a key",
        "my-key": "dashed",
        "007": "bond",
        "keyed": {"0": "zero"},
    },
    "output": {"priority": "high", "answer": "hello"},
    "env": {"REGION": "eu"},
    "execution": {"id": "exec_1", "workflow_id": "kyc"},
    "node": {"id": "route"},
}


def value_of(source: str) -> Any:
    return compile_expression(source).evaluate(SCOPE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("state.score", 0.9),
        ("score", 0.9),
        ("state.rows.1.id", 2),
        ("rows[1].id", 2),
        ("rows[-1]['id']", 2),
        ("rows[count - 2].id", 2),
        ("rows[9].id", None),
        ("state.a.b.c", None),
        ("state.name.upper", None),
        ("state.in", "keyword"),
        ("state.items", "a key"),
        ("state['my-key']", "dashed"),
        ("state.007", "bond"),
        ("keyed.0", "zero"),
        ("name[0]", "A"),
        ("output.priority", "high"),
        ("state.output", "shadowed"),
        ("env.REGION", "eu"),
        ("env['REGION']", "eu"),
        ("execution.workflow_id", "kyc"),
        ("node.id", "route"),
        ("[1, 'a', [null],]", [1, "a", [None]]),
        ('{"a": 1, "b": [true]}', {"a": 1, "b": [True]}),
    ],
)
def test_paths_and_literals(source: str, expected: Any) -> None:
    assert value_of(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("state.score >= 0.8", True),
        ("score < 0.8", False),
        ("count <= 3 and count >= 3", True),
        ("name > 'Abe'", True),
        ("'5' == 5", False),
        ("'5' != 5", True),
        ("1 == 1.0", True),
        ("true == 1", False),
        ("flag == True", True),
        ("[1] == [true]", False),
        ("[1, {'a': 2}] == [1.0, {'a': 2.0}]", True),
        ("{'a': 1} == {'a': 1, 'b': 2}", False),
        ("{'a': 1} == {'b': 1}", False),
        ("missing == null", True),
        ("nothing is None", True),
        ("name is not null", True),
        ("missing > 0", False),
        ("missing <= 0", False),
        ("name > 1", False),
        ("true > false", False),
        ("[1] < [2]", False),
        ("'vip' in tags", True),
        ("'old' not in tags", True),
        ("'nn' in name", True),
        ("'score' in state", True),
        ("1 in name", False),
        ("1 in [true, '1']", False),
        ("'x' in missing", False),
        ("'x' not in missing", True),
        ("output.priority == 'high'", True),
        ('output.priority == "high"', True),
    ],
)
def test_comparisons_are_typed_and_total(source: str, expected: bool) -> None:
    assert value_of(source) is expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1 + 2 * 3 - 4 / 2", 5.0),
        ("(1 + 2) * 3", 9),
        ("-count + 1", -2),
        ("- -1", 1),
        ("7 % 4", 3),
        ("1 / 0", None),
        ("1 % 0", None),
        ("'a' + 'b'", "ab"),
        ("[1] + [2]", [1, 2]),
        ("'a' + 1", None),
        ("'a' * 3", None),
        ("true + 1", None),
        ("18446744073709551615 + 1", None),
        ("1e308 * 10", None),
        ("1e308 + 1e308", None),
        ("not flag", False),
        ("!missing && true", True),
        ("not score == 1", True),
        ("!zero == true", True),
        ("missing or name", "Ann"),
        ("zero || nothing || 'last'", "last"),
        ("flag and name", "Ann"),
        ("true or false and false", True),
        ("(true or false) and false", False),
        ("1 if flag else 2", 1),
        ("1 if missing else 2 if zero else 3", 3),
        ("'x' if flag else 'y' == 'y'", "x"),
    ],
)
def test_operators(source: str, expected: Any) -> None:
    assert value_of(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("len(output.answer) > 0", True),
        ("len(missing)", None),
        ("len(tags) + len(empty)", 5),
        ("abs(-2.5)", 2.5),
        ("min(3, 1, 2)", 1),
        ("max(['a', 'b'])", "b"),
        ("max([])", None),
        ("max(1, 'a')", None),
        ("sum([1, 2.5])", 3.5),
        ("sum(['a'])", None),
        ("round(2.567, 2)", 2.57),
        ("round(2.6)", 3),
        ("str(1.5)", "1.5"),
        ("str(true) + str(null)", "truenull"),
        ("str({'a': [1]})", '{"a": [1]}'),
        ("int('12')", 12),
        ("int('1.9')", 1),
        ("int('x')", None),
        ("int(true)", 1),
        ("float('1.5')", 1.5),
        ("float('nan')", None),
        ("float('1e999')", None),
        ("bool('')", False),
        ("any([0, '', 1])", True),
        ("all([1, 0])", False),
        ("all(5)", None),
        ("name.upper()", "ANN"),
        ("' a '.strip().lower() == 'a'", True),
        ("'xxa'.lstrip('x') + 'axx'.rstrip('x')", "aa"),
        ("name.startswith('A') and name.endswith('n')", True),
        ("name.contains('nn')", True),
        ("tags.contains('vip')", True),
        ("'a/b'.split('/')[1]", "b"),
        ("'a b  c'.split()", ["a", "b", "c"]),
        ("'a/b/c'.split('/', 1)", ["a", "b/c"]),
        ("'a'.split('')", None),
        ("'a-b-c'.replace('-', '+')", "a+b+c"),
        ("'a-b-c'.replace('-', '+', 1)", "a+b-c"),
        ("'ab'.replace('', '.')", ".a.b."),
        ("'two words'.title()", "Two Words"),
        ("'two Words'.capitalize()", "Two words"),
        ("score.upper()", None),
        ("name.startswith(1)", None),
        ("name.strip(1)", None),
    ],
)
def test_functions_and_methods(source: str, expected: Any) -> None:
    assert value_of(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (r"'a\n\t\'\\\"'", "a\n\t'\\\""),
        (r'"caf\u00e9 \ud83d\ude00"', "café \N{GRINNING FACE}"),
        ("'é' + \"'\"", "é'"),
    ],
)
def test_text_literals_have_the_escapes_of_json(source: str, expected: str) -> None:
    assert value_of(source) == expected


@pytest.mark.parametrize(
    "source",
    ["missing", "nothing", "false", "zero", "0.0", "empty.text", "empty.list", "empty.object", "1 / 0"],
)
def test_what_does_not_hold(source: str) -> None:
    assert not compile_expression(source).holds(SCOPE)


@pytest.mark.parametrize("source", ["name", "flag", "score", "tags", "'0'", "[0]", "-1", "{'a': null}"])
def test_what_holds(source: str) -> None:
    assert compile_expression(source).holds(SCOPE)


@pytest.mark.parametrize(
    ("source", "column", "reason"),
    [
        ("", 1, "empty"),
        ("  ", 1, "empty"),
        ("state.x = 1", 9, "'=='"),
        ("a & b", 3, "'and'"),
        ("1 < 2 < 3", 7, "chain"),
        ("a b", 3, "unexpected 'b'"),
        ("a ==", 5, "ends too early"),
        ("state.", 7, "after the dot"),
        ("(1", 3, "expected ')'"),
        ("a[1", 4, "expected ']'"),
        ("[1 2]", 4, "expected ']'"),
        ("{1: 2}", 2, "a key in quotes"),
        ("{{ state.x }}", 1, "without '{{ }}'"),
        ("1 if 2", 7, "expected 'else'"),
        ("a not b", 7, "expected 'in'"),
        ("'abc", 1, "not closed"),
        (r"'a\d'", 3, "unknown escape"),
        (r"'\ud83d'", 1, "surrogate"),
        ("12abc", 1, "neither a number nor a name"),
        ("99999999999999999999", 1, "out of range"),
        ("1e999", 1, "out of range"),
        ("a; b", 2, "unexpected character ';'"),
        ("lambda: 1", 7, "unexpected ':'"),
        ("open('x')", 1, "no function 'open'"),
        ("__import__('os')", 1, "no function '__import__'"),
        ("'a'.format(1)", 5, "no method 'format'"),
        ("state.items()", 7, "no method 'items'"),
        ("state.f(1)(2)", 7, "no method 'f'"),
        ("len(a)(b)", 7, "can be called"),
        ("len()", 1, "does not take 0"),
        ("len(1, 2)", 1, "does not take 2"),
        ("name.upper(1)", 6, "does not take 1"),
        ("env", 1, "env.NAME"),
        ("len(env)", 5, "env.NAME"),
        ("env[state.name]", 1, "env.NAME"),
        ("env[0]", 1, "env.NAME"),
        ("env['A.B']", 1, "env.NAME"),
        ("env.upper()", 1, "env.NAME"),
        ("(env if true else state).KEY", 2, "env.NAME"),
    ],
)
def test_bad_syntax_is_refused_with_its_column(source: str, column: int, reason: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        compile_expression(source)
    assert reason in refused.value.detail
    assert refused.value.fields["column"] == column
    assert refused.value.code == "bad_expression"


def test_not_a_text_is_refused() -> None:
    with pytest.raises(ExpressionError, match="is a text"):
        compile_expression(["state.x"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "source",
    [
        "(" * 51 + "1" + ")" * 51,
        "[" * 51 + "]" * 51,
        "not " * 51 + "a",
        "- " * 51 + "a",
        " + ".join("a" * 52),
        "a" + ".strip()" * 52,
        "a" + "[b]" * 52,
        " if b else ".join("a" * 52),
        # Each level is within the bound, their sum is not.
        "(" * 30 + "a" + " + a + a)" * 30,
    ],
)
def test_nesting_is_bounded(source: str) -> None:
    with pytest.raises(ExpressionError, match="deeper than 50"):
        compile_expression(source)


def test_long_lists_of_cases_are_not_deep() -> None:
    source = " or ".join(f"count == {number}" for number in range(4, 200))
    assert not compile_expression(source).holds(SCOPE)
    assert compile_expression(source + " or count == 3").holds(SCOPE)


def test_the_source_is_bounded_in_bytes() -> None:
    assert value_of("'" + "a" * (SOURCE_BYTES_MAX - 2) + "'") == "a" * (SOURCE_BYTES_MAX - 2)
    with pytest.raises(ExpressionError, match="over 4096 bytes"):
        compile_expression("'" + "é" * 2048 + "'")


@pytest.mark.parametrize(
    "source",
    [
        "half + half + half",
        "half.replace('a', half)",
        "half.replace('', 'abc')",
        "(half + half).upper()",
        "str([half, half])",
        " or ".join(["-1 in many"] * 30),
        " or ".join(["many == many + [1]"] * 30),
        " or ".join(["half.split('a') == 1"] * 50),
        " or ".join(["half.strip(half) == 1"] * 50),
    ],
)
def test_work_and_texts_are_bounded(source: str) -> None:
    scope = {"state": {"half": "aß" * (TEXT_MAX // 4), "many": [0] * 100_000}}
    assert compile_expression(source).evaluate(scope) is None
    assert compile_expression("half.startswith('a') and 0 in many").holds(scope)


def test_two_halves_fit() -> None:
    value = compile_expression("half + half").evaluate({"state": {"half": "a" * (TEXT_MAX // 2)}})
    assert len(value) == TEXT_MAX


@pytest.mark.parametrize("scope", [{}, {"state": None}, {"state": [1]}, {"state": "text"}])
def test_any_scope_will_do(scope: dict[str, Any]) -> None:
    assert compile_expression("state.a.b == null and x == null and env.K is null").holds(scope)


def test_numbers_beyond_json_are_null_not_errors() -> None:
    scope = {"state": {"huge": 10**400, "infinite": float("inf"), "nan": float("nan")}}
    for source in ("huge + 1.5", "huge / 3", "round(infinite)", "int(nan)", "float(huge)", "round(huge, 2)"):
        assert compile_expression(source).evaluate(scope) is None


def test_names_are_dotted_and_variables_listed() -> None:
    expression = compile_expression(
        "score > 1 and env.KEY == env['OTHER'] or rows[0].id in output and a[b].c"
    )
    assert expression.names == {
        "state.score",
        "env.KEY",
        "env.OTHER",
        "state.rows.0.id",
        "output",
        "state.a",
        "state.b",
    }
    assert expression.env_names == {"KEY", "OTHER"}
    assert compile_expression("state.env.KEY").env_names == frozenset()


def test_expressions_and_refusals_survive_pickling() -> None:
    expression = pickle.loads(pickle.dumps(compile_expression("score > 0.5")))
    assert expression.source == "score > 0.5"
    assert expression.holds(SCOPE)
    with pytest.raises(ExpressionError) as refused:
        compile_expression("a =")
    again = pickle.loads(pickle.dumps(refused.value))
    assert (again.detail, again.fields) == (refused.value.detail, refused.value.fields)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["state", "a", "b", "state.a", "a.b", "a.0", "output.c", "env.K", "missing"])
literals = st.sampled_from(
    ["1", "0", "-1", "2.5", "1e308", "'a'", '""', "null", "true", "[]", "18446744073709551615"]
)


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = ["==", "!=", "<", "<=", ">", ">=", "in", "not in", "is", "and", "or", "+", "-", "*", "/", "%"]
    functions = st.sampled_from(sorted(FUNCTIONS))
    methods = st.sampled_from(sorted(METHODS))
    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(operators), inner),
        st.builds("({}{})".format, st.sampled_from(["not ", "-", "!"]), inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("{}({})".format, functions, inner),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max", "round"]), inner, inner),
        st.builds("({}).{}()".format, inner, methods),
        st.builds("({}).{}({})".format, inner, methods, inner),
        st.builds("({}).{}({}, {})".format, inner, st.sampled_from(["split", "replace"]), inner, inner),
    )


sources = st.recursive(names | literals, _combined, max_leaves=8)


@given(source=sources, state=json_values, output=json_values)
def test_evaluation_never_raises(source: str, state: Any, output: Any) -> None:
    try:
        expression = compile_expression(source)
    except ExpressionError:
        return  # a method with the wrong number of arguments
    expression.evaluate({"state": state, "output": output, "env": {"K": "v"}})


@given(source=st.text(max_size=30) | st.text("ab01.'\"[](){}<>=!&|+-*/%,: \\notifelsrd", max_size=30))
def test_any_text_compiles_or_is_refused(source: str) -> None:
    try:
        expression = compile_expression(source)
    except ExpressionError:
        return
    expression.evaluate(SCOPE)


@given(left=json_values, right=json_values)
def test_equality_is_symmetric_and_complements_inequality(left: Any, right: Any) -> None:
    scope = {"state": {"l": left, "r": right}}
    equal = compile_expression("l == r").evaluate(scope)
    assert equal is compile_expression("r == l").evaluate(scope)
    assert equal is not compile_expression("l != r").evaluate(scope)
