"""The key that this installation seals its audit log with."""

import os
import secrets
from pathlib import Path

from actors.settings import Settings
from runtime.audit.seals import SigningKey
from runtime.errors import BadRequest
from runtime.store.url import SqliteUrl, parse_url

FILE_NAME = "audit.key"


def key_path(settings: Settings) -> Path | None:
    """Where the key is: the configured file, else one beside the SQLite file; None: nowhere."""
    if settings.audit_key is not None:
        return Path(settings.audit_key).expanduser()
    target = parse_url(settings.database_url)
    return target.path.parent / FILE_NAME if isinstance(target, SqliteUrl) else None


def signing_key(settings: Settings) -> SigningKey | None:
    """The installation's key. The one beside a SQLite file is made when it is first asked for.

    Raises:
        BadRequest: the file cannot be read, or is no key.
    """
    path = key_path(settings)
    if path is None:
        return None
    if settings.audit_key is None and not path.exists():
        create_key(path)
    return SigningKey.read(path)


def create_key(path: Path) -> None:
    """Write a new key, for its owner alone. A file that is there already stays, also if it comes meanwhile.

    Raises:
        BadRequest: the file cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(SigningKey.generate().pem())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(unfinished, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(unfinished)
    except OSError as error:
        raise BadRequest(f"audit key {str(path)!r} cannot be written: {error.strerror}") from error
