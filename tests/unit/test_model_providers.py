"""Each model provider against a server that speaks its wire: what is sent, and what becomes of the answer."""

from typing import Any

import pytest

from tests.fixtures.http_server import Asked, http_server, reply
from tests.fixtures.model_wire import WIRES, anthropic, google, ollama, openai, sse, streamed, torn, unescaped
from tests.fixtures.models import CALL, KEY, Asking, variables

PROVIDERS = sorted(WIRES)
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "tags": {"type": "array", "items": {"type": "object"}}},
    "required": ["title"],
}


async def asked_once(
    provider: str, parts: list[bytes], **fields: Any
) -> tuple[dict[str, Any], Asked, list[str]]:
    """The completion's fields, the request that was sent, and the pieces that came on the way."""
    wire = WIRES.get(provider, WIRES["openai"])
    async with http_server(streamed(parts, wire[1])) as server, Asking(variables(server.url)) as asking:
        told = await asking.ask(provider, **fields)
        assert len(server.asked) == 1
        return told, server.asked[0], asking.pieces


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_answer_comes_in_pieces_and_is_told_whole(provider: str) -> None:
    stream, _, model = WIRES[provider]
    told, asked, pieces = await asked_once(provider, stream("Good", " day", "!"))
    assert pieces == ["Good", " day", "!"]
    assert told == {
        "output": "Good day!",
        "gen_ai_system": provider,
        "gen_ai_model": model,
        "input_tokens": 11,
        "output_tokens": 7,
        "finish_reason": "stop",
        "cost_usd": None,
    }
    assert asked.method == "POST"
    assert asked.headers["content-type"] == "application/json"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000_000])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_may_be_cut_anywhere(provider: str, size: int) -> None:
    """Within a character of several bytes too."""
    stream = WIRES[provider][0]
    text = "Grüße, 世界 🎉 𝒳"
    for parts in (stream(text), unescaped(stream(text))):
        told, _, pieces = await asked_once(provider, torn(parts, size))
        assert told["output"] == text
        assert "".join(pieces) == text


async def test_a_surrogate_pair_split_over_two_frames_is_one_character() -> None:
    parts = openai("a", "\ud83c", "\udf89 b", "\udf89", "\ud83c")
    told, _, pieces = await asked_once("openai", parts)
    assert told["output"] == "a🎉 b\ufffd\ufffd"
    assert "".join(pieces) == told["output"]


async def test_what_cannot_be_stored_is_replaced() -> None:
    told, _, pieces = await asked_once("openai", openai("a\0b"))
    assert (told["output"], pieces) == ("a\ufffdb", ["a\ufffdb"])


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
async def test_line_ends_and_comments_of_event_streams(end: bytes) -> None:
    parts = [b": keep-alive\n\n", *openai("Hi"), b"id: 3\nretry: 5\n\n"]
    told, _, _ = await asked_once("openai", [part.replace(b"\n", end) for part in parts])
    assert told["output"] == "Hi"


async def test_a_stream_without_its_last_line_end_is_whole() -> None:
    parts = ollama("Hi")
    told, _, _ = await asked_once("ollama", [*parts[:-1], parts[-1].rstrip()])
    assert told["output"] == "Hi"
    parts = openai("Hi")[:-1]
    told, _, _ = await asked_once("openai", [*parts[:-1], parts[-1].rstrip()])
    assert told["input_tokens"] == 11


