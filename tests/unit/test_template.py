"""Templates: what they render, what they refuse at registration, and that their output is bounded."""

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.template import Rendered, TemplateError, compile_template, names_used
from runtime.template.filters import FILTERS
from runtime.template.frame import OUTPUT_BYTES_MAX, WARNINGS_MAX
from runtime.template.syntax import SOURCE_MAX

SCOPE: dict[str, Any] = {
    "state": {
        "name": "Ann",
        "score": 0.9,
        "count": 3,
        "done": True,
        "nothing": None,
        "tags": ["new", "vip"],
        "user": {"id": 7, "名": "安"},
        "path": "a/b/c",
        "items": "a key",
        "upper": "also a key",
        "__plan__": ["first"],
        "long": "word " * 200,
    },
    "output": {"answer": "yes"},
    "env": {"REGION": "eu"},
    "execution": {"id": "exec_1", "workflow_id": "kyc"},
    "node": {"id": "draft"},
}


def render(value: Any) -> Rendered:
    return compile_template(value).render(SCOPE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("Hi {{ state.name }}!\n", "Hi Ann!\n"),
        ("{{ execution.id }}/{{ execution.workflow_id }}/{{ node.id }}", "exec_1/kyc/draft"),
        ("{{ env.REGION }} {{ env['REGION'] }} {{ output.answer }}", "eu eu yes"),
        ("n={{ state.count }} s={{ state.score }} d={{ state.done }}", "n=3 s=0.9 d=true"),
        ("[{{ state.nothing }}]", "[]"),
        ("{{ state.user }} {{ state.tags }}", '{"id": 7, "名": "安"} ["new", "vip"]'),
        ("{{ name }} is bare", "Ann is bare"),
        ("{{ state.tags[0] }} {{ state.tags.1 }} {{ state.tags[-1] }}", "new vip vip"),
        ("{{ state.items }} {{ state.upper }}", "a key also a key"),
        ("{{ state.__plan__[0] }}!", "first!"),
        ("{{- ' trimmed ' -}} !", " trimmed !"),
        ("{# text #} {{ 1 }} {#1}", "{# text #} 1 {#1}"),
        ("{{ '{{' }} and }}", "{{ and }}"),
        ("a } { b }} %}", "a } { b }} %}"),
    ],
)
def test_texts(source: str, expected: str) -> None:
    assert render(source) == Rendered(expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ state.count }}", 3),
        ("{{ state.score }}", 0.9),
        ("{{ state.done }}", True),
        ("{{ state.nothing }}", None),
        ("{{ null }}", None),
        ("{{ state.user }}", {"id": 7, "名": "安"}),
        ("{{ state.tags }}", ["new", "vip"]),
        ("{{ state.name }}", "Ann"),
        ("{{ [1, state.count, ('a', none)] }}", [1, 3, ["a", None]]),
        ("{{ {'a': state.count} }}", {"a": 3}),
        ("{{ state.count + 1 }}", 4),
        ("{{ -state.count - 1 }}", -4),
        ("{{ 'a' + 'b' }}", "ab"),
        ("{{ 'n' ~ state.count ~ state.done }}", "n3true"),
        ("{{ state.count > 2 and state.name == 'Ann' }}", True),
        ("{{ 1 < state.count <= 3 }}", True),
        ("{{ '3' == state.count }}", False),
        ("{{ state.name > 3 }}", False),
        ("{{ 'vip' in state.tags }}", True),
        ("{{ 'vip' not in state.tags }}", False),
        ("{{ not state.done }}", False),
        ("{{ state.zip or state.name }}", "Ann"),
        ("{{ state.name if state.name else 'None' }}", "Ann"),
        ("{{ state.zip if state.zip else 'None' }}", "None"),
        ("{{ 'x' if state.zip }}", None),
        ("{{ state.path.split('/')[0] }}", "a"),
        ("{{ state.path.split('/')[1:] }}", ["b", "c"]),
        ("{{ state.name[:2] }}", "An"),
        ("{{ state.name.upper().startswith('AN') }}", True),
        ("{{ state.path.replace('/', '.') }}", "a.b.c"),
        ("{{ state.zip is defined }}", False),
        ("{{ state.nothing is none }}", True),
        ("{{ state.zip is none and state.zip is undefined }}", True),
        ("{{ state.name is not none }}", True),
    ],
)
def test_an_only_expression_keeps_its_type(source: str, expected: Any) -> None:
    rendered = render(source)
    assert rendered == Rendered(expected)
    assert type(rendered.value) is type(expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ state.tags | join('\\n') }}", "new\nvip"),
        ("{{ [1, null, true] | join(', ') }}", "1, , true"),
        ("{{ state.long | truncate(12) }}", "word..."),
        ("{{ state.long | truncate(12, true, end='') }}", "word word wo"),
        ("{{ 'short' | truncate(500) }}", "short"),
        ("{{ state.name | upper }} {{ state.name | lower }}", "ANN ann"),
        ("{{ ' a ' | trim }}", "a"),
        ("{{ 'two words' | title }}", "Two Words"),
        ("{{ 'two' | capitalize }}", "Two"),
        ("{{ state.tags | length }}", 2),
        ("{{ state.tags | first }} {{ state.tags | last }}", "new vip"),
        ("{{ [] | first }}", None),
        ("{{ state.zip | default('none') }}", "none"),
        ("{{ state.nothing | d('none') }}", "none"),
        ("{{ '' | default('none', true) }}", "none"),
        ("{{ '' | default('none') }}", ""),
        ("{{ '12' | int + 1 }}", 13),
        ("{{ 'x' | int }} {{ 'x' | int(-1) }} {{ 'x' | float }}", "0 -1 0.0"),
        ("{{ 2.567 | round(2) }} {{ 2.6 | round }}", "2.57 3"),
        ("{{ (-2) | abs }}", 2),
        ("{{ [3, 1] | min }} {{ [3, 1] | max }} {{ [3, 1] | sum }}", "1 3 4"),
        ("{{ state.count | string }}", "3"),
        ("{{ 'a-b' | replace('-', '+') }}", "a+b"),
        ("{{ state.name | tojson }}", '"Ann"'),
        ("{{ {'a': ['<&>']} | tojson }}", '{"a": ["<&>"]}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
    ],
)
def test_filters(source: str, expected: Any) -> None:
    assert render(source) == Rendered(expected)


