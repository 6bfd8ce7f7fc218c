"""Settings: what is allowed, what is refused and in which words."""

from __future__ import annotations

import logging
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from flowise_gateway.config.setting_values import flowise_base_url, is_loopback_host
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.errors import SettingsError

GOOD: list[tuple[str, str, Any]] = [
    ("FLOWISE_BASE_URL", "http://localhost:3000", "http://localhost:3000/api/v1"),
    ("FLOWISE_API_KEY", "k_1-2.3", "k_1-2.3"),
    ("FLOWISE_CONNECT_TIMEOUT", "0.1", 0.1),
    ("FLOWISE_CONNECT_TIMEOUT", "600", 600),
    ("FLOWISE_REQUEST_TIMEOUT", "86400", 86400),
    ("FLOWISE_STREAM_IDLE_TIMEOUT", "1e3", 1000),
    ("FLOWISE_RUN_TIMEOUT", "604800", 604800),
    ("FLOWISE_MAX_ATTEMPTS", "10", 10),
    ("FLOWISE_KEY_PASSTHROUGH", "true", True),
    ("FLOWISE_CA_FILE", __file__, __file__),
    ("PROXY_CONFIG", "other.yaml", "other.yaml"),
    ("HOST", "127.0.0.1", "127.0.0.1"),
    ("HOST", "[::1]", "::1"),
    ("PORT", "0", 0),
    ("PORT", "65535", 65535),
    ("WORKERS", "256", 256),
    ("PROXY_API_KEYS", " a , b,,c ", ("a", "b", "c")),
    ("PROXY_API_KEYS", "one", ("one",)),
    ("PROXY_ALLOW_ANONYMOUS", "Yes", True),
    ("PROXY_ALLOW_ANONYMOUS", "off", False),
    ("PROXY_CORS_ORIGINS", "*", ("*",)),
    ("PROXY_CORS_ORIGINS", "null, chrome-extension://abc", ("null", "chrome-extension://abc")),
    ("PROXY_CORS_ORIGINS", "https://a.example, http://b:3000", ("https://a.example", "http://b:3000")),
    ("PROXY_STORE", "memory:", "memory:"),
    ("PROXY_STORE", "sqlite:///data/x.db", "sqlite:///data/x.db"),
    ("PROXY_STORE", "redis://cache:6379/0", "redis://cache:6379/0"),
    ("PROXY_SECRET", "x" * 16, ("x" * 16,)),
    ("PROXY_USAGE_DAYS", "0", 0),
    ("PROXY_PIPELINES_URL", "http://127.0.0.1:8100", "http://127.0.0.1:8100/api/v1"),
    ("PROXY_PIPELINES_KEY", "a-key", "a-key"),
    ("PROXY_SECRET", f"{'n' * 16}, {'o' * 16}", ("n" * 16, "o" * 16)),
    ("PROXY_PUBLIC_URL", "https://ai.example.com/flows/", "https://ai.example.com/flows"),
    ("PROXY_PUBLIC_URL", "http://[::1]:8000", "http://[::1]:8000"),
    ("PROXY_RESPONSE_TTL_DAYS", "0.5", 0.5),
    ("PROXY_MAX_BODY_BYTES", "1024", 1024),
    ("PROXY_MAX_BODY_BYTES", "50 MiB", 50 * 1024**2),
    ("PROXY_MAX_BODY_BYTES", "2gb", 2 * 10**9),
    ("PROXY_MAX_BODY_BYTES", "3KiB", 3072),
    ("PROXY_BODY_TIMEOUT", "3600", 3600),
    ("PROXY_MAX_IN_FLIGHT", "200", 200),
    ("PROXY_RUN_ERROR_STATUS", "400", 400),
    ("PROXY_RUN_ERROR_STATUS", "502", 502),
    ("PROXY_HEARTBEAT_SECONDS", "0.05", 0.05),
    ("PROXY_DRAIN_SECONDS", "0", 0),
    ("PROXY_METRICS", "Open", "open"),
    ("PROXY_TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8, fd00::/8", ("127.0.0.1/32", "10.0.0.0/8", "fd00::/8")),
    ("PROXY_TRUSTED_PROXIES", "*", ("*",)),
    ("PROXY_LOG_PROMPTS", "true", True),
    ("PROXY_PAGE", "Off", False),
    ("PROXY_LOG_FORMAT", "JSON", "json"),
    ("LOG_LEVEL", "Debug", "debug"),
]
BAD: list[tuple[str, str, str]] = [
    ("FLOWISE_BASE_URL", "flows.example.com", "https://flows.example.com/api/v1"),
    ("FLOWISE_BASE_URL", "ftp://flows.example.com", "http:// or https://"),
    ("FLOWISE_BASE_URL", "http://", "http:// or https://"),
    ("FLOWISE_BASE_URL", "http://[::1", "http:// or https://"),
    ("FLOWISE_BASE_URL", "http://host:99999", "http:// or https://"),
    ("FLOWISE_BASE_URL", "http://host/api?a=b", "not contain a user name, query or fragment"),
    ("FLOWISE_BASE_URL", "http://host/#top", "not contain a user name, query or fragment"),
    ("FLOWISE_BASE_URL", "http://me@host", "not contain a user name, query or fragment"),
    ("FLOWISE_BASE_URL", "http://a http://b", "without spaces"),
    ("FLOWISE_API_KEY", "two words", "printable ASCII"),
    ("FLOWISE_API_KEY", "schlüssel", "printable ASCII"),
    ("FLOWISE_CONNECT_TIMEOUT", "0", "a number from 0.1 to 600"),
    ("FLOWISE_CONNECT_TIMEOUT", "nan", "a number from 0.1 to 600"),
    ("FLOWISE_REQUEST_TIMEOUT", "30s", "a number from 0.1 to 86400"),
    ("FLOWISE_STREAM_IDLE_TIMEOUT", "inf", "a number from 0.1 to 86400"),
    ("FLOWISE_RUN_TIMEOUT", "-1", "a number from 0.1 to 604800"),
    ("FLOWISE_MAX_ATTEMPTS", "0", "a whole number from 1 to 10"),
    ("FLOWISE_MAX_ATTEMPTS", "2.5", "a whole number from 1 to 10"),
    ("FLOWISE_CA_FILE", "/nowhere/ca.pem", "a file that can be read (No such file or directory)"),
    ("FLOWISE_CA_FILE", "/", "a file that can be read"),
    ("HOST", "http://localhost", "a host name or an address"),
    ("HOST", "a b", "a host name or an address"),
    ("HOST", "[]", "a host name or an address"),
    ("PORT", "65536", "a whole number from 0 to 65535"),
    ("PORT", "٣", "a whole number from 0 to 65535"),
    ("PORT", "-1", "a whole number from 0 to 65535"),
    ("WORKERS", "0", "a whole number from 1 to 256"),
    ("PROXY_API_KEYS", "good,not good", "printable ASCII"),
    ("PROXY_ALLOW_ANONYMOUS", "maybe", "true or false"),
    ("PROXY_CORS_ORIGINS", "chat.example.com", "*, null or origins"),
    ("PROXY_CORS_ORIGINS", "https://a.example/path", "*, null or origins"),
    ("PROXY_CORS_ORIGINS", "https://a.example?x", "*, null or origins"),
    ("PROXY_CORS_ORIGINS", "https://a.example#x", "*, null or origins"),
    ("PROXY_CORS_ORIGINS", "app:x", "*, null or origins"),
    ("PROXY_STORE", "mysql://db", "sqlite:///path, memory:, redis://host:port/number"),
    ("PROXY_SECRET", "x" * 15, "at least 16 characters"),
    ("PROXY_USAGE_DAYS", "3651", "a whole number from 0 to 3650"),
    ("PROXY_PIPELINES_URL", "127.0.0.1:8100", "http:// or https:// address"),
    ("PROXY_PIPELINES_KEY", "a key", "printable ASCII without spaces"),
    ("PROXY_SECRET", f"{'x' * 15},{'n' * 16}", "at least 16 characters"),
    ("PROXY_PUBLIC_URL", "ai.example.com", "such as https://ai.example.com"),
    ("PROXY_PUBLIC_URL", "https://", "such as https://ai.example.com"),
    ("PROXY_PUBLIC_URL", "https://[::1", "such as https://ai.example.com"),
    ("PROXY_PUBLIC_URL", "https://me@ai.example.com", "such as https://ai.example.com"),
    ("PROXY_PUBLIC_URL", "https://ai.example.com/a)b", "such as https://ai.example.com"),
    ("PROXY_RESPONSE_TTL_DAYS", "0", "a number from 0.01 to 36500"),
    ("PROXY_MAX_BODY_BYTES", "12", "a whole number from 1024"),
    ("PROXY_MAX_BODY_BYTES", "0 MiB", "a whole number from 1"),
    ("PROXY_MAX_BODY_BYTES", "lots", "a whole number from 1024"),
    ("PROXY_BODY_TIMEOUT", "4000", "a number from 0.1 to 3600"),
    ("PROXY_MAX_IN_FLIGHT", "0", "a whole number from 1 to 1000000"),
    ("PROXY_RUN_ERROR_STATUS", "503", "400, 500 or 502"),
    ("PROXY_HEARTBEAT_SECONDS", "0", "a number from 0.05 to 3600"),
    ("PROXY_DRAIN_SECONDS", "-1", "a number from 0 to 3600"),
    ("PROXY_METRICS", "true", "one of key, open, off"),
    ("PROXY_TRUSTED_PROXIES", "nginx", "addresses and networks"),
    ("PROXY_TRUSTED_PROXIES", "10.0.0.1/8", "addresses and networks"),
    ("PROXY_LOG_PROMPTS", "some", "true or false"),
    ("PROXY_PAGE", "key", "true or false"),
    ("PROXY_LOG_FORMAT", "xml", "one of auto, text, json"),
    ("FLOWISE_KEY_PASSTHROUGH", "maybe", "true or false"),
    ("LOG_LEVEL", "verbose", "one of debug, info, warning, error"),
]
SECRET = {"FLOWISE_API_KEY", "PROXY_API_KEYS", "PROXY_SECRET", "PROXY_STORE", "PROXY_PIPELINES_KEY"}


