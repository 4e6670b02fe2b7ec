"""``jamjet token``: it works on the database alone, and prints the token alone."""

import asyncio
import hashlib
import json
import re
import sqlite3
from pathlib import Path

import pytest

from api.cli import main as cli
from runtime.store import open_store
from runtime.store.agent_port import NewAgent


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "runtime.db"
    monkeypatch.setenv("DATABASE_URL", str(path))
    return path


@pytest.fixture
def acme(database: Path) -> None:
    """The tenant of that id."""

    async def make() -> None:
        store = await open_store(str(database))
        await store.system.create_tenant("acme", "Acme")
        await store.close()

    asyncio.run(make())


def test_create_prints_the_token_alone_and_stores_its_hash(
    acme: None, database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["token", "create", "--role", "developer", "--tenant", "acme", "--name", "ci"]) == 0

    out, err = capsys.readouterr()
    assert re.fullmatch(r"jj_[0-9a-f]{64}\n", out)
    assert out.strip() not in err
    dump = "\n".join(_dump(database))
    assert out.strip() not in dump
    assert hashlib.sha256(out.strip().encode()).hexdigest() in dump


def test_expires_in_sets_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["token", "create", "--role", "viewer", "--expires-in", "2h", "-o", "json"]) == 0
    made = json.loads(capsys.readouterr().out)

    assert made["expires_at"] > made["created_at"]


def test_a_token_may_be_an_agents(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def register() -> None:
        store = await open_store(str(database))
        await store.agents("default").register(
            NewAgent(agent_id="researcher", card="{}", digest="d", uri="https://a.example")
        )
        await store.close()

    asyncio.run(register())
    made = ["token", "create", "--role", "developer", "-o", "json", "--agent"]
    assert cli.main([*made, "researcher"]) == 0
    assert json.loads(capsys.readouterr().out)["agent_id"] == "researcher"
    assert cli.main([*made, "nobody"]) == 3
    assert "tenant 'default' has no agent 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["soon", "0d", "-1d", "5", "1w"])
def test_a_time_that_is_none_exits_with_2(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["token", "create", "--role", "viewer", "--expires-in", text]) == 2

    assert repr(text) in capsys.readouterr().err


def test_an_unknown_role_exits_with_2() -> None:
    assert cli.main(["token", "create", "--role", "root"]) == 2


def test_list_shows_tokens_of_the_tenant_without_secrets(
    acme: None, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["token", "create", "--role", "viewer", "--name", "mine"])
    cli.main(["token", "create", "--role", "viewer", "--name", "theirs", "--tenant", "acme"])
    secrets = capsys.readouterr().out.split()

    assert cli.main(["token", "list", "--output", "json"]) == 0

    out = capsys.readouterr().out
    assert [row["name"] for row in json.loads(out)["tokens"]] == ["mine"]
    assert not any(secret in out for secret in secrets)


def test_revoke_by_id_works_once(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["token", "create", "--role", "viewer", "-o", "json"])
    token_id = json.loads(capsys.readouterr().out)["id"]

    assert cli.main(["token", "revoke", token_id]) == 0
    assert cli.main(["token", "revoke", token_id]) == 3

    assert repr(token_id) in capsys.readouterr().err


def test_a_token_of_another_tenant_is_not_found(acme: None, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["token", "create", "--role", "viewer", "--tenant", "acme", "-o", "json"])
    token_id = json.loads(capsys.readouterr().out)["id"]

    assert cli.main(["token", "revoke", token_id]) == 3


def test_a_token_of_no_tenant_exits_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["token", "create", "--role", "viewer", "--tenant", "acme"]) == 3

    assert "there is no tenant acme" in capsys.readouterr().err


def test_a_database_that_is_none_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["token", "list", "--db", "mysql://x/y"]) == 2

    assert "mysql" in capsys.readouterr().err


def _dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()
