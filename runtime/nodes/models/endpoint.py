"""Where a model's calls go and what they carry: the base URL, the key, and the way out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from runtime.graph import ModelNode
from runtime.net.egress import Egress, parse_url
from runtime.net.errors import EgressError
from runtime.net.secrets import CHARS_MIN, Secrets
from runtime.nodes.models.port import ModelError
from runtime.providers import VENDORS, Vendor

_OLLAMA_PORT = 11434
_REAL_KEY_CHARS_MIN = 16
"""Servers that want no key are given words such as ``none`` or ``ollama`` for one."""


@dataclass(frozen=True)
class Endpoint:
    """One provider's server, as one node may use it. ``base`` has no slash at its end."""

    provider: str
    base: str
    egress: Egress
    key: str | None = field(default=None, repr=False)

    def hidden(self, text: str, *, chars_min: int = CHARS_MIN) -> str:
        """A text without the key, should the server have repeated it. A shorter key is not looked for."""
        return text.replace(self.key, "***") if self.key and len(self.key) >= chars_min else text

    def hidden_in_answer(self, text: str) -> str:
        """The same of what a model said, where a word that only stands for a key may well occur."""
        return self.hidden(text, chars_min=_REAL_KEY_CHARS_MIN)


class Endpoints:
    """Finds the endpoint of a node.

    Args:
        env: the operator's variables, by name; see ``runtime.providers.VARIABLES``.
        guarded: for URLs that a workflow names.
        trusted: for those of the operator, which may be on a private network.
    """

    def __init__(self, env: Mapping[str, str], secrets: Secrets, *, guarded: Egress, trusted: Egress) -> None:
        self._env = env
        self._secrets = secrets
        self._guarded = guarded
        self._trusted = trusted

    def of(self, node: ModelNode) -> Endpoint:
        """Where this node's call goes.

        Raises:
            ModelError: a key is missing, or may not be sent there.
        """
        vendor = VENDORS[node.provider]
        if node.api_base is not None:
            base, egress = node.api_base.rstrip("/"), self._guarded
            key = self._secret(node, base) if node.api_key_env else None
        else:
            base, egress = self._base(vendor), self._trusted
            key = self._secret(node, base) if node.api_key_env else self._own_key(node.provider, vendor)
        return Endpoint(node.provider, base, egress, key)

    async def close(self) -> None:
        await self._guarded.close()
        await self._trusted.close()

    def _base(self, vendor: Vendor) -> str:
        told = self._env.get(vendor.base_env, "").strip() or vendor.base_url
        return (_ollama_base(told) if vendor.wire == "ollama" else told).rstrip("/")

    def _own_key(self, provider: str, vendor: Vendor) -> str | None:
        if not vendor.key_names:
            return None
        for name in vendor.key_names:
            if self._env.get(name, "").strip():
                return _usable(name, self._env[name])
        variable = " or ".join(vendor.key_names)
        raise ModelError(
            f"no key for the model provider {provider!r}: set {variable} where the server is started",
            "auth",
            retryable=False,
        )

    def _secret(self, node: ModelNode, base: str) -> str:
        name = node.api_key_env or ""
        try:
            value = self._secrets.value(name, parse_url(base).host)
        except EgressError as error:
            raise ModelError(str(error), error.error_class, retryable=False) from error
        if not value:
            raise ModelError(
                f"the secret {name} has no value: set {name} where the server is started",
                "auth",
                retryable=False,
            )
        return _usable(name, value)


def _usable(name: str, value: str) -> str:
    """A key as a header may carry it. What is wrong with it is told without it."""
    key = value.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ModelError(f"{name} has characters that no key has", "auth", retryable=False)
    return key


def _ollama_base(told: str) -> str:
    """``OLLAMA_HOST`` as Ollama reads it: scheme and port may be left out; 0.0.0.0 is here."""
    if "://" in told:
        return told
    found = urlsplit(f"http://{told}")
    host = "127.0.0.1" if found.hostname in (None, "0.0.0.0") else found.hostname
    return f"http://{f'[{host}]' if ':' in str(host) else host}:{found.port or _OLLAMA_PORT}{found.path}"