async def test_a_server_that_does_not_stream_is_understood() -> None:
    body = {
        "model": "local",
        "choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    async with http_server(reply(200, body)) as server, Asking(variables(server.url)) as asking:
        told = await asking.ask("openai")
        assert (told["output"], told["gen_ai_model"], told["output_tokens"]) == ("Hi", "local", 2)
        assert asking.pieces == ["Hi"]


async def test_a_connection_serves_again_after_an_answer() -> None:
    async with (
        http_server(streamed(openai("Hi"))) as server,
        Asking(variables(server.url)) as asking,
    ):
        await asking.ask("openai")
        await asking.ask("openai")
        assert (len(server.asked), server.connections) == (2, 1)


async def test_an_answer_without_counts_has_none() -> None:
    parts = sse({"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}, "[DONE]")
    told, _, _ = await asked_once("openai", parts)
    assert (told["gen_ai_model"], told["input_tokens"], told["cost_usd"]) == ("m-1", None, None)


@pytest.mark.parametrize(
    ("provider", "parts", "reason"),
    [
        ("anthropic", anthropic("x", stop_reason="stop_sequence"), "stop"),
        ("anthropic", anthropic("x", stop_reason="max_tokens"), "length"),
        ("anthropic", anthropic("x", stop_reason="tool_use"), "tool_calls"),
        ("anthropic", anthropic("x", stop_reason="refusal"), "content_filter"),
        ("anthropic", anthropic("x", stop_reason="pause_turn"), "pause_turn"),
        ("openai", openai("x", finish_reason="length"), "length"),
        ("openai", openai("x", finish_reason="tool_calls"), "tool_calls"),
        ("openai", openai("x", finish_reason="function_call"), "tool_calls"),
        ("openai", openai("x", finish_reason="content_filter"), "content_filter"),
        ("google", google("x", finish_reason="MAX_TOKENS"), "length"),
        ("google", google("x", finish_reason="SAFETY"), "content_filter"),
        ("google", google("x", finish_reason="OTHER"), "other"),
        ("ollama", ollama("x", done_reason="length"), "length"),
        ("ollama", ollama("x", done_reason="load"), "stop"),
    ],
)
async def test_reasons_to_finish_have_one_name(provider: str, parts: list[bytes], reason: str) -> None:
    told, _, _ = await asked_once(provider, parts)
    assert told["finish_reason"] == reason


async def test_a_refusal_of_the_model_is_its_answer() -> None:
    parts = sse(
        {"choices": [{"delta": {"refusal": "No."}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    )
    told, _, _ = await asked_once("openai", parts)
    assert (told["output"], told["finish_reason"]) == ("No.", "content_filter")


async def test_only_the_text_of_mixed_content_counts() -> None:
    content = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Hi"}]
    parts = sse({"choices": [{"delta": {"content": content}, "finish_reason": "stop"}]})
    told, _, _ = await asked_once("mistral", parts)
    assert told["output"] == "Hi"


# --- requests -------------------------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {
    "system": "Be brief",
    "temperature": 0.0,
    "max_tokens": 9,
    "stop": ("END", "\n"),
    "options": {"top_p": 0.5},
}


async def test_what_anthropic_is_sent() -> None:
    _, asked, _ = await asked_once("anthropic", anthropic("x"), **EVERYTHING)
    assert asked.path == "/v1/messages"
    assert (asked.headers["x-api-key"], asked.headers["anthropic-version"]) == (KEY, "2023-06-01")
    assert asked.json() == {
        "model": "m-1",
        "system": "Be brief",
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0.0,
        "max_tokens": 9,
        "stop_sequences": ["END", "\n"],
        "top_p": 0.5,
        "stream": True,
    }
    _, asked, _ = await asked_once("anthropic", anthropic("x"))
    assert asked.json() == {
        "model": "m-1",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 8_192,
        "stream": True,
    }


async def test_what_openai_is_sent() -> None:
    _, asked, _ = await asked_once("openai", openai("x"), **EVERYTHING)
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["idempotency-key"] == CALL
    assert asked.json() == {
        "model": "m-1",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "temperature": 0.0,
        "max_completion_tokens": 9,
        "stop": ["END", "\n"],
        "top_p": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_what_google_is_sent() -> None:
    options = {"top_p": 0.5, "safetySettings": [{"category": "X"}]}
    _, asked, _ = await asked_once(
        "google", google("x"), **{**EVERYTHING, "options": options, "model": "a/b"}
    )
    assert asked.path == "/v1beta/models/a%2Fb:streamGenerateContent?alt=sse"
    assert asked.headers["x-goog-api-key"] == KEY
    assert asked.json() == {
        "systemInstruction": {"parts": [{"text": "Be brief"}]},
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "generationConfig": {
            "temperature": 0.0,
            "maxOutputTokens": 9,
            "stopSequences": ["END", "\n"],
            "top_p": 0.5,
        },
        "safetySettings": [{"category": "X"}],
    }


async def test_what_ollama_is_sent() -> None:
    options = {"top_p": 0.5, "keep_alive": "5m"}
    _, asked, _ = await asked_once("ollama", ollama("x"), **{**EVERYTHING, "options": options})
    assert asked.path == "/api/chat"
    assert "authorization" not in asked.headers
    assert asked.json() == {
        "model": "m-1",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "stream": True,
        "options": {"temperature": 0.0, "num_predict": 9, "stop": ["END", "\n"], "top_p": 0.5},
        "keep_alive": "5m",
    }


async def test_a_maker_with_peculiarities_of_its_own() -> None:
    _, asked, _ = await asked_once("mistral", openai("x"), max_tokens=9)
    assert "stream_options" not in asked.json()
    assert asked.json()["max_tokens"] == 9


async def test_a_prompt_that_is_a_value_is_sent_as_json() -> None:
    _, asked, _ = await asked_once("openai", openai("x"), prompt={"n": [1, None]})
    assert asked.json()["messages"] == [{"role": "user", "content": '{"n":[1,null]}'}]


async def test_options_cannot_change_what_the_node_says() -> None:
    options = {"model": "other", "stream": False, "messages": []}
    _, asked, _ = await asked_once("openai", openai("x"), options=options)
    assert (asked.json()["model"], asked.json()["stream"]) == ("m-1", True)


# --- structured output ----------------------------------------------------------------------------


async def test_openai_is_given_the_schema() -> None:
    told, asked, _ = await asked_once("openai", openai('{"title":', ' "T"}'), output_schema=SCHEMA)
    assert told["output"] == {"title": "T"}
    assert asked.json()["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": False},
    }
    strict = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "object", "additionalProperties": False}}},
        "required": ["a"],
        "additionalProperties": False,
    }
    _, asked, _ = await asked_once("openai", openai('{"a": []}'), output_schema=strict)
    assert asked.json()["response_format"]["json_schema"]["strict"] is True


async def test_a_maker_without_schemas_is_told_in_words() -> None:
    told, asked, _ = await asked_once(
        "deepseek", openai('```json\n{"title": "T"}\n```'), output_schema=SCHEMA, system="Be brief"
    )
    assert told["output"] == {"title": "T"}
    body = asked.json()
    assert body["response_format"] == {"type": "json_object"}
    assert body["messages"][0]["content"].startswith("Be brief\n\nAnswer with JSON alone")
    assert '"title"' in body["messages"][0]["content"]


async def test_google_is_given_the_schema_in_the_field_that_can_hold_it() -> None:
    told, asked, _ = await asked_once("google", google('{"title": "T"}'), output_schema=SCHEMA)
    assert told["output"] == {"title": "T"}
    config = asked.json()["generationConfig"]
    assert config == {"responseMimeType": "application/json", "responseSchema": SCHEMA}
    closed = {**SCHEMA, "additionalProperties": False}
    _, asked, _ = await asked_once("google", google('{"title": "T"}'), output_schema=closed)
    assert asked.json()["generationConfig"]["responseJsonSchema"] == closed


async def test_ollama_is_given_the_schema() -> None:
    told, asked, _ = await asked_once("ollama", ollama('{"title": "T"}'), output_schema=SCHEMA)
    assert told["output"] == {"title": "T"}
    assert asked.json()["format"] == SCHEMA


async def test_anthropic_is_given_the_schema() -> None:
    told, asked, _ = await asked_once(
        "anthropic",
        anthropic('{"title": "T"}'),
        output_schema=SCHEMA,
        options={"output_config": {"effort": "low"}},
    )
    assert told["output"] == {"title": "T"}
    config = asked.json()["output_config"]
    assert config["effort"] == "low"
    assert config["format"]["schema"] == {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "object", "additionalProperties": False}},
        },
        "required": ["title"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "claude-3-5-haiku-20241022"},
        {"model": "claude-sonnet-4-20250514"},
        {"model": "claude-opus-4-1-20250805"},
        {"model": "claude-opus-5-5", "options": {"structured": "tool"}},
    ],
)
async def test_an_older_claude_answers_through_a_tool(fields: dict[str, Any]) -> None:
    parts = anthropic("", '{"title"', ': "T"}', stop_reason="tool_use", tool=True)
    told, asked, pieces = await asked_once("anthropic", parts, output_schema=SCHEMA, **fields)
    assert (told["output"], told["finish_reason"]) == ({"title": "T"}, "stop")
    assert pieces == ['{"title"', ': "T"}']
    body = asked.json()
    assert body["tool_choice"] == {"type": "tool", "name": "answer"}
    assert body["tools"][0]["input_schema"] == SCHEMA
    assert "output_config" not in body
    assert "structured" not in body


async def test_without_a_schema_a_whole_object_is_parsed_and_other_text_kept() -> None:
    for text, output in (
        (' {"a": 1} ', {"a": 1}),
        ("[1]", [1]),
        ('{"a": 1} is it', '{"a": 1} is it'),
        ("12", "12"),
        ('{"a": 123456789012345678901234567890}', '{"a": 123456789012345678901234567890}'),
    ):
        told, _, _ = await asked_once("openai", openai(text))
        assert told["output"] == output
