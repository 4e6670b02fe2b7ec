"""Seals over audit chains, signed, so that a chain cannot be cut or written anew.

A seal of a tenant holds the heads of the chains that moved since the one before, and
the hash of that one. Pruning is a seal too: it says up to where each chain was
deleted, and from which seal on the seals are kept.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from runtime.errors import BadRequest


class Head(NamedTuple):
    """Where a chain stood: its last entry's position and hash."""

    chain: str
    position: int
    hash: str


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """One seal of a tenant; ``number`` counts from 1."""

    tenant_id: str
    number: int
    heads: tuple[Head, ...]
    pruned: tuple[Head, ...] = ()
    """The last deleted entry of every chain that was pruned and goes on; of a pruning seal only."""
    kept_from: int = 0
    """Seals before this number are deleted; 0: this is no pruning seal."""
    kept_after: str = ""
    """The hash of the last deleted seal."""
    created_at: int
    hash: str = ""
    key_id: str | None = None
    signature: str | None = None
    """Ed25519 over the hash's 32 bytes, as hex; None: no key was configured."""


def sealed(seal: Seal, previous: str, key: "SigningKey | None") -> Seal:
    """The seal with its hash, after a seal with the hash ``previous``, and its signature."""
    if key is not None:
        seal = msgspec.structs.replace(seal, key_id=key.id)
    digest = seal_hash(previous, seal)
    signature = None if key is None else key.sign(bytes.fromhex(digest))
    return msgspec.structs.replace(seal, hash=digest, signature=signature)


def seal_hash(previous: str, seal: Seal) -> str:
    """SHA-256 of the JSON array of all that a seal says, after the hash of the seal before it."""
    content = (
        previous, seal.tenant_id, seal.number, seal.heads, seal.pruned, seal.kept_from, seal.kept_after,
        seal.created_at, seal.key_id,
    )  # fmt: skip
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


_decode_heads = msgspec.json.Decoder(tuple[Head, ...]).decode


def encode_heads(heads: Sequence[Head]) -> str:
    return msgspec.json.encode(heads).decode()


def decode_heads(text: str) -> tuple[Head, ...]:
    """Heads from their stored text; what is none of ours becomes a head that no seal was made over."""
    try:
        return _decode_heads(text)
    except ValueError:
        return (Head("", 0, str(text)),)


# --- keys -----------------------------------------------------------------------------------------


class SigningKey:
    """An Ed25519 key that seals are signed with."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = VerifyingKey(key.public_key())

    @property
    def id(self) -> str:
        return self.public.id

    def sign(self, data: bytes) -> str:
        return self._key.sign(data).hex()

    def pem(self) -> bytes:
        """The private key as unencrypted PKCS #8."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @classmethod
    def generate(cls) -> "SigningKey":
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """The key in a PEM file.

        Raises:
            BadRequest: there is none that can be used.
        """
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadRequest(f"audit key {str(path)!r} cannot be read: {_reason(error)}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise BadRequest(f"audit key {str(path)!r} is no Ed25519 key")
        return cls(key)


class VerifyingKey:
    """The public half of a ``SigningKey``, for whoever checks seals."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.id = hashlib.sha256(raw).hexdigest()[:16]
        """Names the key in seals."""

    def pem(self) -> bytes:
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def has_signed(self, seal: Seal) -> bool:
        """Whether the signature over the seal's hash is this key's."""
        try:
            self._key.verify(bytes.fromhex(seal.signature or ""), bytes.fromhex(seal.hash))
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    @classmethod
    def read_all(cls, path: Path) -> "list[VerifyingKey]":
        """The keys in a file of PEM blocks, public or private.

        Raises:
            BadRequest: the file cannot be read, or holds something else.
        """
        try:
            blocks = _pem_blocks(path.read_text())
            return [cls(_public_key(block.encode())) for block in blocks]
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadRequest(f"audit keys {str(path)!r} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _pem_blocks(text: str) -> list[str]:
    blocks: list[str] = []
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("-----BEGIN"):
            lines = []
        lines.append(line)
        if line.startswith("-----END"):
            blocks.append("\n".join(lines) + "\n")
    if not blocks:
        raise ValueError("no PEM block in it")
    return blocks


def _public_key(pem: bytes) -> Ed25519PublicKey:
    if b"PRIVATE" in pem:
        private = serialization.load_pem_private_key(pem, None)
        if isinstance(private, Ed25519PrivateKey):
            return private.public_key()
    else:
        public = serialization.load_pem_public_key(pem)
        if isinstance(public, Ed25519PublicKey):
            return public
    raise ValueError("not an Ed25519 key")
