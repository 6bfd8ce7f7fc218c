"""The bench that all clients are tried on, and the recorder of what they do."""

from __future__ import annotations

import datetime
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.clients import calls
from tests.clients.bench import Bench, bench_before
from tests.clients.checks import CHECKS
from tests.clients.declared import only_declared
from tests.clients.environments import InstallError
from tests.clients.environments import install as install_client
from tests.clients.matrix import (
    CALLS_SURFACE,
    DEMO,
    FAILS,
    FLOWISE,
    MISSING,
    OF_THE_MACHINE,
    Cell,
    Check,
    Results,
    differences,
    merged,
    read_results,
    write_results,
)
from tests.clients.upstreams import DemoUpstream, FlowiseUpstream
from tests.live.flowise_install import VERSION, install
from tests.live.real_flowise import RealFlowise
from tests.support.counting_relay import CountingRelay
from tests.support.demo_server import DemoServer
from tests.support.processes import ended_in_order

MAX_REASON = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run's findings become the page."""
    parser.addoption("--record", action="store_true", help="make docs/clients.md of what this run finds")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A gateway in front of the demo Flowise."""
    with (
        DemoServer("--token-seconds", "0.002") as demo,
        bench_before(DemoUpstream(demo), tmp_path_factory.mktemp("clients")) as bench,
    ):
        yield bench


@pytest.fixture(scope="session")
def flowise_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A gateway in front of a real Flowise."""
    with (
        ended_in_order(),
        RealFlowise(install(print)) as flowise,
        CountingRelay(flowise.base_url) as relay,
        bench_before(FlowiseUpstream(flowise, relay), tmp_path_factory.mktemp("flowise")) as bench,
    ):
        assert flowise.version == VERSION
        yield bench


@pytest.fixture
def check(cell: Cell, request: pytest.FixtureRequest) -> Check:
    """Looks at one cell of a table, or says why the client does not offer it."""
    name = "bench" if cell.upstream == DEMO else "flowise_bench"
    # Here, so that no server starts for what is not offered, and a cell's time limit does not count the start.
    bench: Bench | None = None if cell.reason else request.getfixturevalue(name)

    def run(cell: Cell) -> None:
        if bench is None:
            pytest.skip(cell.reason or "")
        checks = calls.CHECKS if cell.surface == CALLS_SURFACE else CHECKS
        (cell.client.own.get(cell.feature) or checks[cell.feature])(bench, cell)

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the cell's outcome into the report, which also comes from workers."""
    report = yield
    cell = (
        item.callspec.params.get("cell")
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else None
    )
    if isinstance(cell, Cell) and (report.when == "call" or report.failed):
        report.user_properties.append(("cell", _found(cell, report, call)))
    return report


def _found(cell: Cell, report: pytest.TestReport, call: pytest.CallInfo[None]) -> dict[str, Any]:
    outcome = cell.works
    if report.skipped:
        outcome = f"{MISSING}: {cell.reason}"
    elif report.failed:
        lines = str(call.excinfo.value if call.excinfo else "").strip().splitlines() or ["?"]
        outcome = f"{FAILS}: {lines[0][:MAX_REASON]}"
    client = cell.client
    return {
        "upstream": cell.upstream,
        "client": client.name,
        "head": {"package": client.package, "version": _version(cell)}
        | ({"flowise": VERSION} if cell.upstream == FLOWISE else {}),
        "surface": cell.surface,
        "feature": cell.feature,
        "outcome": outcome,
    }


def _version(cell: Cell) -> str:
    if not cell.client.package:
        return OF_THE_MACHINE
    try:
        return install_client(cell.client.folder).version(cell.client.package)
    except InstallError:
        return "not installed"


class Recorder:
    """Gathers the cells of a run; records them, or fails the run where they are not those on record."""

    def __init__(self, *, records: bool) -> None:
        self._records = records
        self._results: dict[str, Results] = {}
        self._differences: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a cell."""
        found = next((value for name, value in report.user_properties if name == "cell"), None)
        if not isinstance(found, dict):
            return
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        results = self._results.setdefault(found["upstream"], {})
        client = results.setdefault(found["client"], {**found["head"], "date": date, "surfaces": {}})
        client["surfaces"].setdefault(found["surface"], {})[found["feature"]] = found["outcome"]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write or compare."""
        for upstream, results in self._results.items():
            recorded = read_results(upstream)
            if self._records:
                write_results(only_declared(merged(results, recorded), upstream), upstream)
            else:
                self._differences += differences(results, recorded)
        if self._differences and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what differs."""
        if self._differences:
            terminalreporter.section(
                "docs/clients.md is not what this run found: make clients (or clients-apps) RECORD=--record"
            )
            for line in self._differences:
                terminalreporter.line(line)


def pytest_configure(config: pytest.Config) -> None:
    """Record where all reports come together, not in each worker."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(records=config.getoption("--record", default=False)))
