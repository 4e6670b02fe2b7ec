"""``jamjet agents`` against a stub server: what each command sends, prints, and exits with."""

import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from api.cli import agents as agents_module
from api.cli import client as client_module
from api.cli import main as cli
from tests.fixtures.rest_stub import Stub, running_stub

CARD = {
    "id": "research-agent",
    "uri": "http://localhost:7701",
    "name": "Research Agent",
    "capabilities": {"skills": [{"name": "research", "description": "Finds things out."}]},
}
ODD_IDS = ["a b", "x/y", "50%", "what?#now", "é-agent", "..."]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    with running_stub() as stub:
        monkeypatch.setenv("JAMJET_URL", stub.url)
        monkeypatch.setenv("JAMJET_TOKEN", "jj_secret")
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setattr(client_module, "_RETRY_DELAYS_S", (0.0, 0.0))
        monkeypatch.chdir(tmp_path)
        yield stub


def run(*arguments: str) -> int:
    return cli.main(["agents", *arguments])


def heard(**ago: float) -> str:
    return (datetime.now(UTC) - timedelta(**ago)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def agent(agent_id: str = "research-agent", skills: int = 1, **more: Any) -> dict[str, Any]:
    """An agent as the API shows it."""
    names = [f"skill-{number}" for number in range(1, skills + 1)]
    return {
        "id": agent_id,
        "agent_id": agent_id,
        "uri": "http://localhost:7701",
        "name": "Research Agent",
        "description": "Finds things out.",
        "version": "0.1.0",
        "capabilities": {
            "skills": [{"id": name, "name": name.title(), "description": f"Does {name}."} for name in names],
            "protocols": ["a2a", "mcp"],
            "tools_provided": ["web_search"],
            "tools_consumed": [],
        },
        "autonomy": "guided",
        "auth": {"type": "bearer_token"},
        "labels": {},
        "status": "active",
        "stale": False,
        "registered_at": "2026-03-12T10:00:00.000Z",
        "updated_at": "2026-03-12T10:00:00.000Z",
        "last_heartbeat": None,
        "found_at": None,
        "card": CARD,
        **more,
    }


def listed(*agents: dict[str, Any], total: int | None = None) -> tuple[int, Any]:
    total = len(agents) if total is None else total
    return 200, {"agents": list(agents), "total": total, "limit": 50, "offset": 0}


def columns(line: str) -> list[str]:
    return [text.strip() for text in line.split("  ") if text]


# --- list and search ------------------------------------------------------------------------------


def test_the_list_shows_what_each_agent_is_and_can_do(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    silent = agent("silent", status="paused", stale=True, last_heartbeat=heard(minutes=5, seconds=1))
    stub.on("GET /agents", listed(agent(), silent))

    assert run("list") == 0

    out, err = capsys.readouterr()
    head, first, second = map(columns, out.splitlines())
    assert head == ["ID", "NAME", "STATUS", "PROTOCOLS", "SKILLS", "LAST_HEARTBEAT", "URI"]
    uri = "http://localhost:7701"
    assert first == ["research-agent", "Research Agent", "active", "a2a, mcp", "skill-1", "never", uri]
    assert second == ["silent", "Research Agent", "paused, stale", "a2a, mcp", "skill-1", "5 min ago", uri]
    assert err == ""
    sent = stub.sent("GET /agents")
    assert sent["query"] == {"limit": "50", "offset": "0"}
    assert sent["headers"]["authorization"] == "Bearer jj_secret"


def test_the_list_is_asked_for_by_status_skill_and_protocol(stub: Stub) -> None:
    stub.on("GET /agents", listed())

    assert run("list", "--status", "archived", "--skill", "a&b", "--protocol", "a2a", "--limit", "7") == 0

    query = {"status": "archived", "skill": "a&b", "protocol": "a2a", "limit": "7", "offset": "0"}
    assert stub.sent("GET /agents")["query"] == query


def test_a_list_of_none_is_its_head(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on("GET /agents", listed())

    assert run("list") == 0

    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["ID"]
    assert err == ""


@pytest.mark.parametrize("command", [["list"], ["search", "--skills", "a"]])
def test_what_is_left_out_is_said_on_stderr(
    stub: Stub, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for route in ("GET /agents", "GET /agents/search"):
        stub.on(route, listed(agent(), total=12))

    assert run(*command, "--offset", "4") == 0

    assert capsys.readouterr().err == "7 more: use --limit and --offset\n"


def test_of_many_skills_the_first_are_shown(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on("GET /agents", listed(agent("able", skills=9), agent("unable", skills=0)))

    assert run("list") == 0

    _, able, unable = map(columns, capsys.readouterr().out.splitlines())
    assert able[4] == "skill-1, skill-2, skill-3, 6 more"
    assert unable[4] == "-"


def test_what_a_terminal_would_obey_is_quoted(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on("GET /agents", listed(agent(name="evil \x1b[2J")))

    assert run("list") == 0

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\u001b[2J" in out


def test_search_asks_for_all_skills_at_once(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on("GET /agents/search", listed(agent()))

    assert run("search", "--skills", "research, web search,", "--trust-domain", "acme.example") == 0

    assert "research-agent" in capsys.readouterr().out
    assert stub.sent("GET /agents/search")["query"] == {
        "skills": "research,web search",
        "trust_domain": "acme.example",
        "limit": "50",
        "offset": "0",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--status", "asleep"],
        ["list", "--protocol", "smtp"],
        ["list", "--limit", "0"],
        ["search"],
        ["search", "--skills", " , "],
        ["trace", "a", "--limit", "0"],
        ["register"],
        ["bogus"],
    ],
)
def test_usage_errors_exit_with_2(stub: Stub, arguments: list[str]) -> None:
    assert run(*arguments) == 2

    assert stub.asked == []


def test_what_a_clock_ahead_of_ours_heard_was_just_now(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.on("GET /agents", listed(agent(last_heartbeat=heard(hours=-1))))

    assert run("list") == 0

    assert "1 s ago" in capsys.readouterr().out


# --- inspect --------------------------------------------------------------------------------------


def test_inspect_shows_fields_and_then_skills(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    found_at = "https://a.example/.well-known/agent.json"
    shown = agent(skills=2, stale=True, last_heartbeat=heard(days=3), found_at=found_at)
    stub.on("GET /agents/research-agent", (200, shown))

    assert run("inspect", "research-agent") == 0

    fields, skills = capsys.readouterr().out.split("\n\nskills\n")
    told = dict(columns(line) for line in fields.splitlines()[1:])
    assert told["id"] == "research-agent"
    assert told["status"] == "active, stale"
    assert told["protocols"] == "a2a, mcp"
    assert told["auth"] == '{"type": "bearer_token"}'
    assert told["found_at"] == found_at
    assert told["last_heartbeat"] == "3 days ago"
    assert not {"labels", "tools_consumed", "card"} & set(told), "what is empty or told elsewhere"
    assert list(map(columns, skills.splitlines())) == [
        ["ID", "NAME", "DESCRIPTION"],
        ["skill-1", "Skill-1", "Does skill-1."],
        ["skill-2", "Skill-2", "Does skill-2."],
    ]


def test_an_agent_of_which_little_is_known_is_shown(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on("GET /agents/bare", (200, {"agent_id": "bare", "status": "registered"}))

    assert run("inspect", "bare") == 0

    fields = [columns(line) for line in capsys.readouterr().out.splitlines()]
    assert ["id", "bare"] in fields
    assert ["last_heartbeat", "never"] in fields


# --- register -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("card.json", '{"id": "a", "weight": 1e3}'),
        ("card.yaml", "id: a\nweight: 1000.0\n"),
        ("card.yml", "{id: a, weight: 1000.0}"),
        ("card", ' {"id": "a", "weight": 1e3}'),
        ("card.txt", "id: a\nweight: 1000.0\n"),
    ],
)
def test_a_card_is_registered_from_a_file(
    stub: Stub, name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.on("POST /agents", (201, {"agent_id": "a"}))
    (tmp_path / name).write_text(text)

    assert run("register", name) == 0

    assert capsys.readouterr() == ("", "registered a\n")
    sent = stub.sent("POST /agents")
    assert sent["body"] == {"id": "a", "weight": 1000.0}
    assert sent["query"] == {}
    assert len(sent["headers"]["idempotency-key"]) == 32


@pytest.mark.parametrize("text", [json.dumps({"name": "Ünï 😀"}), "name: Ünï 😀\n"])
def test_a_card_is_registered_from_standard_input(
    stub: Stub, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.on("POST /agents", (201, {"agent_id": "n"}))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    assert run("register", "-", "-o", "json") == 0

    assert json.loads(capsys.readouterr().out) == {"agent_id": "n"}
    assert stub.sent("POST /agents")["body"] == {"name": "Ünï 😀"}


def test_another_card_is_refused_or_replaces(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "agent a is registered with another card: replace it with ?replace=true"

    def answer(asked: dict[str, Any]) -> tuple[int, Any]:
        return (201, {"agent_id": "a"}) if asked["query"].get("replace") == "true" else (409, {"error": said})

    stub.on("POST /agents", answer)
    (tmp_path / "card.json").write_text('{"id": "a"}')

    assert run("register", "card.json") == 1
    assert capsys.readouterr() == ("", f"error: {said}\n")
    assert run("register", "card.json", "--replace") == 0
    assert capsys.readouterr() == ("", "registered a\n")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("card.json", b'{"id": ', "card.json is not JSON: "),
        ("card.json", b'{"id": "\xff"}', "card.json is not JSON: "),
        ("card.json", b'[{"id": "a"}]', "card.json must hold an object with an id or a name"),
        ("card.json", b"", "card.json is not JSON: "),
        ("card.yaml", b"- id: a", "card.yaml must hold an object with an id or a name"),
        ("card.yaml", b"id: a\nid: b", "card.yaml: line 2: the key 'id' stands twice"),
        ("card.yaml", b"id: \xff", "card.yaml cannot be read: "),
        ("card.yaml", b"", "card.yaml: the yaml text is empty"),
        ("card.yaml", b"id: !!python/name:os.system x", "card.yaml: line 1: the tag "),
        ("card.yaml", b"weight: .nan", "card.yaml contains the number nan, which is not JSON"),
        ("card.json", b'{"a":' * 500 + b"1" + b"}" * 500, "card.json is nested deeper than 64 levels"),
    ],
)
def test_a_file_that_holds_no_card_exits_with_2(
    stub: Stub, name: str, data: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(data)

    assert run("register", name) == 2

    assert capsys.readouterr().err.startswith(f"error: {said}")
    assert stub.asked == []


def test_a_file_that_cannot_be_read_exits_with_2(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("register", "gone.json") == 2
    assert capsys.readouterr().err == "error: gone.json cannot be read: No such file or directory\n"
    assert run("register", ".") == 2
    assert capsys.readouterr().err == "error: . cannot be read: Is a directory\n"


def test_standard_input_that_holds_no_card_is_named(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"just a text")))

    assert run("register", "-") == 2

    assert capsys.readouterr().err == "error: standard input must hold an object with an id or a name\n"


# --- discover -------------------------------------------------------------------------------------


def test_a_discovered_agent_is_shown(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on("POST /agents/discover", (201, agent()))

    assert run("discover", "https://a.example") == 0

    out, err = capsys.readouterr()
    assert ["id", "research-agent"] in [columns(line) for line in out.splitlines()]
    assert err == "registered research-agent\n"
    assert stub.sent("POST /agents/discover")["body"] == {"url": "https://a.example"}


@pytest.mark.parametrize(("status", "code"), [(400, 2), (409, 1), (502, 5)])
def test_a_url_at_which_there_is_no_agent_is_said(
    stub: Stub, status: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.on("POST /agents/discover", (status, {"error": "what is wrong with it"}))

    assert run("discover", "https://a.example") == code

    assert capsys.readouterr() == ("", "error: what is wrong with it\n")


# --- from one state to another --------------------------------------------------------------------


MOVES = [
    ("activate", "POST", "/activate", "active", "activated"),
    ("deactivate", "POST", "/deactivate", "deactivated", "deactivated"),
    ("archive", "DELETE", "", "archived", "archived"),
]


@pytest.mark.parametrize(("command", "method", "below", "status", "said"), MOVES)
def test_an_agent_is_moved(
    stub: Stub,
    command: str,
    method: str,
    below: str,
    status: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = {"agent_id": "a", "status": status}
    stub.on(f"{method} /agents/a{below}", (200, answer))

    assert run(command, "a") == 0
    assert capsys.readouterr() == ("", f"{said} a\n")
    assert run(command, "a", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out) == answer


@pytest.mark.parametrize(("command", "method", "below"), [move[:3] for move in MOVES])
def test_a_move_that_is_refused_is_said(
    stub: Stub, command: str, method: str, below: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.on(f"{method} /agents/a{below}", (409, {"error": "agent a is in another state"}))

    assert run(command, "a") == 1
    assert capsys.readouterr() == ("", "error: agent a is in another state\n")


def test_a_lost_answer_to_archiving_is_asked_for_again(stub: Stub) -> None:
    stub.on("DELETE /agents/a", (0, None), (200, {"agent_id": "a", "status": "archived"}))

    assert run("archive", "a") == 0

    assert len(stub.asked) == 2


# --- trace ----------------------------------------------------------------------------------------


CALL = {
    "timestamp": "2026-03-12T10:00:00.000Z",
    "direction": "in",
    "event_type": "agent_call_completed",
    "summary": "research answered after 12 ms",
    "execution_id": "exec_1",
    "node_id": None,
}


def test_calls_are_traced(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on("GET /agents/a/trace", (200, {"events": [CALL]}))

    assert run("trace", "a", "--limit", "5") == 0

    head, row = map(columns, capsys.readouterr().out.splitlines())
    assert head == ["TIMESTAMP", "DIRECTION", "EVENT_TYPE", "SUMMARY", "EXECUTION_ID", "NODE_ID"]
    assert row == [value or "-" for value in CALL.values()]
    assert stub.sent("GET /agents/a/trace")["query"] == {"limit": "5"}


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "route", "answer"),
    [
        (["list"], "GET /agents", listed(agent(), total=9)[1]),
        (["search", "--skills", "a"], "GET /agents/search", listed(agent(), total=9)[1]),
        (["inspect", "a"], "GET /agents/a", agent("a")),
        (["discover", "https://a.example"], "POST /agents/discover", agent("a")),
        (["trace", "a"], "GET /agents/a/trace", {"events": [CALL]}),
    ],
)
def test_json_is_the_answer_as_it_came_and_nothing_else(
    stub: Stub,
    arguments: list[str],
    route: str,
    answer: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stub.on(route, (200, answer))

    assert run(*arguments, "--output", "json") == 0

    out, err = capsys.readouterr()
    assert json.loads(out) == answer
    assert err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["search", "--skills", "a"],
        ["inspect", "a"],
        ["register", "card.json"],
        ["discover", "https://a.example"],
        ["activate", "a"],
        ["deactivate", "a"],
        ["archive", "a"],
        ["trace", "a"],
    ],
)
@pytest.mark.parametrize(("status", "code"), [(403, 4), (404, 3)])
def test_a_refusal_is_one_sentence_and_a_code(
    stub: Stub,
    arguments: list[str],
    status: int,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "card.json").write_text('{"id": "a"}')
    for method in ("GET", "POST", "DELETE"):
        for path in ("", "/search", "/discover", "/a", "/a/activate", "/a/deactivate", "/a/trace"):
            stub.on(f"{method} /agents{path}", (status, {"error": "it is refused"}))

    assert run(*arguments) == code

    assert capsys.readouterr() == ("", "error: it is refused\n")


@pytest.mark.parametrize("agent_id", ODD_IDS)
def test_an_odd_id_stays_one_part_of_the_path(stub: Stub, agent_id: str) -> None:
    for command in ("inspect", "activate", "deactivate", "archive", "trace"):
        assert run(command, agent_id) == 3

    paths = [asked["route"].split(" ")[1] for asked in stub.asked]
    quoted = quote(agent_id, safe="")
    below = ("", "/activate", "/deactivate", "", "/trace")
    assert paths == [f"/agents/{quoted}{part}" for part in below]


@pytest.mark.parametrize("agent_id", ["", ".", "..", "search", "discover"])
def test_what_would_be_another_path_is_no_agent(
    stub: Stub, agent_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("inspect", "activate", "deactivate", "archive", "trace"):
        assert run(command, agent_id) == 3
        said = f"error: there is no agent {agent_id!r}: see `jamjet agents list`\n"
        assert capsys.readouterr().err == said

    assert stub.asked == []


def test_every_command_explains_itself_in_one_sentence() -> None:
    for command in agents_module.app.registered_commands:
        assert command.callback is not None
        doc = command.callback.__doc__ or ""
        assert doc.endswith(".")
        assert "\n" not in doc