def read(**environ: str) -> Settings:
    """Settings of this environment alone."""
    return Settings.from_env(environ, None)


def complaint(**environ: str) -> str:
    """What is said against this environment."""
    with pytest.raises(SettingsError) as caught:
        read(**environ)
    return str(caught.value)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read() == Settings()


def test_every_setting_is_tried_with_a_good_and_a_bad_value() -> None:
    names = {field.name.upper() for field in fields(Settings)}
    assert {row[0] for row in GOOD} == names
    # Whether PROXY_CONFIG is right shows when the file is read.
    assert {row[0] for row in BAD} == names - {"PROXY_CONFIG"}


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_a_good_value_is_taken(name: str, text: str, value: Any) -> None:
    assert getattr(read(**{name: f"  {text} "}), name.lower()) == value


@pytest.mark.parametrize(("name", "text", "allowed"), BAD)
def test_a_bad_value_is_refused_in_one_line_that_names_variable_value_and_what_is_allowed(
    name: str, text: str, allowed: str
) -> None:
    said = complaint(**{name: text})
    assert len(said.splitlines()) == 1
    assert name in said
    assert allowed in said
    may_hold_key = name in SECRET or "@" in text or "?" in text
    assert (repr(text) in said) is not may_hold_key
    assert ("(hidden)" in said) is may_hold_key
    if name in SECRET:
        assert not any(part in said for part in text.split(","))


