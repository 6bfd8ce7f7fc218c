"""The file `proxy.yaml` on disk: what cannot be read, and how a change is taken over."""

from __future__ import annotations

import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from flowise_gateway.config.config_file import ConfigFile, config_file, load_config
from flowise_gateway.config.schema import ProxyConfig
from flowise_gateway.config.settings import Settings
from flowise_gateway.config.yaml_document import ConfigError

FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"
SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the file goes."""
    return tmp_path / "proxy.yaml"


def test_what_is_no_file_is_told_and_never_waited_for(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^proxy\.yaml: cannot be read: No such file or directory$"):
        load_config(file)
    file.mkdir()
    with pytest.raises(ConfigError, match=r"^proxy\.yaml: must be a file$"):
        load_config(file)
    file.rmdir()
    os.mkfifo(file)
    with pytest.raises(ConfigError, match=r"^proxy\.yaml: must be a file$"):
        load_config(file)
    file.unlink()
    file.symlink_to(file)
    with pytest.raises(
        ConfigError, match=r"^proxy\.yaml: cannot be read: Too many levels of symbolic links$"
    ):
        load_config(file)


def test_a_file_without_permission_is_told(file: Path) -> None:
    file.write_text("tasks: {}")
    file.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match=r"^proxy\.yaml: cannot be read: Permission denied$"):
            load_config(file)
    finally:
        os.seteuid(user)


# Taking a change over


class Clock:
    """A clock that stands until it is moved, as seconds since anything."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


LONG_AFTER = Clock(time.time() + 10_000_000)
"""A wall clock by which all files have been at rest for long."""


class Watched:
    """A file with its reader: each look is one check later."""

    def __init__(
        self, path: Path, *, must_exist: bool = True, wall_clock: Callable[[], float] = LONG_AFTER
    ) -> None:
        self.clock = Clock()
        self.file = ConfigFile(path, self.clock, must_exist=must_exist, wall_clock=wall_clock)

    def ids(self) -> list[str]:
        """The ids of the models at the next check."""
        self.clock.now += 1
        return [model.id for model in self.file.current.models]


def with_models(*ids: str) -> str:
    """A file with models of these ids."""
    return "models:\n" + "".join(f"- {{id: {name}, flow: {FLOW}}}\n" for name in ids)