def test_values_are_rendered_at_any_depth_and_keys_left_alone() -> None:
    value = {"{{ key }}": ["{{ state.count }}", {"text": "n={{ state.count }}"}, 5, None, True], "n": 1.5}
    assert render(value).value == {"{{ key }}": [3, {"text": "n=3"}, 5, None, True], "n": 1.5}


def test_each_rendering_makes_its_own_containers() -> None:
    template = compile_template({"list": ["a"]})
    template.render(SCOPE).value["list"].append("b")
    assert template.render(SCOPE).value == {"list": ["a"]}


@pytest.mark.parametrize(
    ("source", "value", "warning"),
    [
        ("a {{ state.x.y }} b", "a  b", "state.x.y is undefined"),
        ("{{ state.x }}", None, "state.x is undefined"),
        ("{{ bare }}", None, "state.bare is undefined"),
        ("{{ state.tags[5].id }}", None, "state.tags.5.id is undefined"),
        ("{{ state.tags[state.count] }}", None, "state.tags[...] is undefined"),
        ("{{ env.NONE }}", None, "env.NONE is undefined"),
        ("{{ state.x | upper }}", "", "state.x is undefined"),
        ("{{ 'a' ~ state.x }}", "a", "state.x is undefined"),
        ("{{ [state.x] }}", [None], "state.x is undefined"),
        ("{{ state.name + 1 }}", None, "'+' has no value for a text and a number"),
        ("{{ state.count.upper() }}", None, "'upper' has no value for a number"),
    ],
)
def test_what_is_missing_renders_empty_with_a_warning(source: str, value: Any, warning: str) -> None:
    assert render(source) == Rendered(value, (warning,))


