"""Where the stores of the tests lie: files, and one PostgreSQL for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import NoServerError, Server, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Yield a running server; without PostgreSQL or psycopg the test is skipped and says why."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (the extra postgres)")
    try:
        cluster = running()
        server = cluster.__enter__()
    except NoServerError as why:
        pytest.skip(str(why))
    try:
        yield server
    finally:
        cluster.__exit__(None, None, None)


@pytest.fixture
def address(postgres: Server) -> str:
    """Return the address of a database without lessons."""
    import psycopg

    with psycopg.connect(postgres.address(), autocommit=True) as db:
        db.execute("DROP SCHEMA IF EXISTS embervlm_lessons CASCADE")
    return postgres.address()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "lessons.sqlite"


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> str:
    """Return a place without lessons: first a file, then a database."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("path"))
    return str(request.getfixturevalue("address"))
