"""JamJet's ways of writing YAML: each file in ``dialects`` runs, and does what its first lines say.

``a_*`` is the dialect of JamJet's documentation, ``b_*`` that of its guides, ``c_*`` and ``d_*`` those of its
first samples. Kinds that cannot run are refused by their name.
"""

import json
from pathlib import Path

import pytest

from runtime.errors import InvalidWorkflow
from runtime.ir import RegistrationPolicy, compile_yaml
from tests.docs.harness import assert_holds, at, installation, run, shop
from tests.fixtures.api import Prepared

DIALECTS = {
    path.stem: path.read_text() for path in sorted(Path(__file__).with_name("dialects").glob("*.yaml"))
}
FUNCTIONS = {"flows.py": "def same(value):\n    return value\n"}
RUN = "# run: "

NOT_YET = {
    "tool": "{type: tool, tool_ref: get_ticket, input: {id: 1}}",
    "mcp_tool": "{type: tool, server: web, tool: search, arguments: {q: x}}",
    "eval": "{type: eval, scorers: [{type: latency, max_ms: 5}], on_fail: halt}",
    "agent": "{type: agent, agent_ref: researcher, input: {}}",
    "subgraph": "{type: subgraph, workflow: other}",
    "memory_retrieval": "{type: memory_retrieval, connector: docs, query: state.q}",
    "policy": "{type: policy, policy_ref: pii, on_violation: fail}",
    "finalizer": "{type: finalizer, tool_ref: send, run_on: always}",
    "coordinator": "{type: coordinator, task: route}",
    "agent_tool": "{type: agent_tool, agent: auto}",
    "agent_discovery": "{type: agent_discovery, skill: translate}",
    "java_fn": "{type: java_fn, class_name: com.ex.Weather, method: get}",
}
"""Kinds that are converted but cannot run. One that can run by now belongs in ``dialects``."""


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS)
async def test_it_runs(text: str, prepared: Prepared, tmp_path: Path) -> None:
    async with shop() as address, installation(tmp_path, prepared, FUNCTIONS) as api:
        answer = await api.post("/workflows", {"yaml": at(text, address)})
        assert answer.status_code == 201, answer.text
        assert "warnings" not in answer.json()
        runs = [json.loads(line.removeprefix(RUN)) for line in text.splitlines() if line.startswith(RUN)]
        assert runs
        for told in runs:
            assert_holds(told["expect"], await run(api, answer.json(), told, address))


@pytest.mark.parametrize("kind", NOT_YET)
def test_a_kind_that_cannot_run_is_refused(kind: str) -> None:
    with pytest.raises(InvalidWorkflow, match=f"node kind '{kind}' is not supported"):
        compile_yaml(
            f"workflow: {{id: w}}\nnodes:\n  n: {NOT_YET[kind]}\n", RegistrationPolicy((), frozenset())
        )
