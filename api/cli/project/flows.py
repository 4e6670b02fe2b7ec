"""The Python steps of workflow.yaml."""

from typing import Any


def publish(title: str, text: str) -> dict[str, Any]:
    """Pretend to publish. What is returned goes into the state under the node's ``output_key``."""
    return {"title": title, "words": len(text.split())}
