"""Opening: what a database URL may say, and what is said of one that cannot be opened."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.errors import BadRequest, Unavailable
from runtime.store import open_store
from runtime.store.faulty import FaultyStore
from runtime.store.postgres import server_settings
from runtime.store.repository import SqlStore
from runtime.store.sqlite import SqliteDatabase
from runtime.store.url import PostgresUrl, SqliteUrl, parse_url, redacted


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("runtime.db", "runtime.db"),
        (".jamjet/runtime.db", ".jamjet/runtime.db"),
        ("/var/lib/runtime.db", "/var/lib/runtime.db"),
        ("sqlite:runtime.db", "runtime.db"),
        ("sqlite://runtime.db", "runtime.db"),
        ("sqlite://.jamjet/runtime.db", ".jamjet/runtime.db"),
        ("sqlite:///data/runtime.db", "data/runtime.db"),
        ("sqlite:////var/lib/runtime.db", "/var/lib/runtime.db"),
        ("sqlite+aiosqlite:///runtime.db", "runtime.db"),
        ("SQLite:///runtime.db?mode=rwc", "runtime.db"),
    ],
)
def test_a_path_is_read(url: str, path: str) -> None:
    assert parse_url(url) == SqliteUrl(Path(path))


def test_a_home_folder_is_expanded() -> None:
    assert parse_url("~/runtime.db") == SqliteUrl(Path.home() / "runtime.db")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg2"])
def test_a_postgresql_url_is_libpqs(scheme: str) -> None:
    url = parse_url(f"{scheme}://user:secret@host:5433/jobs?sslmode=require")

    assert url == PostgresUrl("postgresql://user:secret@host:5433/jobs?sslmode=require")


@pytest.mark.parametrize("url", ["mysql://host/db", "redis+tls://user:secret@host"])
def test_another_databases_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BadRequest, match="use a path, sqlite:// or postgresql://") as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "  ", "sqlite://", "sqlite:///", "sqlite://:memory:", ":memory:"])
def test_a_url_without_a_file_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="database url"):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:s3cret@host/db", "postgresql://user:***@host/db"),
        ("postgresql://host/db?user=u&password=s3cret&x=1", "postgresql://host/db?user=u&password=***&x=1"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("runtime.db", "runtime.db"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert redacted(url) == shown


async def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "runtime.db"

    store = await open_store(f"sqlite:///{path}")

    assert path.exists()
    await store.close()


async def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"'{tmp_path}' cannot be opened"):
        await open_store(str(tmp_path))


async def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)

    with pytest.raises(Unavailable, match="file is not a database"):
        await open_store(str(path))
    assert path.read_text() == "not a database " * 100


@pytest.fixture
def unprivileged_folder() -> Iterator[Path]:
    """A folder that this process, made unprivileged if need be, can be kept from writing."""
    folder = Path(tempfile.mkdtemp(prefix="jamjet-store-"))
    privileged = os.geteuid() == 0
    if privileged:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    folder.chmod(stat.S_IRWXU)
    if privileged:
        os.seteuid(0)
    for path in folder.iterdir():
        path.unlink()
    with suppress(OSError):
        folder.rmdir()


async def test_a_file_that_may_not_be_written_is_refused(unprivileged_folder: Path) -> None:
    path = unprivileged_folder / "runtime.db"
    await (await open_store(str(path))).close()
    os.chmod(path, stat.S_IRUSR)

    with pytest.raises(Unavailable, match="readonly"):
        await open_store(str(path))


async def test_a_folder_that_may_not_be_written_is_refused(unprivileged_folder: Path) -> None:
    os.chmod(unprivileged_folder, stat.S_IRUSR | stat.S_IXUSR)

    with pytest.raises(Unavailable, match="cannot be opened"):
        await open_store(str(unprivileged_folder / "runtime.db"))


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be re"):
        await open_store(f"postgresql://user@/db?host={tmp_path}")


@pytest.mark.parametrize(("setting", "kind"), [("", SqlStore), ("7", FaultyStore), ("7:0", FaultyStore)])
async def test_faults_are_asked_for_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, kind: type
) -> None:
    monkeypatch.setenv("JAMJET_STORE_FAULTS", setting)

    store = await open_store(str(tmp_path / "runtime.db"))

    assert isinstance(store, kind)
    await store.close()


@pytest.mark.parametrize("setting", ["x", "1:x", "1:2", "1:-1"])
async def test_faults_that_make_no_sense_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("JAMJET_STORE_FAULTS", setting)

    with pytest.raises(BadRequest, match="JAMJET_STORE_FAULTS is"):
        await open_store(str(tmp_path / "runtime.db"))
    assert os.listdir(tmp_path) == []


def test_importing_the_port_is_cheap() -> None:
    """Callers of the port must not pay for the databases' libraries."""
    code = (
        "import sys, runtime.store; print([n for n in ('sqlalchemy', 'psycopg', 'ray') if n in sys.modules])"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


async def test_a_file_that_another_process_is_creating_is_waited_for(tmp_path: Path) -> None:
    """SQLite itself refuses at once to change the journal mode beside a writer."""
    path = tmp_path / "runtime.db"
    creator = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    creator.execute("BEGIN IMMEDIATE")
    opening = asyncio.create_task(asyncio.to_thread(SqliteDatabase(path).writer))
    try:
        await asyncio.wait([opening], timeout=0.2)
        assert not opening.done()
    finally:
        creator.close()

    (await opening).close()


def test_postgresql_tells_what_it_is_set_to(postgres_url: str) -> None:
    found = server_settings(postgres_url)

    assert int(found["server_version_num"]) >= 140_000
    assert found["fsync"] == found["full_page_writes"] == "off"  # The fixture's.
    assert found["synchronous_commit"] == "on"


def test_postgresql_that_is_not_there_tells_nothing() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        server_settings("postgresql://127.0.0.1:9/x")
