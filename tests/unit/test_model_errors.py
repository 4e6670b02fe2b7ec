"""How calls of models fail: classes for the retry policy, words for people, and never a key."""

import asyncio
from typing import Any

import pytest

from runtime.net.secrets import Secrets
from runtime.nodes.models.port import ModelError
from tests.fixtures.http_server import Asked, http_server, reply, response
from tests.fixtures.model_wire import NDJSON, WIRES, Handler, anthropic, ndjson, openai, sse, streamed
from tests.fixtures.models import KEY, Asking, variables

PROVIDERS = sorted(WIRES)


async def failure(provider: str, handler: Handler, **fields: Any) -> ModelError:
    """What the call fails with, in which no key may stand."""
    async with http_server(handler) as server, Asking(variables(server.url)) as asking:
        with pytest.raises(ModelError) as failed:
            await asking.ask(provider, **fields)
    assert KEY not in str(failed.value)
    assert KEY not in repr(failed.value)
    return failed.value


def told(error: ModelError) -> tuple[str, bool | None, int]:
    return error.error_class, error.retryable, error.retry_after_ms


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("status", "error_class", "retryable"),
    [
        (400, "client_error", False),
        (401, "auth", False),
        (403, "auth", False),
        (404, "client_error", False),
        (408, "timeout", None),
        (413, "client_error", False),
        (429, "rate_limit", None),
        (500, "server_error", None),
        (503, "server_error", None),
        (504, "timeout", None),
        (529, "server_error", None),
        (302, "client_error", False),
    ],
)
async def test_a_status_has_its_class(
    provider: str, status: int, error_class: str, retryable: bool | None
) -> None:
    error = await failure(provider, reply(status, {"error": {"message": "because"}}))
    assert told(error) == (error_class, retryable, 0)
    assert str(error) == f"{provider} answered {status}: because"


@pytest.mark.parametrize(
    ("headers", "body", "wait_ms"),
    [
        ({"retry_after": "2.5"}, {}, 2_500),
        ({"retry_after": "9", "retry_after_ms": "1500"}, {}, 1_500),
        ({"retry_after_ms": "99999999"}, {}, 3_600_000),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}, 0),
        ({}, {"error": {"details": [{"@type": "RetryInfo", "retryDelay": "34.07s"}]}}, 34_070),
        ({}, [{"error": {"details": [{"retryDelay": "1s"}, "odd"]}}], 1_000),
        ({}, {"error": {"details": "odd"}}, 0),
    ],
)
async def test_a_rate_limit_says_when_to_come_back(headers: dict[str, str], body: Any, wait_ms: int) -> None:
    error = await failure("google", reply(429, body, **headers))
    assert told(error) == ("rate_limit", None, wait_ms)


async def test_an_account_without_credit_is_not_asked_again() -> None:
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    assert told(await failure("openai", reply(429, body))) == ("rate_limit", False, 0)


async def test_google_knows_no_401() -> None:
    problem = {"message": "API key not valid.", "details": [{"reason": "API_KEY_INVALID"}]}
    error = await failure("google", reply(400, {"error": problem}))
    assert told(error) == ("auth", False, 0)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "one"}}, "one"),
        ({"error": "two"}, "two"),
        ({"message": "three"}, "three"),
        ({"detail": [{"loc": "x"}]}, '[{"loc": "x"}]'),
        ([{"error": {"message": "four"}}], "four"),
        ("plain words", "plain words"),
        (b"\xff", "\ufffd"),
    ],
)
async def test_the_providers_words_are_found(body: Any, said: str) -> None:
    assert str(await failure("openai", reply(400, body))) == f"openai answered 400: {said}"


async def test_a_refusal_that_breaks_off_has_its_class_still() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()

    assert told(await failure("openai", answer)) == ("server_error", None, 0)


async def test_long_words_are_cut_and_none_are_needed() -> None:
    error = await failure("openai", reply(500, {"error": {"message": "x" * 100_000}}))
    assert len(str(error)) < 600
    assert len(str(await failure("openai", reply(500, b"x" * 1_000_000)))) < 600
    assert str(await failure("openai", reply(500))) == "openai answered 500"


@pytest.mark.parametrize("provider", ["anthropic", "google", "openai"])
async def test_a_key_that_the_server_repeats_is_not_told(provider: str) -> None:
    """``failure`` looks for it."""
    said = f"Incorrect API key provided: {KEY}."
    error = await failure(provider, reply(401, {"error": {"message": said}}))
    assert "provided: ***." in str(error)
    error = await failure(provider, streamed(sse({"type": "error", "error": {"message": said}})))
    assert "***" in str(error)
    error = await failure(provider, streamed(sse(f"no json: {KEY}")))
    assert error.error_class == "bad_answer"


