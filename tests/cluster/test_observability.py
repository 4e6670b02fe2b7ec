"""What the processes of a real installation count is on ``/metrics``."""

import http.client
import re
import time

import pytest

from tests.fixtures.server import Server

pytestmark = pytest.mark.timeout(180)


def text_of(server: Server) -> str:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {server.token}"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain"), text
    return text


def value(text: str, name: str, *labels: str) -> float:
    """The sum of the samples of this name whose labels have all of these texts in them."""
    samples = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for shown, value in samples if all(label in shown for label in labels))


def test_after_a_run_the_metrics_show_it(server: Server) -> None:
    before = text_of(server)
    ended = [server.execution(server.start_execution("three", {"n": n}), wait_s=30) for n in range(3)]
    assert {seen["status"] for seen in ended} == {"completed"}
    assert server.persist("POST", "/agents", {"id": "seen", "name": "Seen"})[0] == 201
    assert server.persist("POST", "/agents/seen/heartbeat")[0] == 200
    time.sleep(2.5)  # a look at the others is kept for so long

    def grown(name: str, *labels: str) -> float:
        return value(after, name, *labels) - value(before, name, *labels)

    after = text_of(server)
    actor = 'process="execution-actor:'
    assert grown("jamjet_executions_started_total") >= 3
    assert grown("jamjet_executions_ended_total", 'status="completed"', actor) >= 3
    assert grown("jamjet_node_attempts_total", 'kind="python_fn"', 'outcome="succeeded"', actor) >= 9
    assert grown("jamjet_function_calls_total", 'outcome="ok"', actor) >= 9
    assert grown("jamjet_commit_group_size_count", actor) > 0
    assert grown("jamjet_http_requests_total", 'route="/executions"', 'status="201"') >= 3
    assert value(after, "jamjet_supervisor_round_seconds_count", 'process="supervisor"') > 0
    assert value(after, "jamjet_agent_heartbeats_total", 'process="agent-registry"') >= 1
    assert value(after, "jamjet_agent_flush_seconds_count", 'process="agent-registry"') >= 1
    assert value(after, "jamjet_executors", 'state="active"') >= 1
    assert not re.search("exec_[0-9a-f]", after)
