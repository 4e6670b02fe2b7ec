"""The Python steps of the example workflows.

A function is called with the whole state, or with keyword arguments where its node
has an ``input``. What it raises is retried by the node's retry policy.
"""

import asyncio
from pathlib import Path
from typing import Any


def publish(title: str, text: str) -> dict[str, Any]:
    """Pretend to publish an approved draft."""
    return {"title": title, "words": len(text.split())}


async def look_up(source: str, topic: str) -> dict[str, Any]:
    """One branch of the fan-out: look a topic up in one source, without blocking the others."""
    await asyncio.sleep(0)
    return {"source": source, "finding": f"{source} on {topic}"}


async def look_up_slowly(source: str, topic: str, seconds: float) -> dict[str, Any]:
    """The same from a source that takes its time."""
    await asyncio.sleep(seconds)
    return await look_up(source, topic)


def summarise(findings: list[dict[str, Any]]) -> str:
    """One line from what the branches found."""
    return "; ".join(finding["finding"] for finding in findings if finding)


def fetch_invoice(folder: str, invoice: str, failures: int = 2) -> dict[str, Any]:
    """Read an invoice from a service that is down for the first ``failures`` calls.

    The calls are counted in a file below ``folder``, so that it does not matter
    which process makes them.
    """
    calls = Path(folder) / f"{invoice}.calls"
    count = int(calls.read_text()) + 1 if calls.exists() else 1
    calls.write_text(str(count))
    if count <= failures:
        raise ConnectionResetError(f"call {count} for invoice {invoice} was cut off")
    return {"invoice": invoice, "amount": 120, "calls": count}


def book(state: dict[str, Any]) -> dict[str, Any]:
    """Book an invoice; one that is too large is refused, with an error class of its own."""
    amount = state["invoice_data"]["amount"]
    limit = state.get("limit", 100)
    if amount > limit:
        raise AmountRefused(f"{amount} is over the limit of {limit}")
    return {"booked": amount}


def set_aside(state: dict[str, Any]) -> dict[str, Any]:
    """What becomes of an invoice that could not be booked."""
    return {"booked": 0, "set_aside": state["invoice_data"]["invoice"]}


class AmountRefused(Exception):
    """An amount over the limit: trying again would not help."""

    error_class = "amount_refused"


def judge(draft: str, round: int = 0) -> dict[str, Any]:
    """Score a draft: each round makes it better."""
    return {"score": min(1.0, 0.4 + 0.2 * round), "remark": f"round {round}: {len(draft)} characters"}


def count_round(state: dict[str, Any]) -> dict[str, Any]:
    """Begin a round of the loop."""
    return {"round": state.get("round", 0) + 1}