@pytest.mark.parametrize("before", [80, 90, 480, 490, 510, 530])
async def test_a_key_is_not_told_where_words_are_cut(before: int) -> None:
    said = "x" * before + KEY
    for handler in (
        reply(401, {"error": {"message": said}}),
        reply(500, said),
        streamed(sse({"error": {"message": said}})),
        streamed(sse(said)),
    ):
        assert KEY[:8] not in str(await failure("openai", handler))


async def test_a_key_that_the_answer_repeats_is_not_told() -> None:
    async with (
        http_server(streamed(openai(f"It is {KEY}"))) as server,
        Asking(variables(server.url)) as asking,
    ):
        assert (await asking.ask("openai"))["output"] == "It is ***"
        assert asking.pieces == ["It is ***"]


async def test_a_word_in_the_place_of_a_key_is_left_in_answers() -> None:
    """Servers that want no key are given any."""
    async with (
        http_server(streamed(openai("ollama is fine"))) as server,
        Asking({**variables(server.url), "OPENAI_API_KEY": "ollama"}) as asking,
    ):
        assert (await asking.ask("openai"))["output"] == "ollama is fine"


async def test_names_from_outside_are_kept_short_and_storable() -> None:
    name = "m\ud800\0" + "x" * 10_000
    parts = sse({"model": name, "choices": [{"delta": {"content": "Hi"}, "finish_reason": name}]})
    async with http_server(streamed(parts)) as server, Asking(variables(server.url)) as asking:
        told_of = await asking.ask("openai")
    for key in ("gen_ai_model", "finish_reason"):
        assert told_of[key] == "m\ufffd\ufffd" + "x" * 253


# --- broken streams -------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_that_breaks_off(provider: str) -> None:
    stream, content_type, _ = WIRES[provider]
    parts = stream("Good", " day")
    for count in (0, 1, len(parts) - 2):
        error = await failure(provider, streamed(parts[:count], content_type, cut=True))
        assert told(error) == ("connection_reset", None, 0)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_that_ends_too_early(provider: str) -> None:
    stream, content_type, _ = WIRES[provider]
    parts = stream("Good", " day")[:2]
    for early in (parts, [*parts, b'data: {"candidates": [{"con']):
        error = await failure(provider, streamed(early, content_type))
        assert told(error) == ("connection_reset", None, 0)
        assert "before its answer was whole" in str(error)


async def test_what_breaks_after_the_last_frame_does_not_matter() -> None:
    async with (
        http_server(streamed(anthropic("Hi"), cut=True)) as server,
        Asking(variables(server.url)) as asking,
    ):
        assert (await asking.ask("anthropic"))["output"] == "Hi"


@pytest.mark.parametrize(
    ("provider", "frame"),
    [
        ("openai", "{"),
        ("openai", "<html>"),
        ("openai", '"text"'),
        ("openai", "[" * 100_000),
        ("openai", '{"choices": "x"}'),
        ("openai", '{"choices": [{"delta": {"content": 5}}]}'),
        ("openai", '{"choices": [], "usage": {"prompt_tokens": 1e400}}'),
        ("openai", '{"choices": [], "usage": {"prompt_tokens": -1}}'),
        ("openai", '{"choices": [], "usage": {"prompt_tokens": 99999999999999999999}}'),
        ("anthropic", '{"delta": {}}'),
        ("anthropic", '{"type": "message_start", "message": 1}'),
        ("google", '{"candidates": [{"content": {"parts": {}}}]}'),
        ("ollama", '{"message": {"content": []}}'),
        ("ollama", "[]"),
    ],
)
async def test_a_frame_that_is_none(provider: str, frame: str) -> None:
    parts = [frame.encode() + b"\n"] if provider == "ollama" else sse(frame)
    error = await failure(provider, streamed(parts, WIRES[provider][1]))
    assert told(error) == ("bad_answer", None, 0)
    assert str(error).startswith(f"{provider} sent what is not part of an answer: ")
    assert len(str(error)) < 300


async def test_a_web_page_is_no_answer() -> None:
    error = await failure("openai", reply(200, "<html>Sign in</html>", content_type="text/html"))
    assert told(error) == ("bad_answer", None, 0)


