"""Applications of the frameworks that people use, each on a real server: the same features for all, and where one differs, how."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process.frameworks import contract
from tests.support.server import Server

HERE = Path(__file__).with_name("frameworks")

FRAMEWORKS = {  # and the distributions whose versions matter
    "fastapi": "fastapi starlette",
    "starlette": "starlette",
    "quart": "quart werkzeug",
    "litestar": "litestar",
}
Record = Callable[[str, object], None]


@contextlib.contextmanager
def serve(framework: str, directory: Path) -> Iterator[Server]:
    """A server with a framework's application, which keeps its files in the directory."""
    (directory / contract.FILE).write_bytes(contract.CONTENT)
    options = ("--app-dir", str(HERE), "--application-close-timeout", str(3 * contract.DEADLINE))  # nothing is ended by force meanwhile
    with Server(*options, f"{framework}_app:app", environment={contract.DIRECTORY: str(directory)}) as server:
        yield server


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    """Each framework's name in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def site(framework: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[contract.Site]:
    """The framework's application, on one server for all tests."""
    with serve(framework, tmp_path_factory.mktemp(framework)) as server:
        yield contract.Site(f"127.0.0.1:{server.port}")


@pytest.fixture
def record(framework: str, record_property: Record) -> Record:
    """Records what the report shows of a test; the framework is recorded already."""
    record_property("framework", framework)
    record_property("distributions", FRAMEWORKS[framework])
    return record_property


def test_exceptions_are_of_what_there_is() -> None:
    """Each exception is one of a framework and a feature that there are."""
    assert {framework for framework, _ in contract.EXCEPTIONS} <= set(FRAMEWORKS)
    assert {feature for _, feature in contract.EXCEPTIONS} <= set(contract.SCENARIOS)


@pytest.mark.parametrize("feature", contract.SCENARIOS)
def test_feature(framework: str, site: contract.Site, feature: str, record: Record) -> None:
    """A feature works in a framework; or it is among the exceptions, and what is said there holds."""
    scenario, exception = contract.scenario(framework, feature)
    record("feature", feature)
    record("note", exception)
    asyncio.run(scenario(site))


def test_shutdown(framework: str, tmp_path: Path, record: Record) -> None:
    """At the stop the application's shutdown is run to its end, not before, and the server ends well."""
    record("feature", contract.SHUTDOWN)
    with serve(framework, tmp_path) as server:
        asyncio.run(contract.startup(contract.Site(f"127.0.0.1:{server.port}")))
        assert not (tmp_path / contract.STOPPED).exists()
        assert server.stop() == 0
        assert (tmp_path / contract.STOPPED).exists()
