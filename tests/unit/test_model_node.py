"""``model`` nodes: how they are written, what is refused, which settings serve them, and what they cost."""

import json
from pathlib import Path
from typing import Any

import pytest

from actors.runner import Runner
from actors.settings import Settings, load_settings
from runtime.effects import RunNode
from runtime.errors import BadRequest, InvalidWorkflow
from runtime.graph import ModelNode, decode_graph, encode_graph
from runtime.ir import RegistrationPolicy, compile_ir, compile_yaml
from runtime.net.egress import Egress
from runtime.net.policy import EgressPolicy
from runtime.net.secrets import Secrets
from runtime.nodes.models.endpoint import Endpoints
from runtime.nodes.models.prices import Prices, load_prices, read_prices
from runtime.providers import PROVIDERS, VARIABLES, VENDORS
from runtime.signals import NodeErrored, NodeSucceeded
from runtime.store.memory import MemoryStore
from tests.fixtures.http_server import http_server, reply
from tests.fixtures.model_wire import openai, streamed
from tests.fixtures.models import CALL, KEY, variables

POLICY = RegistrationPolicy((), frozenset({"MY_KEY", "REGION"}), frozenset({"MY_KEY"}))


def compiled(entry: dict[str, Any] | None = None, **kind: Any) -> ModelNode:
    ir = {
        "workflow_id": "w",
        "version": "1",
        "models": {} if entry is None else {"fast": entry},
        "nodes": {"ask": {"kind": {"type": "model", "model_ref": "fast", "prompt": "Hi", **kind}}},
        "edges": [{"from": "ask", "to": "end"}],
    }
    node = decode_graph(encode_graph(compile_ir(ir, POLICY).graph)).nodes["ask"]
    assert isinstance(node, ModelNode)
    return node


def problem(entry: dict[str, Any] | None = None, **kind: Any) -> str:
    with pytest.raises(InvalidWorkflow) as refused:
        compiled(entry, **kind)
    [sentence] = refused.value.fields["problems"]
    return str(sentence)


# --- how it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "provider", "model"),
    [
        ("claude-haiku-4-5", "anthropic", "claude-haiku-4-5"),
        ("gpt-4o", "openai", "gpt-4o"),
        ("o3-mini", "openai", "o3-mini"),
        ("chatgpt-4o-latest", "openai", "chatgpt-4o-latest"),
        ("gemini-2.5-flash", "google", "gemini-2.5-flash"),
        ("gemini/gemini-2.5-flash", "google", "gemini-2.5-flash"),
        ("mistral-large", "mistral", "mistral-large"),
        ("grok-4", "xai", "grok-4"),
        ("OpenAI/gpt-4o", "openai", "gpt-4o"),
        ("groq/llama-3", "groq", "llama-3"),
        ("openrouter/meta-llama/llama-3", "openrouter", "meta-llama/llama-3"),
        ("ollama/llama3.2:1b", "ollama", "llama3.2:1b"),
    ],
)
def test_a_model_is_named_by_its_provider_or_its_maker(name: str, provider: str, model: str) -> None:
    node = compiled(model_ref=name)
    assert (node.provider, node.model) == (provider, model)


def test_an_unknown_provider_is_refused_with_those_that_are_known() -> None:
    assert problem({"provider": "acme", "model": "x"}) == (
        f"node 'ask': model provider 'acme' is not supported (supported: {', '.join(PROVIDERS)})"
    )
    assert {"anthropic", "openai", "google", "ollama", "scripted", "mistral", "groq"} <= set(PROVIDERS)


def test_an_entry_of_models_serves_where_the_node_says_nothing() -> None:
    entry = {
        "provider": "openai",
        "model": "local",
        "api_base": "https://llm.example.com/v1/",
        "api_key_env": "MY_KEY",
        "stop": "END",
        "seed": 3,
    }
    node = compiled(entry, output_schema={"type": "object"})
    assert (node.api_base, node.api_key_env, node.stop) == ("https://llm.example.com/v1", "MY_KEY", ("END",))
    assert node.output_schema == {"type": "object"}
    assert node.options == {"seed": 3}
    assert compiled(entry, stop=["A", "B"]).stop == ("A", "B")
    assert compiled(entry, stop=[]).stop == ()


def test_an_output_schema_that_only_names_something_asks_for_no_structure() -> None:
    for name in ("schemas.Ticket", "__plan__", ""):
        assert compiled(model_ref="scripted/x", output_schema=name).output_schema is None


