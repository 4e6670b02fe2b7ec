"""The client commands against a stub server: what they send, print, and exit with."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cli import client as client_module
from api.cli import main as cli
from tests.fixtures.rest_stub import Answer, Stub, event, running_stub

EXECUTION = "exec_00000000000000000000000000000001"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    with running_stub() as stub:
        monkeypatch.setenv("JAMJET_URL", stub.url)
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.delenv("JAMJET_TOKEN", raising=False)
        monkeypatch.setattr(client_module, "_RETRY_DELAYS_S", (0.0, 0.0))
        monkeypatch.chdir(tmp_path)
        yield stub


def completed(stub: Stub, *events: dict[str, Any], status: str = "completed") -> None:
    """An execution that is started, goes through ``events``, and has ended."""
    stub.on("POST /executions", (201, {"execution_id": EXECUTION}))
    stub.on(f"GET /executions/{EXECUTION}/events", (200, {"events": list(events)}))
    state = {"execution_id": EXECUTION, "status": status, "state": {"answer": 42}, "error": None}
    stub.on(f"GET /executions/{EXECUTION}", (200, state))


class TestRun:
    def test_an_id_is_started_and_followed_to_its_final_state(
        self, stub: Stub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        completed(stub, event(1, "WorkflowStarted"), event(2, "WorkflowCompleted"))

        assert (
            cli.main(["run", "greet", "--input", '{"name": "Ada"}', "--isolation", "dedicated", "--queue"])
            == 0
        )

        out, err = capsys.readouterr()
        assert json.loads(out) == {"answer": 42}
        assert "WorkflowStarted" in err
        assert f"{EXECUTION} completed" in err
        sent = stub.sent("POST /executions")
        assert sent["body"] == {
            "workflow_id": "greet",
            "input": {"name": "Ada"},
            "isolation": "dedicated",
            "queue": True,
        }
        assert len(sent["headers"]["idempotency-key"]) == 32

    def test_a_yaml_file_is_registered_first(self, stub: Stub, tmp_path: Path) -> None:
        completed(stub, event(1, "WorkflowCompleted"))
        stub.on("POST /workflows", (201, {"workflow_id": "greet", "version": "2.0.0"}))
        (tmp_path / "greet.yaml").write_text("workflow: {id: greet}\n")

        assert cli.main(["run", "greet.yaml"]) == 0

        assert stub.sent("POST /workflows")["body"] == {"yaml": "workflow: {id: greet}\n"}
        assert stub.sent("POST /executions")["body"] == {
            "workflow_id": "greet",
            "workflow_version": "2.0.0",
            "input": {},
        }

    @pytest.mark.parametrize("text", ['{"ir": {"workflow_id": "w"}}', '{"workflow_id": "w"}'])
    def test_a_json_file_is_posted_as_ir(self, stub: Stub, tmp_path: Path, text: str) -> None:
        completed(stub, event(1, "WorkflowCompleted"))
        stub.on("POST /workflows", (201, {"workflow_id": "w", "version": "1"}))
        (tmp_path / "w.json").write_text(text)

        assert cli.main(["run", "w.json"]) == 0

        assert stub.sent("POST /workflows")["body"] == {"ir": {"workflow_id": "w"}}

    def test_a_failed_run_exits_with_1_and_still_prints_its_state(
        self, stub: Stub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        completed(stub, event(1, "WorkflowFailed", error="boom"), status="failed")

        assert cli.main(["run", "greet", "--output", "json"]) == 1

        out, err = capsys.readouterr()
        assert json.loads(out)["status"] == "failed"
        assert f"{EXECUTION} failed; see: jamjet inspect {EXECUTION}" in err

    def test_each_poll_asks_for_what_comes_after_the_last_event(self, stub: Stub) -> None:
        completed(stub)
        stub.on(
            f"GET /executions/{EXECUTION}/events",
            (200, {"events": [event(1, "WorkflowStarted"), event(2, "NodeStarted")]}),
            (200, {"events": [event(3, "WorkflowCompleted")]}),
        )

        assert cli.main(["run", "greet"]) == 0

        polls = [asked["query"] for asked in stub.asked if asked["route"].endswith("/events")]
        assert [poll["after"] for poll in polls] == ["0", "2"]
        assert polls[0]["wait"] == "20"

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (
                {"reason": "approval", "node_id": "review"},
                f"jamjet approve {EXECUTION} --node review --decision approved",
            ),
            (
                {"reason": "external_event", "correlation_key": "paid"},
                f"jamjet resume {EXECUTION} --event paid --data '{{}}'",
            ),
        ],
    )
    def test_a_wait_is_shown_with_the_command_that_ends_it(
        self, stub: Stub, capsys: pytest.CaptureFixture[str], more: dict[str, Any], said: str
    ) -> None:
        completed(stub, event(1, "InterruptRaised", **more), event(2, "WorkflowCompleted"))

        assert cli.main(["run", "greet"]) == 0

        assert said in capsys.readouterr().err

    def test_a_call_that_needs_an_approval_is_shown_with_the_command_that_decides_it(
        self, stub: Stub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = event(1, "ToolApprovalRequired", node_id="pay", data={"rule": "tool 'http' matches 'http'"})
        completed(stub, asked, event(2, "WorkflowCompleted"))

        assert cli.main(["run", "greet"]) == 0

        err = capsys.readouterr().err
        assert "tool 'http' matches 'http'" in err
        assert f"jamjet approve {EXECUTION} --node pay --decision approved" in err

    def test_no_wait_prints_the_id_alone(self, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
        completed(stub)

        assert cli.main(["run", "greet", "--no-wait"]) == 0

        assert capsys.readouterr().out == f"{EXECUTION}\n"
        assert [asked["route"] for asked in stub.asked] == ["POST /executions"]

    def test_a_timeout_exits_with_124_and_says_how_to_follow_again(
        self, stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        completed(stub, event(1, "WorkflowStarted"))

        assert cli.main(["run", "greet", "--timeout", "0"]) == 124

        assert f"jamjet events {EXECUTION} --follow" in capsys.readouterr().err

    def test_ctrl_c_detaches_with_130(
        self, stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        completed(stub, event(1, "WorkflowStarted"))
        monkeypatch.setattr("api.cli.executions.show", interrupted)

        assert cli.main(["run", "greet"]) == 130

        err = capsys.readouterr().err
        assert f"detached from {EXECUTION}" in err
        assert f"jamjet events {EXECUTION} --follow" in err

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["run", "greet", "--input", "{"], "--input is not JSON"),
            (["run", "greet", "--input", "[1]"], "--input must be a JSON object"),
            (["run", "greet", "--input-file", "absent.json"], "absent.json cannot be read"),
            (["run", "greet", "--input", "{}", "--input-file", "x"], "not both"),
            (["run", "absent.yaml"], "there is no file 'absent.yaml'"),
            (["run", "greet.yaml", "--version", "1"], "--version goes with a registered id"),
        ],
    )
    def test_what_is_wrong_with_the_command_line_exits_with_2(
        self, stub: Stub, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        assert cli.main(arguments) == 2

        assert said in capsys.readouterr().err
        assert stub.asked == []


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


class TestReading:
    def test_inspect_as_json_is_the_execution_with_its_events(
        self, stub: Stub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        completed(stub, event(1, "WorkflowStarted"))

        assert cli.main(["inspect", EXECUTION, "-o", "json"]) == 0

        shown = json.loads(capsys.readouterr().out)
        assert shown["state"] == {"answer": 42}
        assert [found["sequence"] for found in shown["events"]] == [1]

    def test_inspect_as_text_shows_facts_state_and_events(
        self, stub: Stub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        completed(stub, event(1, "NodeFailed", node_id="fetch", error="no route"))

        assert cli.main(["inspect", EXECUTION]) == 0

        out = capsys.readouterr().out
        assert '"answer": 42' in out
        assert "NodeFailed" in out
        assert "error=no route" in out

    def test_events_follow_exits_as_the_run_ended(self, stub: Stub) -> None:
        completed(stub, event(7, "WorkflowCancelled"), status="cancelled")

        assert cli.main(["events", EXECUTION, "--follow", "--after", "6"]) == 1

        assert stub.asked[0]["query"]["after"] == "6"

    def test_what_a_terminal_would_obey_is_quoted(
        self, stub: Stub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        completed(stub, event(1, "NodeFailed", error="\x1b[2Jgone"))

        assert cli.main(["events", EXECUTION]) == 0

        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert '"\\u001b[2Jgone"' in out

    def test_ls_is_a_plain_table_where_no_terminal_reads_it(
        self, stub: Stub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        row = {"execution_id": "exec_1", "workflow_id": "greet", "status": "paused", "created_at": "then"}
        stub.on("GET /executions", (200, {"executions": [row], "total": 3}))

        assert cli.main(["ls", "--status", "paused", "--limit", "1"]) == 0

        out, err = capsys.readouterr()
        assert [line.split() for line in out.splitlines()] == [
            ["EXECUTION_ID", "WORKFLOW_ID", "STATUS", "CREATED_AT", "COMPLETED_AT"],
            ["exec_1", "greet", "paused", "then", "-"],
        ]
        assert "2 more" in err
        assert stub.sent("GET /executions")["query"] == {"status": "paused", "limit": "1", "offset": "0"}

    @pytest.mark.parametrize(
        ("arguments", "route", "answer"),
        [
            (["ls"], "GET /executions", {"executions": []}),
            (["workflows"], "GET /workflows", {"workflows": []}),
            (["workers"], "GET /workers", {"workers": []}),
        ],
    )
    def test_lists_as_json_are_the_answer_itself(
        self,
        stub: Stub,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        route: str,
        answer: dict[str, Any],
    ) -> None:
        stub.on(route, (200, answer))

        assert cli.main([*arguments, "--output", "json"]) == 0

        assert json.loads(capsys.readouterr().out) == answer


class TestSignals:
    def test_approve_sends_what_was_given_and_nothing_else(self, stub: Stub) -> None:
        stub.on(f"POST /executions/{EXECUTION}/approve", (200, {"execution_id": EXECUTION, "accepted": True}))

        arguments = ["approve", EXECUTION, "--decision", "rejected", "--comment", "no", "--patch", '{"a": 1}']
        assert cli.main(arguments) == 0

        sent = stub.sent(f"POST /executions/{EXECUTION}/approve")
        assert sent["body"] == {"decision": "rejected", "comment": "no", "state_patch": {"a": 1}}
        assert sent["headers"]["idempotency-key"]

    def test_resume_sends_the_event(self, stub: Stub) -> None:
        route = f"POST /executions/{EXECUTION}/external-event"
        stub.on(route, (200, {"execution_id": EXECUTION, "accepted": True}))

        assert cli.main(["resume", EXECUTION, "--event", "paid", "--data", '{"amount": 5}']) == 0

        assert stub.sent(route)["body"] == {"correlation_key": "paid", "payload": {"amount": 5}}

    def test_cancel_prints_the_answer(self, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
        answer = {"execution_id": EXECUTION, "status": "cancelled"}
        stub.on(f"POST /executions/{EXECUTION}/cancel", (200, answer))

        assert cli.main(["cancel", EXECUTION, "--output", "json"]) == 0

        assert json.loads(capsys.readouterr().out) == answer

    def test_an_unknown_decision_is_refused_before_anything_is_sent(self, stub: Stub) -> None:
        assert cli.main(["approve", EXECUTION, "--decision", "perhaps"]) == 2

        assert stub.asked == []


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "exit_code"),
        [(400, 2), (401, 4), (403, 4), (404, 3), (409, 1), (413, 2), (422, 2), (429, 5), (500, 5), (503, 5)],
    )
    def test_each_status_has_its_exit_code(
        self, stub: Stub, capsys: pytest.CaptureFixture[str], status: int, exit_code: int
    ) -> None:
        stub.on(f"POST /executions/{EXECUTION}/cancel", (status, {"error": "some class: some detail"}))

        assert cli.main(["cancel", EXECUTION]) == exit_code

        assert "error: some class: some detail" in capsys.readouterr().err

    def test_a_401_says_how_to_get_a_token(self, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
        stub.on("GET /executions", (401, {"error": "invalid or expired token"}))

        assert cli.main(["ls"]) == 4

        assert "jamjet token create" in capsys.readouterr().err

    @pytest.mark.parametrize("first", [(503, {"error": "unavailable"}), (0, None)])
    def test_a_post_is_repeated_with_the_same_key(self, stub: Stub, first: Answer) -> None:
        stub.on(f"POST /executions/{EXECUTION}/cancel", first, (200, {"execution_id": EXECUTION}))

        assert cli.main(["cancel", EXECUTION]) == 0

        keys = [asked["headers"]["idempotency-key"] for asked in stub.asked]
        assert len(keys) == 2
        assert len(set(keys)) == 1

    def test_two_posts_have_two_keys(self, stub: Stub) -> None:
        stub.on(f"POST /executions/{EXECUTION}/cancel", (200, {"execution_id": EXECUTION}))

        assert cli.main(["cancel", EXECUTION]) == 0
        assert cli.main(["cancel", EXECUTION]) == 0

        assert len({asked["headers"]["idempotency-key"] for asked in stub.asked}) == 2

    def test_no_server_is_said_in_one_sentence(self, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["ls", "--url", "http://127.0.0.1:9"]) == 5

        assert capsys.readouterr().err == (
            "error: no server answers at http://127.0.0.1:9: start one with `jamjet dev`, or set JAMJET_URL\n"
        )

    def test_an_answer_that_is_no_json_object_is_no_server_of_ours(self, stub: Stub) -> None:
        stub.on("GET /executions", (200, b"<html>"))

        assert cli.main(["ls"]) == 5

    @pytest.mark.parametrize("url", ["ftp://x", "localhost:7700", "http://"])
    def test_a_url_that_is_none_exits_with_2(self, stub: Stub, url: str) -> None:
        assert cli.main(["ls", "--url", url]) == 2

    @pytest.mark.parametrize(
        "arguments", [["bogus"], ["run"], ["ls", "--output", "xml"], ["ls", "--limit", "0"]]
    )
    def test_usage_errors_exit_with_2(self, stub: Stub, arguments: list[str]) -> None:
        assert cli.main(arguments) == 2


TENANT = {
    "id": "acme",
    "name": "Acme Corp",
    "status": "active",
    "policy": {},
    "limits": {"max_workflows": 3},
    "created_at": "2026-03-12T10:00:00.000Z",
    "updated_at": "2026-03-12T10:00:00.000Z",
}


class TestTenants:
    def test_they_are_listed_and_shown(self, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
        stub.on("GET /tenants", (200, {"tenants": [TENANT], "total": 1, "limit": 50, "offset": 0}))
        stub.on("GET /tenants/acme", (200, TENANT))

        assert cli.main(["tenants", "list", "--limit", "7"]) == 0
        assert cli.main(["tenants", "show", "acme"]) == 0
        head, *rows = capsys.readouterr().out.splitlines()
        assert head.split()[:3] == ["ID", "NAME", "STATUS"]
        assert all("Acme Corp" in row for row in (rows[0], rows[-1]))
        assert stub.asked[0]["query"] == {"limit": "7", "offset": "0"}
        assert cli.main(["tenants", "show", "acme", "-o", "json"]) == 0
        assert json.loads(capsys.readouterr().out) == TENANT

    @pytest.mark.parametrize(
        ("options", "more"),
        [
            ([], {"name": "acme"}),
            (["--name", "Acme Corp"], {"name": "Acme Corp"}),
            (["--limits", '{"max_workflows": 3}'], {"name": "acme", "limits": {"max_workflows": 3}}),
            (["--policy", '{"blocked_tools": ["x"]}'], {"name": "acme", "policy": {"blocked_tools": ["x"]}}),
        ],
    )
    def test_one_is_made(self, stub: Stub, options: list[str], more: dict[str, Any]) -> None:
        stub.on("POST /tenants", (201, {"tenant_id": "acme"}))

        assert cli.main(["tenants", "create", "acme", *options]) == 0

        assert stub.sent("POST /tenants")["body"] == {"id": "acme", **more}

    @pytest.mark.parametrize(
        ("options", "body"),
        [
            (["--name", "Other"], {"name": "Other"}),
            (["--status", "suspended"], {"status": "suspended"}),
            (["--limits", "{}"], {"limits": {}}),
            (["--policy", "{}"], {"policy": {}}),
        ],
    )
    def test_one_is_changed_by_what_is_given(
        self, stub: Stub, options: list[str], body: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        stub.on("PUT /tenants/acme", (200, {"tenant_id": "acme", "updated": True}))

        assert cli.main(["tenants", "update", "acme", *options]) == 0

        assert stub.sent("PUT /tenants/acme")["body"] == body
        assert capsys.readouterr() == ("", "changed tenant acme\n")

    @pytest.mark.parametrize("options", [[], ["--status", "closed"], ["--limits", "[]"], ["--policy", "{"]])
    def test_a_change_of_nothing_or_to_nonsense_exits_with_2(self, stub: Stub, options: list[str]) -> None:
        assert cli.main(["tenants", "update", "acme", *options]) == 2

        assert stub.asked == []

    def test_a_limit_that_is_reached_is_not_to_be_tried_again(
        self, stub: Stub, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        said = "limit reached: tenant 'acme' has reached max_workflows, which is 1"
        stub.on("POST /workflows", (429, {"error": said}))
        (tmp_path / "greet.yaml").write_text("workflow: {id: greet}\n")

        assert cli.main(["run", "greet.yaml"]) == 5

        assert capsys.readouterr().err == f"error: {said}\n"


class TestAudit:
    def test_entries_are_listed_by_what_is_given(
        self, stub: Stub, capsys: pytest.CaptureFixture[str]
    ) -> None:
        item = {
            "id": "audit_ab_1", "execution_id": EXECUTION, "event_type": "node_completed",
            "actor_id": "agent:greet", "created_at": "2026-03-12T10:00:00.000Z", "node_id": "one",
            "ip_address": None,
        }  # fmt: skip
        stub.on("GET /audit", (200, {"items": [item], "total": 1, "limit": 7, "offset": 0}))

        assert (
            cli.main(["audit", "list", "--execution", EXECUTION, "--type", "node_completed", "--limit", "7"])
            == 0
        )

        out = capsys.readouterr().out
        assert "agent:greet" in out
        assert stub.asked[0]["query"] == {
            "execution_id": EXECUTION, "event_type": "node_completed", "limit": "7", "offset": "0"
        }  # fmt: skip


class TestToken:
    def test_it_comes_from_the_environment(self, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JAMJET_TOKEN", "jj_mine")
        stub.on("GET /executions", (200, {"executions": []}))

        assert cli.main(["ls"]) == 0

        assert stub.asked[0]["headers"]["authorization"] == "Bearer jj_mine"

    def test_no_token_sends_no_header(self, stub: Stub) -> None:
        stub.on("GET /executions", (200, {"executions": []}))

        assert cli.main(["ls"]) == 0

        assert "authorization" not in stub.asked[0]["headers"]

    def test_the_token_of_dev_in_this_folder_is_taken(self, stub: Stub, tmp_path: Path) -> None:
        stub.on("GET /executions", (200, {"executions": []}))
        (tmp_path / ".jamjet").mkdir()
        (tmp_path / ".jamjet" / "dev-token").write_text("jj_dev\n")

        assert cli.main(["ls"]) == 0

        assert stub.asked[0]["headers"]["authorization"] == "Bearer jj_dev"

    @pytest.mark.parametrize(("url", "sent"), [("http://localhost:1", True), ("http://example.test", False)])
    def test_the_token_of_dev_is_sent_to_this_machine_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, sent: bool
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / ".jamjet").mkdir()
        (tmp_path / ".jamjet" / "dev-token").write_text("jj_dev\n")

        with client_module.ApiClient(url, None) as client:
            assert ("authorization" in client._http.headers) is sent
