"""A tool for each workflow that its tenant has opened to MCP."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from api.mcp.tools import STARTS, WAIT_S, Tool, start

LIST = "/workflows?exposed=mcp&limit=500"
"""The route that tells which ones there are: the newest version of each."""
NAME_CHARS_MAX = 64
"""What clients and models' vendors take."""
PREFIX = "run_"
_HASH_CHARS = 8
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


def workflow_tools(listed: Any) -> dict[str, Tool]:
    """The tools by name, from the answer of ``LIST``."""
    items: dict[str, dict[str, Any]] = {}
    for item in listed["workflows"]:
        if "mcp" in (item.get("exposed") or ()):
            items.setdefault(item["workflow_id"], item)
    return {name: _tool(name, items[workflow_id]) for workflow_id, name in tool_names(items).items()}


def tool_names(workflow_ids: Iterable[str]) -> dict[str, str]:
    """The name of each workflow's tool: the same on every replica, and no two alike."""
    names = {workflow_id: _name(workflow_id) for workflow_id in workflow_ids}
    often = Counter(names.values())
    # Of two alike, one is an id that needed a hash, and the other happens to read so as it is.
    return {
        workflow_id: _hashed(workflow_id) if often[name] > 1 and name == PREFIX + workflow_id else name
        for workflow_id, name in names.items()
    }


def _name(workflow_id: str) -> str:
    name = PREFIX + workflow_id
    return name if len(name) <= NAME_CHARS_MAX and not _UNFIT.search(workflow_id) else _hashed(workflow_id)


def _hashed(workflow_id: str) -> str:
    """A name that is told from others by its end, as the rest may not be the id's own."""
    digest = hashlib.sha256(workflow_id.encode()).hexdigest()[:_HASH_CHARS]
    fit = PREFIX + _UNFIT.sub("_", workflow_id)
    return f"{fit[: NAME_CHARS_MAX - _HASH_CHARS - 1]}_{digest}"


def _tool(name: str, item: dict[str, Any]) -> Tool:
    workflow_id, version = item["workflow_id"], item["version"]
    return Tool(
        name,
        workflow_id,
        item.get("description") or f"Runs the workflow {workflow_id}.",
        input_schema(item.get("input_schema")),
        STARTS,
        # The listed version, and not a newer one that is not opened. The input is not held against its
        # schema here: it is the tenant's, and a costly pattern in it would stop everybody's replica.
        lambda given: start(workflow_id, version, given, WAIT_S),
        workflow_id,
    )


def input_schema(given: Any) -> dict[str, Any]:
    """The workflow's own, if it is about an object, as the arguments of a tool are."""
    if not isinstance(given, dict) or given.get("type", "object") != "object":
        return {"type": "object"}
    return {**given, "type": "object"}