@pytest.mark.parametrize(
    ("provider", "problem", "error_class", "retryable"),
    [
        ("anthropic", {"type": "overloaded_error", "message": "m"}, "server_error", None),
        ("anthropic", {"type": "rate_limit_error", "message": "m"}, "rate_limit", None),
        ("anthropic", {"type": "authentication_error", "message": "m"}, "auth", False),
        ("anthropic", {"type": "invalid_request_error", "message": "m"}, "client_error", False),
        ("anthropic", {"type": "timeout_error", "message": "m"}, "timeout", None),
        ("openai", {"type": "server_error", "message": "m"}, "server_error", None),
        ("openai", {"code": "rate_limit_exceeded", "message": "m"}, "rate_limit", None),
        ("openai", {"code": 429, "message": "m"}, "rate_limit", None),
        ("openai", {"code": ["odd"], "message": "m"}, "server_error", None),
        ("google", {"code": 503, "status": "UNAVAILABLE", "message": "m"}, "server_error", None),
        ("google", {"status": "RESOURCE_EXHAUSTED", "message": "m"}, "rate_limit", None),
        ("ollama", "m", "server_error", None),
    ],
)
async def test_a_failure_within_a_stream(
    provider: str, problem: Any, error_class: str, retryable: bool | None
) -> None:
    stream, content_type, _ = WIRES[provider]
    frame = {"type": "error", "error": problem}
    last = ndjson(frame) if content_type == NDJSON else sse(frame)
    error = await failure(provider, streamed([*stream("Good")[:1], *last], content_type))
    assert told(error) == (error_class, retryable, 0)
    assert str(error) == f"{provider} broke off: m"


async def test_what_a_filter_withholds() -> None:
    blocked = sse({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 1}})
    error = await failure("google", streamed(blocked))
    assert told(error) == ("content_filter", False, 0)
    error = await failure("openai", streamed(openai(finish_reason="content_filter")))
    assert told(error) == ("content_filter", False, 0)


# --- answers that do not fit ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Sure! Here it is", "the model's answer is not JSON"),
        ("", "the model's answer is not JSON"),
        ("[1]", "is not of type 'object'"),
        ('{"a": 123456789012345678901234567890}', "over 64 bits"),
        ("[" * 100_000, "the model's answer is not JSON"),
        ("NaN", "the model's answer is not JSON"),
    ],
)
async def test_an_answer_that_is_not_the_json_that_was_asked_for(text: str, said: str) -> None:
    error = await failure("openai", streamed(openai(text)), output_schema={"type": "object"})
    assert told(error) == ("bad_answer", None, 0)
    assert said in str(error)
    assert len(str(error)) < 400


async def test_json_that_was_cut_off_says_why() -> None:
    parts = openai('{"a": ', finish_reason="length")
    error = await failure("openai", streamed(parts), output_schema={"type": "object"})
    assert "it was cut off at max_tokens" in str(error)


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.nodes.models.exchange.STREAM_BYTES_MAX", 10_000)
    error = await failure("openai", streamed(openai(*["x" * 100] * 200)))
    assert told(error) == ("too_large", False, 0)


# --- time -----------------------------------------------------------------------------------------


async def test_a_slow_stream_may_take_its_time_within_the_nodes() -> None:
    parts = openai("a", "b", "c")
    async with (
        http_server(streamed(parts, pause_s=0.05)) as server,
        Asking(variables(server.url)) as asking,
    ):
        assert (await asking.ask("openai", timeout_ms=10_000))["output"] == "abc"
        with pytest.raises(ModelError, match=r"no result within 0\.15 s") as failed:
            await asking.ask("openai", timeout_ms=150)
        assert told(failed.value) == ("timeout", None, 0)
        assert "ab".startswith("".join(asking.pieces))


async def test_a_server_that_never_answers() -> None:
    async def never(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    assert told(await failure("anthropic", never, timeout_ms=100)) == ("timeout", None, 0)


async def test_a_server_that_is_not_there() -> None:
    async with Asking(variables("http://127.0.0.1:1")) as asking:
        with pytest.raises(ModelError) as failed:
            await asking.ask("ollama")
    assert told(failed.value) == ("io_error", None, 0)


async def test_a_call_can_be_stopped() -> None:
    came = asyncio.Event()

    async def hang(asked: Asked, writer: asyncio.StreamWriter) -> None:
        came.set()
        await asyncio.sleep(30)

    async with http_server(hang) as server, Asking(variables(server.url)) as asking:
        task = asyncio.create_task(asking.ask("openai", timeout_ms=None))
        await came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- keys and hosts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "variable"),
    [
        ("anthropic", "ANTHROPIC_API_KEY"),
        ("openai", "OPENAI_API_KEY"),
        ("google", "GOOGLE_API_KEY or GEMINI_API_KEY"),
        ("groq", "GROQ_API_KEY"),
    ],
)
async def test_a_missing_key_is_named(provider: str, variable: str) -> None:
    for env in ({}, {variable: " "}):
        async with Asking(env) as asking:
            with pytest.raises(ModelError, match=f"set {variable} where the server is started") as failed:
                await asking.ask(provider)
            assert told(failed.value) == ("auth", False, 0)