def log_lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """What was logged since the last look."""
    lines = [(record.levelno, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return lines


KEPT = "the change is ignored, the previous version stays in effect: "
NO_FLOW = "proxy.yaml:1: models[0].flow: is missing; it must be a flow id (a UUID)"
GONE = "proxy.yaml: cannot be read: No such file or directory"


@pytest.fixture(autouse=True)
def _informed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flowise_gateway.config.config_file")


def test_a_broken_file_stops_the_start(file: Path) -> None:
    file.write_text("models: [{id: a}]")
    with pytest.raises(ConfigError) as caught:
        ConfigFile(file)
    assert str(caught.value) == NO_FLOW
    with pytest.raises(ConfigError):
        ConfigFile(file, must_exist=False)


def test_without_a_path_the_defaults_stay() -> None:
    clock = Clock()
    config = ConfigFile(None, clock)
    before = config.current
    clock.now += 100
    assert config.current is before
    assert before == ProxyConfig()
    assert config.error is None


def test_a_file_that_must_exist_is_missed_at_the_start(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ConfigFile(file, must_exist=True)
    assert str(caught.value) == GONE


def test_a_file_that_need_not_exist_is_picked_up_once_it_appears(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(file, must_exist=False)
    assert watched.ids() == []
    assert watched.file.error is None
    assert log_lines(caplog) == []
    file.write_text(with_models("a"))
    assert watched.ids() == ["a"]
    assert log_lines(caplog) == [(logging.INFO, "proxy.yaml: the change is in effect")]


def test_a_change_is_taken_over_at_the_next_second(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(with_models("a"))
    watched = Watched(file)
    before = watched.file.current
    file.write_text(with_models("a", "b"))
    watched.clock.now += 0.99
    assert watched.file.current is before
    watched.clock.now += 0.01
    assert [model.id for model in watched.file.current.models] == ["a", "b"]
    assert [model.id for model in before.models] == ["a"]
    assert watched.file.current is watched.file.current
    assert log_lines(caplog) == [(logging.INFO, "proxy.yaml: the change is in effect")]


def test_a_write_of_the_same_content_changes_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(with_models("a"))
    watched = Watched(file)
    before = watched.file.current
    os.utime(file, (1, 1))
    assert watched.ids() == ["a"]
    assert watched.file.current is before
    assert log_lines(caplog) == []


def test_a_broken_change_keeps_the_old_and_is_logged_once_for_each_content(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(with_models("a"))
    watched = Watched(file)
    before = watched.file.current
    file.write_text("models: [{id: b}]")
    assert [watched.ids() for _ in range(3)] == [["a"]] * 3
    assert watched.file.current is before
    assert watched.file.error == NO_FLOW
    os.utime(file, (1, 1))
    assert watched.ids() == ["a"]
    assert log_lines(caplog) == [(logging.ERROR, KEPT + NO_FLOW)]
    file.write_text("models: [{id: another}]")
    assert [watched.ids() for _ in range(3)] == [["a"]] * 3
    assert log_lines(caplog) == [(logging.ERROR, KEPT + NO_FLOW)]
    file.write_text(with_models("b"))
    assert watched.ids() == ["b"]
    assert watched.file.error is None
    assert log_lines(caplog) == [(logging.INFO, "proxy.yaml: the change is in effect")]
    file.write_text("models: [{id: another}]")
    assert watched.ids() == ["b"]
    assert log_lines(caplog) == [(logging.ERROR, KEPT + NO_FLOW)]


def test_a_file_put_back_as_it_was_is_right_again(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(with_models("a"))
    watched = Watched(file)
    before = watched.file.current
    file.write_text("[")
    watched.ids()
    assert watched.file.error is not None
    caplog.clear()
    file.write_text(with_models("a"))
    watched.ids()
    assert watched.file.current is before
    assert watched.file.error is None
    assert log_lines(caplog) == [(logging.INFO, "proxy.yaml: is valid again")]


def test_a_file_replaced_by_an_older_one_of_the_same_length_is_seen(file: Path, tmp_path: Path) -> None:
    file.write_text(with_models("a"))
    watched = Watched(file)
    other = tmp_path / "other.yaml"
    other.write_text(with_models("b"))
    os.utime(other, ns=(1, file.stat().st_mtime_ns))
    other.replace(file)
    assert watched.ids() == ["b"]


def test_a_file_that_vanishes_keeps_the_old(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(with_models("a"))
    watched = Watched(file, must_exist=False)
    moved = file.rename(file.with_suffix(".away"))
    assert [watched.ids() for _ in range(3)] == [["a"]] * 3
    assert watched.file.error == GONE
    assert log_lines(caplog) == [(logging.ERROR, KEPT + GONE)]
    moved.rename(file)
    assert watched.ids() == ["a"]
    assert watched.file.error is None
    assert log_lines(caplog) == [(logging.INFO, "proxy.yaml: is valid again")]
    file.unlink()
    file.mkdir()
    assert watched.ids() == ["a"]
    assert watched.file.error == "proxy.yaml: must be a file"


def test_a_file_made_readable_again_is_read(file: Path) -> None:
    file.write_text(with_models("a"))
    watched = Watched(file)
    folder = file.parent
    user = os.geteuid()
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        assert watched.ids() == ["a"]
        assert watched.file.error == "proxy.yaml: cannot be read: Permission denied"
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
    assert watched.ids() == ["a"]
    assert watched.file.error is None


def test_a_swapped_folder_of_a_mounted_config_map_is_seen(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "proxy.yaml").write_text(with_models(name))
    (tmp_path / "..data").symlink_to("one")
    file = tmp_path / "proxy.yaml"
    file.symlink_to("..data/proxy.yaml")
    watched = Watched(file)
    assert watched.ids() == ["one"]
    (tmp_path / "..data_tmp").symlink_to("two")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    assert watched.ids() == ["two"]


def test_a_file_still_being_written_waits_for_its_rest(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(with_models("a") + f"keys: [{{name: k, sha256: {SHA}}}]\n")
    os.utime(file, (100, 100))
    wall = Clock(200.0)
    watched = Watched(file, wall_clock=wall)
    for part, written_at in (("", 300), (with_models("b"), 301)):
        file.write_text(part)
        os.utime(file, (written_at, written_at))
        wall.now = written_at + 0.9
        assert watched.ids() == ["a"]
        assert watched.file.current.keys
    wall.now = 302.0
    assert watched.ids() == ["b"]
    assert watched.file.error is None
    assert [level for level, _ in log_lines(caplog)] == [logging.INFO]


def test_a_file_of_the_future_is_not_waited_for(file: Path) -> None:
    file.write_text(with_models("a"))
    watched = Watched(file, wall_clock=Clock(100.0))
    file.write_text(with_models("b"))
    assert watched.ids() == ["b"]


def test_a_write_in_the_tick_of_the_start_is_seen_later(file: Path) -> None:
    file.write_text(with_models("a"))
    os.utime(file, (100, 100))
    wall = Clock(100.5)
    watched = Watched(file, wall_clock=wall)
    before = watched.file.current
    assert watched.ids() == ["a"]
    wall.now = 101.5
    assert watched.ids() == ["a"]
    assert watched.file.current is before


class ReplacedWhileRead:
    """A wall clock whose question, which comes before the reading, is when the file is replaced."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.contents: list[str] = []

    def __call__(self) -> float:
        if self.contents:
            self.file.write_text(self.contents.pop(0))
        return LONG_AFTER()


def test_a_file_changed_while_it_was_read_is_read_again(file: Path) -> None:
    file.write_text(with_models("a"))
    wall = ReplacedWhileRead(file)
    watched = Watched(file, wall_clock=wall)
    file.write_text(with_models("b", "b2"))
    wall.contents = ["models: [{id: half}]"]
    assert watched.ids() == ["a"]
    assert watched.file.error is None
    file.write_text(with_models("c"))
    assert watched.ids() == ["c"]


class WaitingClock(Clock):
    """A clock whose asker stands still, in the middle of a check, while the gate is shut."""

    def __init__(self) -> None:
        super().__init__(LONG_AFTER())
        self.reached, self.gate = Event(), Event()

    def __call__(self) -> float:
        self.reached.set()
        assert self.gate.wait(10)
        return self.now


def test_a_reader_never_waits_for_another_that_reads_the_file(file: Path) -> None:
    file.write_text(with_models("a"))
    wall = WaitingClock()
    wall.gate.set()
    watched = Watched(file, wall_clock=wall)
    file.write_text(with_models("b"))
    wall.gate.clear()
    wall.reached.clear()
    slow = Thread(target=watched.ids)
    slow.start()
    assert wall.reached.wait(10)
    assert watched.ids() == ["a"]
    wall.gate.set()
    slow.join(10)
    assert [model.id for model in watched.file.current.models] == ["b"]


class TurnClock(Clock):
    """A clock that goes on between the two questions of one reader, as if another reader had checked."""

    def __init__(self) -> None:
        super().__init__()
        self.coming: list[float] = []

    def __call__(self) -> float:
        return self.coming.pop(0) if self.coming else self.now


def test_a_check_that_another_reader_has_just_made_is_not_made_again(file: Path) -> None:
    file.write_text(with_models("a"))
    clock = TurnClock()
    config = ConfigFile(file, clock, wall_clock=LONG_AFTER)
    file.write_text(with_models("b", "c"))
    clock.coming = [clock.now + 1, clock.now]
    assert [model.id for model in config.current.models] == ["a"]


OLD, NEW = (tuple(f"{name}{n}" for n in range(count)) for name, count in (("old", 40), ("new", 30)))


def rewrite(file: Path, turn: int, way: str) -> None:
    """Write the old or the new content, at once or bit by bit."""
    content = with_models(*(NEW if turn % 2 else OLD))
    if way == "replaced":
        other = file.with_suffix(".new")
        other.write_text(content)
        os.utime(other, (turn, turn))
        other.replace(file)
    else:
        with file.open("w", buffering=256) as half:
            half.writelines(content.splitlines(keepends=True))


@pytest.fixture
def _many_turns() -> Iterator[None]:
    """Let threads take turns often, for more meetings in less time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_many_turns")
@pytest.mark.parametrize("way", ["replaced", "in place"])
def test_readers_see_only_whole_configurations_during_many_rewrites(file: Path, way: str) -> None:
    rewrite(file, 0, way)
    ticks = itertools.count(1000.0)
    done = Event()

    def wall_clock() -> float:
        # What is replaced is whole at once; what is written in place was always written just now.
        return LONG_AFTER() if way == "replaced" or done.is_set() else file.stat().st_mtime + 0.5

    config = ConfigFile(file, lambda: next(ticks), wall_clock=wall_clock)
    seen = {OLD}

    def read() -> None:
        while not done.is_set():
            seen.add(tuple(model.id for model in config.current.models))

    readers = [Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for turn in range(1, 202):
        rewrite(file, turn, way)
    os.utime(file, (1, 1))
    done.set()
    for reader in readers:
        reader.join(10)
    assert seen <= {OLD, NEW}
    assert tuple(model.id for model in config.current.models) == NEW
    assert config.error is None


# Which file


def test_the_file_of_the_settings_must_exist_and_the_default_one_need_not(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert config_file(Settings()).current == ProxyConfig()
    file.write_text(with_models("a"))
    assert config_file(Settings()).current.models[0].id == "a"
    named = file.rename(file.with_name("named.yaml"))
    assert config_file(replace(Settings(), proxy_config=str(named))).current.models[0].id == "a"
    with pytest.raises(ConfigError, match=r"^proxy\.yaml: cannot be read"):
        config_file(replace(Settings(), proxy_config="proxy.yaml"))


def test_keys_of_the_file_stop_the_start_where_callers_keys_are_passed_through(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    settings = replace(Settings(), flowise_key_passthrough=True)
    file.write_text(with_models("a"))
    assert config_file(settings).current.models[0].id == "a"
    file.write_text(f"keys:\n  - name: a\n    sha256: {'0' * 64}\n")
    assert config_file(Settings()).current.keys[0].name == "a"
    with pytest.raises(
        ConfigError, match=r"^proxy\.yaml: keys: must be left out with FLOWISE_KEY_PASSTHROUGH"
    ):
        config_file(settings)
    file.write_text("flowises: [{name: hr, base_url: 'https://hr'}]")
    with pytest.raises(ConfigError, match=r"^proxy\.yaml: flowises: must be left out with FLOWISE_KEY_PASS"):
        config_file(settings)
    file.write_text("pipelines: [{id: a, source: a.yaml}]")
    with pytest.raises(ConfigError, match=r"^proxy\.yaml: pipelines: must be left out with FLOWISE_KEY_PA"):
        config_file(settings)
