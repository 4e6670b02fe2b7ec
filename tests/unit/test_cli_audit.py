"""``jamjet audit``: verifies and exports the database's log, and says what it trusts."""

import asyncio
import json
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from actors.audit_key import create_key, key_path, signing_key
from actors.settings import Settings
from api.cli import main as cli
from runtime.audit.seals import SigningKey, VerifyingKey
from runtime.errors import BadRequest
from runtime.store import open_store


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "runtime.db"
    monkeypatch.setenv("DATABASE_URL", str(path))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def sealed(database: Path) -> Path:
    """A database with two tenants' logs, sealed with the installation's key."""

    async def make() -> None:
        store = await open_store(str(database))
        await store.system.create_tenant("acme", "Acme")
        await store.system.update_tenant("default", name="Main")
        await store.system.seal_audit(signing_key(Settings(database_url=str(database))))
        await store.close()

    asyncio.run(make())
    return database


def run(*arguments: str) -> int:
    return cli.main(["audit", *arguments])


def tampered(database: Path, statement: str = "UPDATE audit SET actor_id = 'x'") -> None:
    with sqlite3.connect(database) as connection:
        for name in ("audit_no_update", "audit_no_delete", "audit_seals_no_update", "audit_seals_no_delete"):
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)


# --- verify ---------------------------------------------------------------------------------------


def test_a_whole_log_verifies_for_all_tenants(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify") == 0

    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert [(line[0], line[1], line[-1]) for line in lines[1:]] == [
        ("acme", "1", "ok"),
        ("default", "1", "ok"),
    ]
    assert "last seal of acme: 1:" in err
    assert "warning" not in err


def test_what_was_changed_is_named_and_exits_with_1(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tampered(sealed)

    assert run("verify", "--tenant", "acme", "-o", "json") == 1

    (log,) = json.loads(capsys.readouterr().out)["logs"]
    assert log["problem"]["where"].startswith("audit_")
    assert log["problem"]["what"] == "was changed, or the one before it was"


def test_a_seal_that_was_kept_shows_a_cut(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("verify", "--tenant", "acme")
    kept = capsys.readouterr().err.split("last seal of acme: ")[1].strip()
    assert run("verify", "--tenant", "acme", "--seal", kept) == 0
    tampered(sealed, "DELETE FROM audit")
    tampered_seals = sqlite3.connect(sealed)
    tampered_seals.execute("DELETE FROM audit_seals")
    tampered_seals.commit()
    tampered_seals.close()

    assert run("verify", "--tenant", "acme") == 0, "nothing is left that could tell"
    assert run("verify", "--tenant", "acme", "--seal", kept) == 1
    assert "seal 1: is not the one that was kept" in capsys.readouterr().out
    assert run("verify", "--seal", kept) == 2


def test_another_key_is_not_trusted(sealed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(SigningKey.generate().public.pem())

    assert run("verify", "--keys", str(other)) == 1
    assert "is signed with another key than was given" in capsys.readouterr().out
    both = tmp_path / "both.pem"
    own = VerifyingKey.read_all(sealed.with_name("audit.key"))[0]
    both.write_bytes(other.read_bytes() + own.pem())
    assert run("verify", "--keys", str(both)) == 0


def test_without_a_key_it_says_what_was_not_checked(sealed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sealed.with_name("audit.key").unlink()

    assert run("verify") == 0
    assert "signatures are not checked" in capsys.readouterr().err


def test_a_database_without_a_log_verifies(sealed: Path) -> None:
    tampered(sealed, "DELETE FROM audit_seals")
    with sqlite3.connect(sealed) as connection:
        connection.execute("DELETE FROM audit")
        connection.execute("DELETE FROM audit_chains")
    assert run("verify") == 0


def test_what_is_not_there_does_not_verify(
    sealed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", "--tenant", "nobody") == 3
    assert "there is no tenant 'nobody'" in capsys.readouterr().err
    mistyped = tmp_path / "runtme.db"
    for command in ("verify", "export"):
        assert run(command, "--db", str(mistyped)) == 3
        assert "there is no database" in capsys.readouterr().err
    assert not mistyped.exists()


# --- export ---------------------------------------------------------------------------------------


def test_an_exported_file_verifies_without_the_database(
    sealed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "acme.jsonl"
    assert run("export", "--tenant", "acme", "--to", str(file)) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["log", "seal", "entry"]
    keys = tmp_path / "keys.pem"
    keys.write_bytes(VerifyingKey.read_all(sealed.with_name("audit.key"))[0].pem())
    sealed.unlink()

    assert run("verify", "--file", str(file), "--keys", str(keys)) == 0
    file.write_text(file.read_text().replace("tenant_created", "tenant_updated"))
    assert run("verify", "--file", str(file), "--keys", str(keys)) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "this is no exported audit log: line 1"),
        ("{}\n", "this is no exported audit log: line 1"),
        ('{"kind":"log","tenant_id":"a","format":9}\n', "the log has format 9, this release reads 1"),
        ('{"kind":"log","tenant_id":"a"}\n{"kind":"seal"}\n', "line 2: "),
        ('{"kind":"log","tenant_id":"a"}\nnonsense\n', "line 2: "),
    ],
)
def test_a_file_that_is_none_of_ours_exits_with_2(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(text)
    assert run("verify", "--file", str(file)) == 2
    assert said in capsys.readouterr().err


def test_export_goes_to_stdout_by_default(sealed: Path, capfdbinary: Any) -> None:
    assert run("export") == 0
    assert capfdbinary.readouterr().out.startswith(b'{"kind":"log","tenant_id":"default"')


# --- the key --------------------------------------------------------------------------------------


def test_the_public_key_is_printed_and_made_when_asked(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("key") == 2
    assert "make it with --create" in capsys.readouterr().err
    assert run("key", "--create") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("-----BEGIN PUBLIC KEY-----")
    assert run("key") == 0
    assert capsys.readouterr().out == printed
    mode = stat.S_IMODE(database.with_name("audit.key").stat().st_mode)
    assert mode == 0o600


def test_on_postgresql_a_key_must_be_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@localhost/none")
    assert run("key") == 2
    assert "JAMJET_AUDIT_KEY" in capsys.readouterr().err
    monkeypatch.setenv("JAMJET_AUDIT_KEY", str(tmp_path / "kept" / "my.key"))
    assert run("key", "--create") == 0


def test_many_that_make_the_key_at_once_make_one(tmp_path: Path) -> None:
    settings = Settings(database_url=str(tmp_path / "new" / "runtime.db"))
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: signing_key(settings), range(16)))
    assert len({key.id for key in keys if key is not None}) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["audit.key"]


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n", b"\xff"]
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.key"
    path.write_bytes(content)
    with pytest.raises(BadRequest, match="cannot be read"):
        signing_key(Settings(audit_key=str(path)))
    with pytest.raises(BadRequest):
        VerifyingKey.read_all(path)


def test_a_named_key_that_is_missing_is_not_made(tmp_path: Path) -> None:
    settings = Settings(audit_key=str(tmp_path / "gone.key"))
    assert key_path(settings) == tmp_path / "gone.key"
    with pytest.raises(BadRequest, match="cannot be read"):
        signing_key(settings)
    create_key(tmp_path / "gone.key")
    assert signing_key(settings) is not None
