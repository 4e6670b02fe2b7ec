"""Fetching an agent's card from its well-known place, past the guard of the way out."""

import asyncio
from dataclasses import replace
from typing import Any, NamedTuple

import httpx2

from runtime import jsonvalue
from runtime.agents.card import AgentCard, read_card
from runtime.errors import BadRequest, Overloaded, Unreachable
from runtime.net.egress import Answer, Egress, Resolve, parse_url
from runtime.net.errors import EgressError
from runtime.net.policy import EgressPolicy

WITHIN_S = 10.0
"""For all of one discovery."""
BYTES_MAX = 1024 * 1024
REDIRECTS_MAX = 3
AT_ONCE_MAX = 64
WELL_KNOWN = ("/.well-known/agent.json", "/.well-known/agent-card.json")
"""Where the contract and A2A 0.2 have the card, and where A2A has it since 0.3."""

_REDIRECTS = (301, 302, 303, 307, 308)
_OF_THE_ASKER = frozenset(("address_refused", "bad_url"))
_OF_THE_CARD = frozenset(("too_large",))


class FoundCard(NamedTuple):
    """A card as it was fetched: where it was looked for, its JSON, and what was understood of it."""

    found_at: str
    value: dict[str, Any]
    card: AgentCard


class CardFetcher:
    """Fetches cards, by the one way out or the other as a URL's scheme says."""

    def __init__(self, by_https: Egress, by_http: Egress) -> None:
        self._by_https = by_https
        self._by_http = by_http
        self._room = asyncio.Semaphore(AT_ONCE_MAX)

    @classmethod
    def of_strangers(cls, policy: EgressPolicy, *, resolve: Resolve | None = None) -> "CardFetcher":
        """Public hosts are asked by https alone; by http, only what the policy lists."""
        inside = replace(policy, public=False)
        return cls(Egress(policy, resolve=resolve), Egress(inside, resolve=resolve))

    async def fetch(self, url: str) -> FoundCard:
        """The card of the agent at a URL; one that ends in ``.json`` is the card's own.

        Raises:
            BadRequest: the URL or its address is refused, or what is there is no card.
            Unreachable: nothing answers there, or not with a document.
            Overloaded: as many are being fetched as may be.
        """
        if self._room.locked():
            raise Overloaded("too many agents are being discovered", retry_after_s=2)
        async with self._room:
            try:
                async with asyncio.timeout(WITHIN_S):
                    return await self._found(url)
            except TimeoutError as error:
                raise Unreachable(f"{_host(url)} did not answer within {WITHIN_S:g} s") from error
            except EgressError as error:
                if error.error_class in _OF_THE_ASKER:
                    raise BadRequest(f"url: {error}") from error
                if error.error_class in _OF_THE_CARD:
                    raise BadRequest(f"not an agent card: {error}") from error
                raise Unreachable(str(error)) from error

    async def close(self) -> None:
        await self._by_https.close()
        await self._by_http.close()

    async def _found(self, url: str) -> FoundCard:
        """The first document that is a card; what was wrong with the last one otherwise."""
        base = parse_url(url).copy_with(fragment=None)
        problem: BadRequest | Unreachable | None = None
        for place in _places(base):
            answer = await self._get(place)
            if answer.status != 200:
                problem = problem or Unreachable(f"{base.host} answered {answer.status} for {place.path}")
                continue
            try:
                value = jsonvalue.parse(answer.body, what="the answer")
                # Not its query: the place may be told to everybody.
                found_at = str(base.copy_with(query=None))
                return FoundCard(found_at, value, read_card(value, found_at=found_at))
            except BadRequest as error:
                problem = BadRequest(f"not an agent card: {error.detail}")
        assert problem is not None
        raise problem

    async def _get(self, url: httpx2.URL) -> Answer:
        """The answer behind all redirects, each of which is checked as the first URL was."""
        headers = {"Accept": "application/json", "User-Agent": "jamjet-ray"}
        for _ in range(REDIRECTS_MAX + 1):
            egress = self._by_https if url.scheme == "https" else self._by_http
            answer = await egress.request(
                "GET", str(url), headers=headers, timeout_s=None, bytes_max=BYTES_MAX
            )
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                return answer
            try:
                url = parse_url(str(url.join(answer.headers["location"])))
            except (httpx2.InvalidURL, ValueError) as error:
                raise Unreachable(f"{url.host} redirects to what is no url") from error
        raise Unreachable(f"{url.host} redirects more than {REDIRECTS_MAX} times")


def _places(base: httpx2.URL) -> list[httpx2.URL]:
    if base.path.endswith(".json"):
        return [base]
    path = base.path.rstrip("/")
    return [base.copy_with(path=path + place, query=None) for place in WELL_KNOWN]


def _host(url: str) -> str:
    return parse_url(url).host