def test_warnings_come_once_and_are_bounded() -> None:
    assert render(["{{ state.x }}", "{{ state.x }} {{ state.y }}"]).warnings == (
        "state.x is undefined",
        "state.y is undefined",
    )
    assert len(render([f"{{{{ state.x{number} }}}}" for number in range(99)]).warnings) == WARNINGS_MAX


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for x in y %}{{ x }}{% endfor %}", "statements"),
        ("{% set x = 1 %}", "statements"),
        ("{% import 'os' as os %}", "statements"),
        ("{% macro m() %}{% endmacro %}", "statements"),
        ("{%- raw -%}{{ a }}{% endraw %}", "statements"),
        ("{{ 'a' * 1000000000 }}", "'*' is not supported"),
        ("{{ 10 ** 10 ** 10 }}", "'**' is not supported"),
        ("{{ 1 / 2 }}", "'/' is not supported"),
        ("{{ 1 // 2 }}", "'//' is not supported"),
        ("{{ '%999999999d' % 1 }}", "'%' is not supported"),
        ("{{ +1 }}", "'unary +' is not supported"),
        ("{{ state.tags[::2] }}", "a slice with a step"),
        ("{{ lipsum() }}", "only these methods"),
        ("{{ range(1000000000) }}", "only these methods"),
        ("{{ state.items() }}", "only these methods"),
        ("{{ cycler.__init__.__globals__.os.popen('id') }}", "only these methods"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "only these methods"),
        ("{{ '{0.__class__}'.format(state) }}", "only these methods"),
        ("{{ '{x.__class__}'.format_map(state) }}", "only these methods"),
        ("{{ 'a'.center(1000000000) }}", "only these methods"),
        ("{{ 'a'.zfill(1000000000) }}", "only these methods"),
        ("{{ 'a'.ljust(1000000000) }}", "only these methods"),
        ("{{ 'a'.encode() }}", "only these methods"),
        ("{{ state['upper']() }}", "only these methods"),
        ("{{ 'a'.upper()() }}", "only these methods"),
        ("{{ 'a'.upper(1) }}", "does not take 1 arguments"),
        ("{{ 'a'.split(sep='/') }}", "plain arguments only"),
        ("{{ 'a'.replace(*state.tags) }}", "plain arguments only"),
        ("{{ state | attr('__class__') }}", "the filter 'attr'"),
        ("{{ state.tags | map('upper') }}", "the filter 'map'"),
        ("{{ 'a' | center(1000000000) }}", "the filter 'center'"),
        ("{{ 'a' | indent(1000000000) }}", "the filter 'indent'"),
        ("{{ '%s' | format(state) }}", "the filter 'format'"),
        ("{{ 1 | pprint }}", "the filter 'pprint'"),
        ("{{ 'a' | nonsense }}", "the filter 'nonsense'"),
        ("{{ state.tags | join(attribute='x') }}", "does not take these arguments"),
        ("{{ 1 | default(frame=2) }}", "does not take these arguments"),
        ("{{ 'a' | replace(*state.tags) }}", "plain arguments only"),
        ("{{ 3 is divisibleby 3 }}", "the test 'divisibleby'"),
        ("{{ {state.name: 1} }}", "the keys of an object"),
        ("{{ 99999999999999999999999 }}", "out of range"),
        ("{{ " + "9" * 5000 + " }}", "out of range"),
        ("{{ 1e999 }}", "out of range"),
        (r"{{ '\x00' }}", "U+0000"),
        (r"{{ '\ud83d' }}", "surrogate"),
        ("{{ state.x", "unexpected end"),
        ("{{ }}", "expected an expression"),
        ("{{ a b }}", "expected token"),
        ("{{ 'a }}", "unexpected char"),
        ("{{ env }}", "env.NAME"),
        ("{{ env | tojson }}", "env.NAME"),
        ("{{ env[state.name] }}", "env.NAME"),
        ("{{ env['A.B'] }}", "env.NAME"),
        ("{{ env.split('/') }}", "env.NAME"),
        ("{{ (env if state else state).KEY }}", "env.NAME"),
        ("{{ state[env] }}", "env.NAME"),
    ],
)
def test_refusals(source: str, reason: str) -> None:
    with pytest.raises(TemplateError) as refused:
        compile_template(source)
    assert reason in refused.value.detail
    assert refused.value.code == "bad_template"


@pytest.mark.parametrize(
    "path",
    [
        "''.__class__.__mro__",
        "state.__class__.__init__.__globals__",
        "state.tags.__len__",
        "cycler.__init__.__globals__.os",
        "self._TemplateReference__context",
        "state.name.upper",
        "state.user.keys",
        "state.user['__class__']",
        "joiner",
        "__builtins__",
    ],
)
def test_attributes_of_python_values_do_not_exist(path: str) -> None:
    rendered = render("{{ " + path + " }}")
    assert rendered.value is None
    assert "is undefined" in rendered.warnings[0]


def test_a_refusal_names_the_place_the_line_and_the_piece() -> None:
    with pytest.raises(TemplateError) as refused:
        compile_template({"query": {"terms": ["fine", "first\nsecond {{ lipsum() }}"]}})
    assert refused.value.detail.startswith("query.terms[1]: ")
    assert refused.value.detail.endswith("line 2, 'second {{ lipsum() }}'")
    assert refused.value.fields == {"place": "query.terms[1]", "line": 2}
    assert pickle.loads(pickle.dumps(refused.value)).fields == refused.value.fields


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 21 + "1" + ")" * 21 + " }}",
        "{{ " + "[" * 100_000 + " }}",
        "{{ " + "not " * 5_000 + "a }}",
        "{{ " + "-" * 60 + "a }}",
        "{{ " + " + ".join("a" * 60) + " }}",
        "{{ a" + "|upper" * 60 + " }}",
        "{{ " + "~".join("a" * 6_000) + " }}",
        "{{ a }}" + " " * SOURCE_MAX,
    ],
)
def test_syntax_is_bounded(source: str) -> None:
    with pytest.raises(TemplateError, match=r"deep|tokens|characters"):
        compile_template(source)


