"""What is on record is of the clients, features and versions that are declared; nobody edits it by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.clients.declared import clients_before, declared_clients
from tests.clients.environments import HERE, LOCKS, lock_content
from tests.clients.matrix import FAILS, FLOWISE, MISSING, OF_THE_MACHINE, RESULTS, Client, read_results
from tests.live.flowise_install import NEWEST

of_each_table = pytest.mark.parametrize("upstream", RESULTS)


def pinned(client: Client) -> str:
    """The version in the client's lock."""
    if not client.package:
        return OF_THE_MACHINE
    folder = HERE / client.folder
    if (folder / "package.json").exists():
        return str(json.loads((folder / "package.json").read_text())["dependencies"][client.package])
    lock = (folder / "requirements.txt").read_text()
    found = re.search(rf"^{re.escape(client.package)}(?:\[\w+\])?==(\S+)", lock, re.MULTILINE | re.IGNORECASE)
    assert found, f"{client.package} is not pinned in {folder}"
    return found[1]


@of_each_table
def test_every_declared_cell_is_on_record_and_no_other(upstream: str) -> None:
    results, clients = read_results(upstream), clients_before(upstream)
    assert sorted(results) == sorted(client.name for client in clients)
    for client in clients:
        recorded = results[client.name]
        assert recorded["version"] == pinned(client), client.name
        assert recorded.get("flowise") == (NEWEST if upstream == FLOWISE else None), client.name
        cells = {(surface, feature) for surface, found in recorded["surfaces"].items() for feature in found}
        assert cells == {(cell.surface, cell.feature) for cell in client.cells(upstream)}, client.name


@of_each_table
def test_what_a_client_does_not_offer_is_what_its_file_declares(upstream: str) -> None:
    for client in clients_before(upstream):
        for cell in client.cells(upstream):
            outcome = read_results(upstream)[client.name]["surfaces"][cell.surface][cell.feature]
            declared = f"{MISSING}: {cell.reason}" if cell.reason else cell.works
            assert outcome == declared or (not cell.reason and outcome.startswith(FAILS)), (
                client.name,
                str(cell),
            )


@of_each_table
def test_no_client_fails_in_what_it_offers(upstream: str) -> None:
    failing = [
        f"{name}, {surface}, {feature}: {outcome}"
        for name, client in read_results(upstream).items()
        for surface, cells in client["surfaces"].items()
        for feature, outcome in cells.items()
        if outcome.startswith(FAILS)
    ]
    assert failing == []


def test_every_client_has_a_lock() -> None:
    for client in declared_clients():
        folder = HERE / client.folder
        lock = [folder / name for name in LOCKS if (folder / name).exists()]
        assert len(lock) == 1, client.name
        assert is_exact(lock[0]), client.name


def is_exact(lock: Path) -> bool:
    """Whether a lock names one version of each package."""
    if lock.name != "requirements.txt":
        packages = json.loads(lock_content(lock))["packages"]
        return all("version" in one for place, one in packages.items() if place)
    lines = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    return all(re.match(r"[\w.\[\],-]+==[\w.+!]+(?: ;|$)", line) for line in lines)