@pytest.mark.parametrize("value", ["sk-1\r\nX: y", "sk 1", "schlüssel", "sk-\0"])
async def test_a_key_that_no_header_can_carry_is_not_shown(value: str) -> None:
    async with Asking({"OPENAI_API_KEY": value}) as asking:
        with pytest.raises(ModelError, match="OPENAI_API_KEY has characters that no key has") as failed:
            await asking.ask("openai")
        assert value not in str(failed.value)


async def test_a_key_may_have_a_line_end_behind_it() -> None:
    async with http_server(streamed(openai("x"))) as server:
        env = {"OPENAI_BASE_URL": f"{server.url}/gateway/v1/", "OPENAI_API_KEY": f"{KEY}\n"}
        async with Asking(env) as asking:
            await asking.ask("openai")
        assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
        assert server.asked[0].path == "/gateway/v1/chat/completions"


async def test_google_takes_its_own_key_first() -> None:
    async with http_server(streamed(WIRES["google"][0]("x"))) as server:
        env = {"GOOGLE_BASE_URL": server.url, "GOOGLE_API_KEY": "first", "GEMINI_API_KEY": "second"}
        async with Asking(env) as asking:
            await asking.ask("google")
        assert server.asked[0].headers["x-goog-api-key"] == "first"


async def test_ollama_is_found_without_a_scheme() -> None:
    async with http_server(streamed(WIRES["ollama"][0]("x"), NDJSON)) as server:
        for host in (f"127.0.0.1:{server.port}", f"0.0.0.0:{server.port}"):
            async with Asking({"OLLAMA_HOST": host}) as asking:
                assert (await asking.ask("ollama"))["output"] == "x"


async def test_an_api_base_of_a_workflow_may_not_lead_inside() -> None:
    async with http_server(streamed(openai("x"))) as server, Asking(variables(server.url)) as asking:
        with pytest.raises(ModelError, match="not a public address") as failed:
            await asking.ask("openai", api_base=server.url)
        assert told(failed.value) == ("address_refused", False, 0)
        assert server.asked == []


async def test_an_api_base_gets_no_key_of_the_operator_unless_a_secret_is_bound_to_it() -> None:
    secrets = Secrets.parse(
        ["MINE@127.0.0.1", "OTHER@example.com", "UNSET@127.0.0.1"], {"MINE": KEY, "OTHER": "o"}
    )
    async with (
        http_server(streamed(openai("x"))) as server,
        Asking(variables(server.url), secrets=secrets, allow=("127.0.0.1",)) as asking,
    ):
        base = f"{server.url}/v1"
        await asking.ask("openai", api_base=base, max_tokens=5)
        assert "authorization" not in server.asked[-1].headers
        assert server.asked[-1].json()["max_tokens"] == 5
        await asking.ask("openai", api_base=base, api_key_env="MINE")
        assert server.asked[-1].headers["authorization"] == f"Bearer {KEY}"
        sent = len(server.asked)
        for name, error_class in (("OTHER", "secret_refused"), ("UNSET", "auth"), ("NONE", "secret_refused")):
            with pytest.raises(ModelError) as failed:
                await asking.ask("openai", api_base=base, api_key_env=name)
            assert told(failed.value) == (error_class, False, 0)
        assert len(server.asked) == sent


async def test_a_node_may_bring_a_key_of_its_own_to_the_provider() -> None:
    secrets = Secrets.parse(["TEAM@127.0.0.1"], {"TEAM": "team-key"})
    async with (
        http_server(streamed(anthropic("x"))) as server,
        Asking(variables(server.url), secrets=secrets) as asking,
    ):
        await asking.ask("anthropic", api_key_env="TEAM")
        assert server.asked[0].headers["x-api-key"] == "team-key"


async def test_a_redirect_is_not_followed() -> None:
    """The key would go along."""

    async def away(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(response(307, location="/elsewhere"))

    async with http_server(away) as server, Asking(variables(server.url)) as asking:
        with pytest.raises(ModelError, match="answered 307"):
            await asking.ask("openai")
        assert len(server.asked) == 1


async def test_a_provider_that_an_older_graph_names_and_nobody_knows() -> None:
    async with Asking({}) as asking:
        with pytest.raises(ModelError, match="'gone' is not supported"):
            await asking.ask("gone")