def test_a_value_of_any_depth_is_rendered_or_refused() -> None:
    value: Any = "{{ 1 }}"
    for _ in range(5_000):
        value = [value]
    with pytest.raises(TemplateError, match="nested too deeply"):
        compile_template(value)


HALF = "a" * (OUTPUT_BYTES_MAX // 2)
BIG: dict[str, Any] = {
    "state": {"half": HALF, "wide": "é" * len(HALF), "many": [[0]] * 100_000, "big": HALF * 20}
}


@pytest.mark.parametrize(
    "source",
    [
        "{{ half }}{{ half }}.",
        "{{ wide }}.",
        "{{ big }}",
        "{{ many }}",
        "{{ half ~ half ~ half }}",
        "{{ half + half + half }}",
        "{{ half | replace('a', half) }}",
        "{{ half.replace('a', half) }}",
        "{{ [half, half] | join(half) }}",
        "{{ many | join(half) }}",
        "{{ many | tojson(indent=8) }}",
        "{{ many | string }}",
        "{{ big | upper }}",
        "{{ big | tojson }}",
        "{{ many | truncate(10) }}",
        "{{ -1 in many }}" * 30,
        ["{{ half }}", "{{ half }}", "{{ node }}."],
        {"a": "{{ half }}", "b": {"c": "{{ [half] }}"}},
    ],
)
def test_output_and_work_are_bounded(source: Any) -> None:
    with pytest.raises(TemplateError, match="cannot be rendered"):
        compile_template(source).render(BIG | {"node": "a"})


def test_output_up_to_the_bound_is_rendered() -> None:
    assert len(compile_template("{{ half }}{{ half }}").render(BIG).value) == OUTPUT_BYTES_MAX
    assert compile_template("{{ big | trim | truncate(4) }}").render(BIG).value == "a..."
    assert compile_template("{{ big[:3] }}").render(BIG).value == "aaa"


def test_names_are_dotted_and_variables_listed() -> None:
    value = {
        "a": "{{ env.KEY }} {{ name.upper() }}",
        "b": ["{{ state.a ~ state.a.b[0] ~ state[output.x].c }}", 1],
    }
    expected = {"env.KEY", "state.name", "state.a", "state.a.b.0", "state", "output.x"}
    assert names_used(value) == expected
    template = compile_template(value)
    assert template.names == expected
    assert template.env_names == {"KEY"}
    assert names_used("no template") == names_used(7) == frozenset()


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 if env.A else 2 }}",
        "{{ [env['A']] | join }}",
        "{{ x | default(env.A) }}",
        "{{ 'b'.replace('b', env.A) }}",
    ],
)
def test_no_place_hides_a_variable(source: str) -> None:
    assert compile_template(source).env_names == {"A"}


def test_templates_survive_pickling() -> None:
    template = pickle.loads(pickle.dumps(compile_template({"n": "{{ state.count }}"})))
    assert template.render(SCOPE) == Rendered({"n": 3})


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
operands = st.sampled_from(
    ["a", "b.c", "a[0]", "state", "1", "-1", "2.5", "'x'", "none", "[a]", "{'k': b}", "zz"]
)
operators = st.sampled_from(["~", "+", "-", "==", "<", "in", "and", "or", "if a else"])
filters = st.sampled_from(
    [
        *sorted(FILTERS.keys() - {"replace"}),
        "default(1)",
        "join(',')",
        "replace('x', a)",
        "tojson(2)",
        "truncate(3)",
    ]
)
expressions = st.recursive(
    operands,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, operators, inner),
        st.builds("({}|{})".format, inner, filters),
        st.builds("({}).{}".format, inner, st.sampled_from(["c", "upper()", "split()", "replace('a', b)"])),
        st.builds("({})[{}]".format, inner, inner),
        st.builds("({})[{}:]".format, inner, inner),
    ),
    max_leaves=6,
)


@given(source=expressions, state=json_values)
def test_rendering_never_raises_on_small_values(source: str, state: Any) -> None:
    typed = compile_template("{{ " + source + " }}").render({"state": state})
    text = compile_template("- {{ " + source + " }}").render({"state": state})
    assert isinstance(text.value, str)
    assert text.warnings == typed.warnings


@given(source=st.text(max_size=40) | st.text("{}%#|~ab01.'()[]_-+*", max_size=40))
def test_any_text_compiles_or_is_refused(source: str) -> None:
    try:
        template = compile_template(source)
    except TemplateError:
        return
    template.render(SCOPE)