def test_it_is_written_in_yaml() -> None:
    result = compile_yaml(
        """
workflow: {id: w, version: 1.0.0}
models:
  fast: {provider: anthropic, model: claude-haiku-4-5, max_tokens: 500}
nodes:
  ask:
    type: model
    model: fast
    system: Be brief.
    prompt: "About {{ state.topic }}"
    stop: END
    output_schema: {type: object, properties: {title: {type: string}}}
    timeout: 30s
    output_key: said
""",
        POLICY,
    )
    assert result.warnings == ()
    node = result.graph.nodes["ask"]
    assert isinstance(node, ModelNode)
    assert (node.provider, node.model, node.max_tokens, node.timeout_ms) == (
        *("anthropic", "claude-haiku-4-5"),
        *(500, 30_000),
    )
    assert (node.system_prompt, node.stop, node.output_key) == ("Be brief.", ("END",), "said")
    assert node.output_schema == {"type": "object", "properties": {"title": {"type": "string"}}}


@pytest.mark.parametrize("name", ["REGION", "OTHER", "OPENAI_API_KEY"])
def test_a_key_must_be_a_secret(name: str) -> None:
    """A variable that templates may read is bound to no host."""
    entry = {"provider": "openai", "model": "m", "api_base": "https://llm.example.com", "api_key_env": name}
    assert problem(entry) == (
        f"ir.models.fast: api_key_env names {name!r}, which is no secret (JAMJET_SECRETS)"
    )


@pytest.mark.parametrize(
    "url",
    [
        "llm.example.com",
        "ftp://llm.example.com",
        "https://",
        "https://user:pw@llm.example.com",
        "https://llm.example.com/?key=1",
        "https://llm.example.com/#x",
        "https://llm example.com",
        "https://llm.example.com:x",
        "https://{{ state.host }}/v1",
        "https://bücher.example",
    ],
)
def test_an_api_base_is_a_plain_url(url: str) -> None:
    assert problem({"provider": "openai", "model": "m", "api_base": url}).startswith(
        "ir.models.fast.api_base: "
    )


@pytest.mark.parametrize("name", ["api_base", "api_key_env"])
def test_a_node_cannot_lead_its_call_elsewhere(name: str) -> None:
    assert problem({"provider": "openai", "model": "m"}, options={name: "x"}) == (
        f"node 'ask': {name} is no option: it belongs into an entry of ir.models"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"responses": "x"}, "responses must be a list"),
        ({"latency_ms": "1s"}, "latency_ms must be a number, from 0"),
        ({"token_ms": -1}, "token_ms must be a number, from 0"),
        ({"token_ms": True}, "token_ms must be a number, from 0"),
        ({"responses": [{"error": "timeout", "times": "2"}]}, "times of a response must be a whole number"),
    ],
)
def test_a_script_that_could_not_be_played_is_refused(options: dict[str, Any], sentence: str) -> None:
    assert problem({"provider": "scripted", "model": "m"}, options=options) == f"node 'ask': {sentence}"


def test_others_have_options_of_these_names_as_they_like() -> None:
    node = compiled({"provider": "openai", "model": "m"}, options={"latency_ms": "low"})
    assert node.options == {"latency_ms": "low"}


@pytest.mark.parametrize("stop", [[""], [1], {"a": 1}, ""])
def test_stops_are_texts(stop: Any) -> None:
    with pytest.raises(InvalidWorkflow) as refused:
        compiled(model_ref="scripted/x", stop=stop)
    assert all("stop" in sentence for sentence in refused.value.fields["problems"])


# --- settings -------------------------------------------------------------------------------------


def test_the_providers_variables_are_taken_along() -> None:
    environ = {name: f"value of {name}" for name in VARIABLES}
    settings = load_settings({**environ, "AWS_SECRET_ACCESS_KEY": "x"})
    assert settings.env == environ
    assert {"ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_BASE_URL", "OLLAMA_HOST"} <= set(
        VARIABLES
    )


def test_a_key_stands_in_no_text_about_the_settings() -> None:
    settings = load_settings({"OPENAI_API_KEY": KEY, "MINE": KEY, "JAMJET_SECRETS": "MINE@host"})
    assert KEY not in repr(settings)
    assert KEY not in str(settings)
    assert "OPENAI_API_KEY" not in settings.readable_env()
    assert settings.readable_env() == {"MINE": "${MINE}"}
    assert settings.secret_names == {"MINE"}


