"""The operator token of ``jamjet dev``: made once, kept beside the project, found by the other commands."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.exits import EXIT_USAGE, CliError

if TYPE_CHECKING:
    from runtime.store.port import Store

DEV_TOKEN_FILE = Path(".jamjet/dev-token")
_NAME = "jamjet dev"
_ROLE = "operator"


def read_dev_token(path: Path = DEV_TOKEN_FILE) -> str | None:
    """The token that ``jamjet dev`` left in this folder, or None."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text("ascii").strip() or None
    return None


async def ensure_dev_token(store: "Store", path: Path = DEV_TOKEN_FILE) -> str:
    """The kept token where it is good on this database; else a new one, written with mode 0600.

    Raises:
        CliError: the file cannot be written.
    """
    from api.cli.tokens import DEFAULT_TENANT, make_token

    kept = read_dev_token(path)
    if kept is not None and await _is_good(store, kept):
        return kept
    token, _ = await make_token(store, _ROLE, tenant=DEFAULT_TENANT, name=_NAME)
    try:
        write_private(path, token)
    except OSError as error:
        raise CliError(f"the token cannot be kept in {path}: {error.strerror}", EXIT_USAGE) from None
    return token


async def _is_good(store: "Store", token: str) -> bool:
    from api.cli.tokens import hash_token

    found = await store.system.credential(hash_token(token))
    if found is None:
        return False
    row = found.token
    return row.role == _ROLE and row.revoked_at is None and row.expires_at is None


def write_private(path: Path, text: str) -> None:
    """Replace the file at once, so that nobody reads half of it, or one that others may read.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
    draft.replace(path)