def test_a_value_of_many_lines_is_told_in_one() -> None:
    assert len(complaint(PORT="80\n\x1b[2J\r\n81").splitlines()) == 1


def test_a_very_long_value_is_cut() -> None:
    assert len(complaint(LOG_LEVEL="x" * 10_000)) < 250


@pytest.mark.parametrize("name", [field.name.upper() for field in fields(Settings)])
def test_an_empty_value_is_the_default(name: str) -> None:
    assert read(**{name: "  "}) == Settings()


def test_the_environment_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("PORT=1111\nWORKERS=2\nLOG_LEVEL\n# PROXY_DRAIN_SECONDS=1\nFLOWISE_API_KEY='quoted'\n")
    settings = Settings.from_env({"PORT": "2222", "FLOWISE_API_KEY": ""}, file)
    assert (settings.port, settings.workers) == (2222, 2)
    assert settings.log_level == "info"
    assert settings.flowise_api_key == ""
    assert Settings.from_env({}, file).flowise_api_key == "quoted"


def test_a_missing_file_is_no_fault(tmp_path: Path) -> None:
    assert Settings.from_env({}, tmp_path / "none") == Settings()


def test_the_process_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "4321")
    assert Settings.from_env(dotenv=None).port == 4321


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://localhost:3000", "http://localhost:3000/api/v1"),
        ("http://localhost:3000/", "http://localhost:3000/api/v1"),
        ("https://flows.example.com/api/v1", "https://flows.example.com/api/v1"),
        ("https://flows.example.com/api/v1/", "https://flows.example.com/api/v1"),
        ("https://flows.example.com/api/v1/prediction", "https://flows.example.com/api/v1"),
        ("https://flows.example.com/api/v1/prediction/", "https://flows.example.com/api/v1"),
        ("https://flows.example.com/prediction", "https://flows.example.com/api/v1"),
        (f"https://flows.example.com/api/v1/prediction/{'0' * 36}", "https://flows.example.com/api/v1"),
        ("https://example.com/behind/a/path/api/v1", "https://example.com/behind/a/path/api/v1"),
        ("HTTPS://flows.example.com", "https://flows.example.com/api/v1"),
        ("http://[::1]:3000", "http://[::1]:3000/api/v1"),
        ("http://bücher.example", "http://bücher.example/api/v1"),
    ],
)
def test_a_base_url_is_brought_to_one_form(text: str, url: str) -> None:
    assert flowise_base_url(text) == url
    assert read(FLOWISE_BASE_URL=text).flowise_base_url == url