def test_an_endpoint_does_not_show_its_key() -> None:
    egress = Egress(EgressPolicy())
    endpoints = Endpoints(variables("http://127.0.0.1:9"), Secrets(), guarded=egress, trusted=egress)
    endpoint = endpoints.of(ModelNode(id="a", provider="openai", model="m", prompt=""))
    assert endpoint.key == KEY
    assert KEY not in repr(endpoint)
    assert endpoint.hidden(f"with {KEY} in it") == "with *** in it"


@pytest.mark.parametrize(
    ("provider", "told", "base"),
    [
        ("openai", "", "https://api.openai.com/v1"),
        ("anthropic", "https://gateway.example/a/", "https://gateway.example/a"),
        ("ollama", "", "http://127.0.0.1:11434"),
        ("ollama", "gpu", "http://gpu:11434"),
        ("ollama", "gpu:80", "http://gpu:80"),
        ("ollama", "0.0.0.0", "http://127.0.0.1:11434"),
        ("ollama", "[::1]:99", "http://[::1]:99"),
        ("ollama", "https://ollama.example", "https://ollama.example"),
    ],
)
def test_where_a_provider_is(provider: str, told: str, base: str) -> None:
    egress = Egress(EgressPolicy())
    vendor = VENDORS[provider]
    env = {vendor.base_env: told, **dict.fromkeys(vendor.key_names, KEY)}
    endpoints = Endpoints(env, Secrets(), guarded=egress, trusted=egress)
    assert endpoints.of(ModelNode(id="a", provider=provider, model="m", prompt="")).base == base


def test_every_provider_is_reached_safely() -> None:
    for name, vendor in VENDORS.items():
        if name not in ("ollama", "scripted"):
            assert vendor.base_url.startswith("https://"), name
            assert vendor.base_env, name
            assert vendor.key_names, name


# --- the runner -----------------------------------------------------------------------------------


STORE = MemoryStore(lambda: 0)


class NoFunctions:
    async def call(self, effect: Any, node: Any, *, tenant_id: str) -> Any:
        raise AssertionError


def effect(node: ModelNode, attempt: int = 2) -> RunNode:
    given = {"prompt": "Hi", "system_prompt": None}
    return RunNode(node=node, visit=1, attempt=attempt, input=given, state={}, key=CALL)


async def test_the_runner_passes_pieces_on_with_call_and_attempt() -> None:
    pieces: list[tuple[str, int, str]] = []
    async with http_server(streamed(openai("a", "b"))) as server:
        runner = Runner.over(
            Settings(env=variables(server.url)),
            NoFunctions(),
            MemoryStore(lambda: 0),
            on_token=lambda *piece: pieces.append(piece),
        )
        node = ModelNode(id="ask", provider="openai", model="gpt-4o", prompt="", timeout_ms=5_000)
        result = await runner.run(effect(node), tenant_id="default")
        await runner.close()
    assert isinstance(result, NodeSucceeded)
    assert (result.output, result.attempt, result.gen_ai_system) == ("ab", 2, "openai")
    # What answered is not listed, so what was asked for sets the price.
    assert result.cost_usd == (11 * 2.5 + 7 * 10) / 1_000_000
    assert pieces == [(CALL, 2, "a"), (CALL, 2, "b")]


async def test_the_runner_tells_of_a_refusal() -> None:
    async with http_server(reply(429, {"error": {"message": "slow down"}}, retry_after="3")) as server:
        runner = Runner.over(Settings(env=variables(server.url)), NoFunctions(), STORE)
        node = ModelNode(id="ask", provider="anthropic", model="m", prompt="", timeout_ms=5_000)
        result = await runner.run(effect(node), tenant_id="default")
        await runner.close()
    assert isinstance(result, NodeErrored)
    assert (result.error_class, result.retryable, result.retry_after_ms) == ("rate_limit", None, 3_000)
    assert result.error == "anthropic answered 429: slow down"


async def test_scripted_answers_stream_too() -> None:
    pieces: list[str] = []
    runner = Runner.over(
        Settings(),
        NoFunctions(),
        MemoryStore(lambda: 0),
        on_token=lambda key, attempt, text: pieces.append(text),
    )
    options = {"responses": ["  Two  words \n"]}
    node = ModelNode(id="ask", provider="scripted", model="m", prompt="", options=options)
    result = await runner.run(effect(node), tenant_id="default")
    assert isinstance(result, NodeSucceeded)
    assert (result.output, "".join(pieces)) == ("  Two  words \n", "  Two  words \n")
    assert len(pieces) > 1
    assert (result.gen_ai_system, result.gen_ai_model, result.cost_usd) == ("scripted", "m", 0.0)


