"""Which addresses workflows may reach: those of the public internet, and what the operator lists."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from runtime.errors import BadRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ALLOCATED = ipaddress.IPv6Network("2000::/3")
"""All that the internet has of IPv6 so far. What is elsewhere is special, or will be."""
_NEVER_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        # Shared space of carriers, link-local (cloud metadata), benchmarking, old tunnels, and documentation.
        *("100.64.0.0/10", "169.254.0.0/16", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15"),
        *("2001:db8::/32", "3fff::/20"),
    )
)


@dataclass(frozen=True)
class EgressPolicy:
    """Public addresses may always be reached; these others too.

    Attributes:
        networks: inside ranges.
        hosts: names (with ``*`` as in file names), wherever they resolve to.
        public: False: only these others.
    """

    networks: tuple[Network, ...] = ()
    hosts: tuple[str, ...] = ()
    public: bool = True

    @classmethod
    def parse(cls, entries: Iterable[str]) -> "EgressPolicy":
        """Read ``10.0.0.0/8``, ``127.0.0.1`` and ``*.internal.example``.

        Raises:
            BadRequest: an entry is none of them.
        """
        networks: list[Network] = []
        hosts: list[str] = []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                if "/" in entry or ":" in entry or not entry.strip("*."):
                    raise BadRequest(
                        f"{entry!r} is neither a network, an address nor the name of a host"
                    ) from None
                hosts.append(entry.lower())
        return cls(tuple(networks), tuple(hosts))

    def allows(self, host: str, address: str) -> bool:
        """Whether ``host``, which resolved to ``address``, may be connected to there."""
        return self.refusal(host, address) is None

    def refusal(self, host: str, address: str) -> str | None:
        """What is wrong with the address of a host; None: it may be connected to there."""
        if any(fnmatchcase(host.lower(), pattern) for pattern in self.hosts):
            return None
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return _INSIDE
        refusals = (self._refusal(part) for part in _meanings(found))
        return next((refusal for refusal in refusals if refusal is not None), None)

    def _refusal(self, address: Address) -> str | None:
        if any(address in network for network in self.networks):
            return None
        if not is_public(address):
            return _INSIDE
        return None if self.public else _PUBLIC


_INSIDE = "not a public address: it may not be reached"
_PUBLIC = "a public address: it is to be asked by https"


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _ALLOCATED:
        return False
    special = address.is_multicast or address.is_unspecified or any(address in net for net in _NEVER_PUBLIC)
    return address.is_global and not special


def _meanings(address: Address) -> list[Address]:
    """An address, or the IPv4 addresses to which a translator or tunnel would take it."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return list(address.teredo)
    if int(address) >> 32 == 0 and int(address) > 1:
        return [ipaddress.IPv4Address(int(address))]
    return [address]
