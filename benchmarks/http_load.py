"""A small closed-loop HTTP/1.1 client: N connections, each sends its next request when it has its answer.

It parses only what it must (status line, Content-Length), so that it takes as little as
possible of the cores that it shares with the server.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """What a run saw. Latencies in ms."""

    seconds: float
    latencies_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.latencies_ms) / self.seconds

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Connection:
    """One keep-alive connection."""

    def __init__(self, host: str, port: int, token: str | None) -> None:
        self._host, self._port = host, port
        self._auth = f"Authorization: Bearer {token}\r\n" if token else ""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send one request; returns (status, decoded JSON body)."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader is not None
        data = b"" if body is None else json.dumps(body).encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{self._auth}{extra}"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        self._writer.write(head.encode() + data)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status = int(answer[9:12])
        length = 0
        for line in answer.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        text = await self._reader.readexactly(length)
        return status, json.loads(text) if text else None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


async def run(
    host: str,
    port: int,
    token: str | None,
    *,
    clients: int,
    seconds: float,
    request: Callable[[int], tuple[str, str, Any, dict[str, str]]],
    accept: Callable[[int, Any], bool],
    warmup_s: float = 2.0,
) -> Report:
    """Drive ``clients`` connections for ``seconds`` after a warm-up; ``request(n)`` makes the n-th."""
    report = Report(seconds)
    count = 0
    began = time.perf_counter()

    async def client() -> None:
        nonlocal count
        connection = Connection(host, port, token)
        try:
            while (elapsed := time.perf_counter() - began) < warmup_s + seconds:
                count += 1
                method, path, body, headers = request(count)
                sent = time.perf_counter()
                status, answer = await connection.request(method, path, body, headers)
                if elapsed < warmup_s:
                    continue
                if accept(status, answer):
                    report.latencies_ms.append((time.perf_counter() - sent) * 1_000)
                else:
                    report.failures.append(f"{status} {str(answer)[:200]}")
        except (OSError, asyncio.IncompleteReadError) as error:
            report.failures.append(repr(error))
        finally:
            connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return report