@pytest.mark.parametrize(("end", "warnings"), [("/prediction", 1), ("/prediction/", 1), ("", 0)])
def test_a_prediction_path_is_cut_with_a_warning(
    end: str, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "flowise_gateway.config.settings"):
        read(FLOWISE_BASE_URL=f"http://localhost:3000/api/v1{end}")
    assert len(caplog.records) == warnings


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("", False),
    ],
)
def test_loopback_is_this_machine_alone(host: str, is_loopback: bool) -> None:
    assert is_loopback_host(host) is is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "10.1.2.3", "flows.example.com"])
def test_other_machines_are_let_in_only_with_a_key_or_on_purpose(host: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(HOST=host).check_admission(has_keys=False)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert all(name in said for name in ("HOST", "PROXY_API_KEYS", "PROXY_ALLOW_ANONYMOUS=true"))
    read(HOST=host).check_admission(has_keys=True)
    read(HOST=host, PROXY_API_KEYS="k" * 16).check_admission(has_keys=False)
    with pytest.raises(SettingsError, match="a key in PROXY_API_KEYS is too short"):
        read(HOST=host, PROXY_API_KEYS=f"{'k' * 16},short").check_admission(has_keys=True)
    read(HOST="localhost", PROXY_API_KEYS="k").check_admission(has_keys=False)
    read(HOST=host, FLOWISE_KEY_PASSTHROUGH="true").check_admission(has_keys=False)
    read(HOST=host, PROXY_ALLOW_ANONYMOUS="true").check_admission(has_keys=False)
    read(HOST="localhost").check_admission(has_keys=False)


def test_keys_that_are_only_commas_are_no_keys() -> None:
    assert read(PROXY_API_KEYS=" , ,").is_anonymous


def test_one_key_cannot_be_both_ours_and_flowises() -> None:
    assert "cannot be combined" in complaint(FLOWISE_KEY_PASSTHROUGH="true", PROXY_API_KEYS="k")


@pytest.mark.parametrize(
    ("chosen", "is_terminal", "as_json"),
    [("auto", True, False), ("auto", False, True), ("json", True, True), ("text", False, False)],
)
def test_log_lines_are_json_unless_a_person_reads_them(
    chosen: str, is_terminal: bool, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    assert read(PROXY_LOG_FORMAT=chosen).log_as_json is as_json


def test_settings_print_without_secrets() -> None:
    settings = read(FLOWISE_API_KEY="upstream-1", PROXY_API_KEYS="client-1,client-2")
    assert settings.proxy_api_keys == ("client-1", "client-2")
    for shown in (repr(settings), str(settings), f"{settings}", repr([settings])):
        assert "upstream-1" not in shown
        assert "client-" not in shown
        assert "'port': 8000" in shown


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("url", ["http://me:pass-1@host", "http://host/?apiKey=pass-1"])
def test_a_password_in_a_base_url_is_not_shown(url: str) -> None:
    assert "pass-1" not in complaint(FLOWISE_BASE_URL=url)


@pytest.mark.parametrize(
    ("name", "text"),
    [("PORT", "0" * 18 + "999999"), ("PROXY_MAX_BODY_BYTES", "0" * 17 + "1" + "0" * 20 + "kb")],
)
def test_leading_zeros_do_not_get_a_number_past_its_bounds(name: str, text: str) -> None:
    assert name in complaint(**{name: text})


def test_a_host_with_a_port_is_refused() -> None:
    assert "a host name or an address" in complaint(HOST="localhost:8000")


def test_localhost_is_loopback_in_any_case() -> None:
    assert is_loopback_host("LocalHost")


def test_a_broken_origin_is_told_what_is_allowed() -> None:
    assert "*, null or origins" in complaint(PROXY_CORS_ORIGINS="https://[")


def test_files_are_those_of_the_folder_it_is_started_in_else_those_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, folder = tmp_path / "program", tmp_path / "folder"
    for each, port in ((program, 1111), (folder, 2222)):
        each.mkdir()
        (each / ".env").write_text(f"PORT={port}\n")
    monkeypatch.setattr("flowise_gateway.config.settings.PROGRAM", program)
    monkeypatch.chdir(folder)
    assert Settings.from_env({}).port == 2222
    (folder / ".env").unlink()
    assert Settings.from_env({}).port == 1111
    (program / ".env").unlink()
    assert Settings.from_env({}).port == 8000


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-one-of-sixteen, sk-two-of-sixteen\n")
    settings = Settings.from_env({"PROXY_API_KEYS_FILE": str(file)}, dotenv=None)
    assert settings.proxy_api_keys == ("sk-one-of-sixteen", "sk-two-of-sixteen")


def test_a_file_of_a_secret_that_cannot_be_used_is_told_without_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    with pytest.raises(SettingsError, match=r"FLOWISE_API_KEY_FILE=.*No such file"):
        Settings.from_env({"FLOWISE_API_KEY_FILE": str(file)}, dotenv=None)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not UTF-8"):
        Settings.from_env({"FLOWISE_API_KEY_FILE": str(file)}, dotenv=None)
    file.write_text("canary key")
    with pytest.raises(SettingsError) as raised:
        Settings.from_env({"FLOWISE_API_KEY_FILE": str(file)}, dotenv=None)
    assert "canary" not in str(raised.value)
    with pytest.raises(SettingsError, match="cannot be combined"):
        Settings.from_env({"PROXY_SECRET": "x" * 16, "PROXY_SECRET_FILE": str(file)}, dotenv=None)


def test_a_file_of_a_secret_that_is_empty_or_too_large_opens_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(" \n")
    with pytest.raises(SettingsError, match=r"PROXY_API_KEYS_FILE=.* is empty"):
        Settings.from_env({"PROXY_API_KEYS_FILE": str(file)}, dotenv=None)
    file.write_text(",".join(["k" * 30] * 3000))
    with pytest.raises(SettingsError, match="more than 65536 bytes"):
        Settings.from_env({"PROXY_API_KEYS_FILE": str(file)}, dotenv=None)


def test_the_environment_beats_the_file_also_where_it_names_a_secrets_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("of-the-environment")
    (tmp_path / ".env").write_text("FLOWISE_API_KEY=of-the-file\n")
    environ = {"FLOWISE_API_KEY_FILE": str(tmp_path / "key")}
    assert Settings.from_env(environ, tmp_path / ".env").flowise_api_key == "of-the-environment"