async def test_a_scripted_failure_and_a_scripted_delay() -> None:
    runner = Runner.over(Settings(), NoFunctions(), STORE)
    options = {"responses": [{"error": "rate_limit", "message": "busy", "times": 2}, "x"]}
    node = ModelNode(id="ask", provider="scripted", model="m", prompt="", options=options)
    failed = await runner.run(effect(node, 2), tenant_id="default")
    assert isinstance(failed, NodeErrored)
    assert (failed.error, failed.error_class) == ("busy", "rate_limit")
    assert isinstance(await runner.run(effect(node, 3), tenant_id="default"), NodeSucceeded)
    slow = ModelNode(
        id="ask", provider="scripted", model="m", prompt="", timeout_ms=20, options={"latency_ms": 5_000}
    )
    late = await runner.run(effect(slow), tenant_id="default")
    assert isinstance(late, NodeErrored)
    assert (late.error, late.error_class) == ("no result within 0.02 s", "timeout")


async def test_a_scripted_answer_may_be_asked_to_fit_a_schema() -> None:
    runner = Runner.over(Settings(), NoFunctions(), STORE)
    schema = {"type": "object"}
    node = ModelNode(
        id="ask",
        provider="scripted",
        model="m",
        prompt="",
        output_schema=schema,
        options={"responses": ["no"]},
    )
    result = await runner.run(effect(node), tenant_id="default")
    assert isinstance(result, NodeErrored)
    assert result.error_class == "bad_answer"


# --- prices ---------------------------------------------------------------------------------------


def cost(prices: Prices, provider: str, *models: str, tokens: int | None = 1_000_000) -> float | None:
    return prices.cost_usd(provider, *models, input_tokens=tokens, output_tokens=tokens)


def test_the_built_in_table() -> None:
    prices = Prices()
    assert cost(prices, "openai", "gpt-4o-mini") == 0.75
    assert cost(prices, "openai", "gpt-4o-2024-08-06") == 12.5
    assert cost(prices, "anthropic", "claude-haiku-4-5-20251001") == 6.0
    assert cost(prices, "scripted", "anything") == 0.0


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "gpt-4o-mystery"), ("openai", "gpt"), ("ollama", "x"), ("groq", "gpt-4o")],
)
def test_an_unknown_model_has_no_cost(provider: str, model: str) -> None:
    assert cost(Prices(), provider, model) is None


def test_nothing_counted_is_nothing_known() -> None:
    assert cost(Prices(), "openai", "gpt-4o", tokens=None) is None


def test_the_more_exact_name_sets_the_price() -> None:
    assert cost(Prices(), "openai", "gpt-4o-mini-2024-07-18", "gpt-4o") == 0.75
    assert cost(Prices(), "openai", "unheard-of", "gpt-4o") == 12.5


def test_the_operators_prices_go_first(tmp_path: Path) -> None:
    own = {"openai/gpt-4o": {"input": 1, "output": 2}, "ollama/*": {"input": 0, "output": 0}}
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(own))
    settings = load_settings({"JAMJET_MODEL_PRICES": str(file)})
    file.unlink()
    prices = Prices(Settings.from_dict(settings.as_dict()).held_prices())
    assert cost(prices, "openai", "gpt-4o") == 3.0
    assert cost(prices, "ollama", "llama3.2:1b") == 0.0
    assert cost(prices, "openai", "gpt-4o-mini") == 0.75
    assert Settings().held_prices() == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "must be an object of provider/model to prices"),
        ('{"openai/x": 1}', "the price of 'openai/x' must be an object with the numbers input and output"),
        ('{"openai/x": {"input": 1}}', "the price of 'openai/x'"),
        ('{"openai/x": {"input": 1, "output": -1}}', "the price of 'openai/x'"),
        ('{"openai/x": {"input": 1, "output": true}}', "the price of 'openai/x'"),
        ('{"openai/x": {"input": 1, "output": NaN}}', "the price of 'openai/x'"),
    ],
)
def test_a_table_that_is_none_is_refused_at_the_start(
    tmp_path: Path, text: str | None, sentence: str
) -> None:
    file = tmp_path / "prices.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadRequest, match="JAMJET_MODEL_PRICES: ") as refused:
        load_settings({"JAMJET_MODEL_PRICES": str(file)})
    assert sentence in refused.value.detail


def test_the_built_in_file_is_a_table_of_known_providers() -> None:
    file = Path(load_prices.__code__.co_filename).with_name("prices.json")
    table = read_prices(json.loads(file.read_text()))
    assert all(name.partition("/")[0] in PROVIDERS for name in table)
