"""Who this runtime is to others: its DID, and the key that goes with it."""

import base64
import ipaddress
from typing import Any
from urllib.parse import quote, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from runtime.agents.card import slug
from runtime.store.agent_port import AgentRow
from runtime.store.port import SystemStore

KEY_NAME = "did"
SERVICES_MAX = 1_000
"""Agents in the document: it is for everybody, and so bounded."""
CONTEXTS = ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/suites/jws-2020/v1"]


def did_of(url: str) -> str:
    """The did:web of a URL: the port's colon is written ``%3A``, and path segments are joined by colons.

    The method takes no addresses, so a loopback one becomes ``localhost``: good on this machine alone.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "localhost").lower()
    if _is_loopback(host):
        host = "localhost"
    place = host if parts.port is None else f"{host}%3A{parts.port}"
    segments = [quote(segment, safe="") for segment in parts.path.split("/") if segment]
    return ":".join(("did:web", place, *segments))


def runtime_id(url: str) -> str:
    """The id under which this runtime is an agent, unless whoever registers it chooses another."""
    parts = urlsplit(url)
    return slug(f"jamjet {parts.hostname or 'localhost'} {parts.port or ''} {parts.path}")


async def public_key(system: SystemStore) -> dict[str, str]:
    """The public half, as a JWK, of the key that is kept in the store; it is made where there is none."""
    fresh = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem = await system.installation_key(KEY_NAME, fresh.decode())
    key = load_pem_private_key(pem.encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}


def did_document(did: str, jwk: dict[str, str], agents: list[AgentRow], names: list[str]) -> dict[str, Any]:
    """The W3C DID document, with a service for each agent. ``names`` are those of the agents' cards."""
    method = f"{did}#key-1"
    return {
        "@context": CONTEXTS,
        "id": did,
        "verificationMethod": [
            {"id": method, "type": "JsonWebKey2020", "controller": did, "publicKeyJwk": jwk}
        ],
        "authentication": [method],
        "assertionMethod": [method],
        "service": [
            {
                "id": f"{did}#{quote(agent.agent_id, safe='')}",
                "type": "A2AService",
                "serviceEndpoint": agent.uri,
                "name": name,
            }
            for agent, name in zip(agents, names, strict=True)
            if agent.uri
        ],
    }


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
