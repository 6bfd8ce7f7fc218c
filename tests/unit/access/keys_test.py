"""Who may call: client keys, origins and hosts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from flowise_gateway.access.keys import ANONYMOUS, LOCAL, Caller, Keys
from flowise_gateway.access.origins import check_host, check_origin, cors_headers, is_origin_allowed
from flowise_gateway.config.schema import Allowance, KeyConfig
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.errors import BadRequest, HostNotAllowed, NotAuthenticated, OriginNotAllowed

OPEN = Settings()
KEYED = Settings(proxy_api_keys=("k",))
ONE_PAGE = Settings(proxy_cors_origins=("https://a.example",))
ONE_PAGE_KEYED = Settings(proxy_api_keys=("k",), proxy_cors_origins=("https://a.example",))
EXTENSION = Settings(proxy_cors_origins=("null", "chrome-extension://abcdefgh"))
ALL_PAGES = Settings(proxy_cors_origins=("*",))
NO_PAGE = Settings(proxy_api_keys=("k",), proxy_cors_origins=())


def headers(**values: str) -> Callable[[str], str | None]:
    """A request's headers, looked up without regard to case."""
    lowered = {name.lower().replace("_", "-"): value for name, value in values.items()}
    return lambda name: lowered.get(name.lower())


@pytest.mark.parametrize("sent", [{}, {"Authorization": "Bearer anything"}, {"api_key": "x"}])
def test_without_keys_everybody_is_let_in_as_nobody(sent: dict[str, str]) -> None:
    assert Keys([]).caller(headers(**sent)) is LOCAL
    assert Keys([], anonymous=ANONYMOUS).caller(headers(**sent)) is ANONYMOUS


@pytest.mark.parametrize(
    "sent",
    [
        {"Authorization": "Bearer first"},
        {"Authorization": "bearer first"},
        {"Authorization": "BEARER   first  "},
        {"api_key": "first"},
        {"api_key": " first "},
        {"api_key": "wrong", "Authorization": "Bearer first"},
        {"api_key": "first", "Authorization": "Bearer wrong"},
        {"api_key": "first", "Authorization": "Basic Zm9v"},
    ],
)
def test_a_key_is_taken_from_either_header(sent: dict[str, str]) -> None:
    keys = Keys(["first", "second"])
    assert keys.caller(headers(**sent)) == keys.caller(headers(Authorization="Bearer first"))
    assert keys.caller(headers(**sent)) != keys.caller(headers(Authorization="Bearer second"))


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer first second"},
        {"Authorization": "first"},
        {"Authorization": "Basic first"},
        {"Authorization": "Bearer First"},
        {"Authorization": "Bearer firs"},
        {"Authorization": "Bearer \udcff"},
        {"api_key": ""},
        {"api_key": "wrong"},
        {"x_api_key": "first"},
    ],
)
def test_every_wrong_key_is_refused_alike(sent: dict[str, str]) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        Keys(["first", "second"]).caller(headers(**sent))
    assert str(caught.value) == "Incorrect API key provided: send a client key of this server."


def test_a_callers_name_tells_nothing_of_the_key() -> None:
    caller = Keys(["sk-very-secret"]).caller(headers(api_key="sk-very-secret"))
    assert caller == Caller(caller.name)
    assert caller.name.startswith("key-")
    assert not any(part in caller.name for part in ("very", "secret", "sk-"))
    assert "sk-very-secret" not in repr(vars(Keys(["sk-very-secret"])))


@pytest.mark.parametrize(
    ("settings", "origin", "is_allowed"),
    [
        (OPEN, "http://localhost:5173", True),
        (OPEN, "https://127.0.0.1", True),
        (OPEN, "http://[::1]:3000", True),
        (OPEN, "https://evil.example", False),
        (OPEN, "http://localhost.evil.example", False),
        (OPEN, "http://localhost@evil.example", False),
        (OPEN, "ftp://localhost", False),
        (OPEN, "null", False),
        (OPEN, "http://[", False),
        (OPEN, "http://", False),
        (OPEN, "", False),
        (OPEN, "tauri://localhost", True),
        (OPEN, "http://tauri.localhost", True),
        (OPEN, "https://app.localhost:1420", True),
        (OPEN, "app://obsidian.md", True),
        (OPEN, "capacitor://localhost", True),
        (OPEN, "ionic://localhost", True),
        (OPEN, "vscode-webview://0a1b2c", True),
        (OPEN, "http://evillocalhost", False),
        (OPEN, "http://app.localhost.evil.example", False),
        (OPEN, "chrome-extension://abcdefgh", False),
        (OPEN, "moz-extension://abcdefgh", False),
        (OPEN, "file://", False),
        (OPEN, "app", False),
        (EXTENSION, "chrome-extension://abcdefgh", True),
        (EXTENSION, "null", True),
        (EXTENSION, "chrome-extension://other", False),
        (KEYED, "https://any.example", True),
        (KEYED, "null", True),
        (ONE_PAGE, "https://a.example", True),
        (ONE_PAGE, "https://a.example.evil.example", False),
        (ONE_PAGE, "http://localhost", False),
        (ONE_PAGE_KEYED, "https://b.example", False),
        (ALL_PAGES, "https://any.example", True),
        (NO_PAGE, "https://a.example", False),
    ],
)
def test_origins_are_allowed_as_set_else_any_with_keys_else_local_ones(
    settings: Settings, origin: str, is_allowed: bool
) -> None:
    assert is_origin_allowed(origin, settings, is_open=settings.is_anonymous) is is_allowed


@pytest.mark.parametrize("origin", [None, "", "http://localhost:3000"])
def test_a_call_that_is_no_foreign_page_is_taken(origin: str | None) -> None:
    check_origin(origin, "localhost", OPEN, is_open=True)


@pytest.mark.parametrize("settings", [KEYED, ONE_PAGE_KEYED, NO_PAGE, ALL_PAGES])
def test_a_foreign_page_is_not_refused_where_a_key_protects_us_or_all_are_wanted(settings: Settings) -> None:
    check_origin("https://evil.example", "localhost", settings, is_open=settings.is_anonymous)


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
@pytest.mark.parametrize("settings", [OPEN, ONE_PAGE])
def test_a_foreign_page_is_refused_where_no_key_protects_us(settings: Settings, origin: str) -> None:
    with pytest.raises(OriginNotAllowed, match="PROXY_CORS_ORIGINS"):
        check_origin(origin, "localhost", settings, is_open=settings.is_anonymous)


OWN_PAGES = ("http://10.1.2.3:8000", "https://[fd00::1]", "http://localhost:8000", "https://ai.example.com")


@pytest.mark.parametrize("origin", OWN_PAGES)
def test_the_page_of_this_server_is_never_foreign(origin: str) -> None:
    settings = replace(PUBLIC, proxy_cors_origins=("https://a.example",))
    check_origin(origin, origin.partition("://")[2], settings, is_open=True)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example:8000", "evil.example:8000"),  # its own name may have been made to lead here
        ("http://10.1.2.3:9000", "10.1.2.3:8000"),
        ("http://10.1.2.3", "10.1.2.4"),
        ("null", "null"),
        ("10.1.2.3", ""),
        ("http://", ""),
        ("http://10.1.2.3.evil.example", "10.1.2.3.evil.example"),
    ],
)
def test_a_page_under_a_name_that_others_can_have_lead_here_is_foreign(origin: str, host: str) -> None:
    with pytest.raises(OriginNotAllowed):
        check_origin(origin, host, OPEN, is_open=True)


@pytest.mark.parametrize(
    ("settings", "origin", "allowed"),
    [
        (OPEN, None, None),
        (OPEN, "", None),
        (OPEN, "https://evil.example", None),
        (OPEN, "http://localhost:3000", "http://localhost:3000"),
        (KEYED, "https://any.example", "*"),
        (ONE_PAGE, "https://a.example", "https://a.example"),
        (ONE_PAGE_KEYED, "https://a.example", "https://a.example"),
        (ONE_PAGE_KEYED, "https://b.example", None),
        (ALL_PAGES, "https://any.example", "https://any.example"),
    ],
)
def test_cors_headers_name_the_page_that_may_read(
    settings: Settings, origin: str | None, allowed: str | None
) -> None:
    given = cors_headers(origin, None, settings, is_open=settings.is_anonymous)
    assert given.get("Access-Control-Allow-Origin") == allowed
    assert ("Access-Control-Expose-Headers" in given) is (allowed is not None)
    assert "Access-Control-Allow-Headers" not in given
    assert "Access-Control-Allow-Credentials" not in given
    assert (given.get("Vary") == "Origin") is (allowed is not None)


def test_a_preflight_is_told_methods_and_the_headers_it_asked_for() -> None:
    given = cors_headers("https://any.example", "authorization, x-special", KEYED, is_open=False)
    assert given["Access-Control-Allow-Headers"] == "authorization, x-special"
    assert given["Access-Control-Allow-Methods"] == "GET, POST, DELETE, OPTIONS"
    assert given["Access-Control-Max-Age"] == "600"
    assert "Access-Control-Allow-Credentials" not in given


def test_a_preflight_of_a_page_on_the_web_is_let_into_a_private_network() -> None:
    given = cors_headers("tauri://localhost", "", OPEN, is_open=True)
    assert given["Access-Control-Allow-Private-Network"] == "true"
    assert "Access-Control-Allow-Private-Network" not in cors_headers(
        "tauri://localhost", None, OPEN, is_open=True
    )
    assert cors_headers("https://evil.example", "", OPEN, is_open=True) == {}


PUBLIC = Settings(proxy_public_url="https://ai.example.com/x")
OWN_NAMES = (
    *("localhost", "localhost:8000", "LocalHost.:8000", "127.0.0.1:8000", "127.8.9.1", "[::1]:8000"),
    *("app.localhost", "host.docker.internal:8000", "host.containers.internal"),
)
FOREIGN_NAMES = (
    *("evil.com", "evil.com:8000", "10.1.2.3", "localhost.evil.com", "127.0.0.1.evil.com", "[::2]"),
    *("", ":8000", "[", "localhost@evil.com", "evillocalhost", "ai.example.com"),
)


@pytest.mark.parametrize("host", OWN_NAMES)
def test_a_server_without_keys_answers_to_names_of_its_machine(host: str) -> None:
    check_host(host, "HTTP/1.1", OPEN, is_open=True)


@pytest.mark.parametrize("host", FOREIGN_NAMES)
def test_a_server_without_keys_answers_to_no_other_name(host: str) -> None:
    with pytest.raises(HostNotAllowed, match="PROXY_PUBLIC_URL"):
        check_host(host, "HTTP/1.1", OPEN, is_open=True)
    # A key, or the wish to let anybody in, makes names unimportant.
    check_host(host, "HTTP/1.1", KEYED, is_open=False)
    check_host(host, "HTTP/1.1", Settings(host="0.0.0.0"), is_open=True)


def test_the_name_of_the_public_address_is_ours() -> None:
    check_host("ai.example.com:8443", "HTTP/1.1", PUBLIC, is_open=True)
    with pytest.raises(HostNotAllowed):
        check_host("example.com", "HTTP/1.1", PUBLIC, is_open=True)


@pytest.mark.parametrize("settings", [OPEN, KEYED])
def test_no_host_is_right_before_http_1_1_alone(settings: Settings) -> None:
    check_host(None, "HTTP/1.0", settings, is_open=settings.is_anonymous)
    with pytest.raises(BadRequest, match="Host"):
        check_host(None, "HTTP/1.1", settings, is_open=settings.is_anonymous)


def test_a_preflight_that_asks_for_no_header_is_told_those_of_the_openai_clients() -> None:
    given = cors_headers("https://any.example", "", KEYED, is_open=False)[
        "Access-Control-Allow-Headers"
    ].split(", ")
    assert {"authorization", "api-key", "content-type", "x-stainless-lang", "x-stainless-timeout"} <= set(
        given
    )
    assert "*" not in given


def test_a_page_can_read_when_and_whether_to_try_again() -> None:
    exposed = cors_headers("https://any.example", None, KEYED, is_open=False)[
        "Access-Control-Expose-Headers"
    ].split(", ")
    assert {"x-request-id", "retry-after", "retry-after-ms", "x-should-retry"} <= set(exposed)


def digest(key: str) -> str:
    """A key as `proxy.yaml` has it."""
    return hashlib.sha256(key.encode()).hexdigest()


def test_each_digest_of_a_name_is_a_key_of_the_same_caller() -> None:
    keys = Keys((), [KeyConfig("sales", (digest("old"), digest("new")), admin=True)])
    old, new = (keys.caller({"api-key": key}.get) for key in ("old", "new"))
    assert old == new
    assert (new.name, new.is_admin) == ("sales", True)


def test_a_key_is_valid_until_it_expires() -> None:
    now = 100.0
    keys = Keys((), [KeyConfig("sales", (digest("key"),), expires=101.0)], clock=lambda: now)
    assert keys.caller({"api-key": "key"}.get).name == "sales"
    now = 101.0
    with pytest.raises(NotAuthenticated, match="has expired") as caught:
        keys.caller({"api-key": "key"}.get)
    assert caught.value.code == "api_key_expired"


def test_a_key_that_can_be_guessed_is_told_once_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys((), [KeyConfig("sales", (digest("hunter2"), digest("k" * 16)))])
    keys.caller({"api-key": "k" * 16}.get)
    assert not caplog.records
    keys.caller({"api-key": "hunter2"}.get)
    keys.caller({"api-key": "hunter2"}.get)
    assert caplog.messages == ["the key sales is too short: it has fewer than 16 characters"]


def test_a_named_key_brings_its_models_and_limits() -> None:
    named = KeyConfig("sales", (digest("key"),), ("sales-*",), 5, 2)
    caller = Keys((), [named]).caller({"api-key": "key"}.get)
    assert (caller.name, caller.allowance) == ("sales", Allowance(5, 2))
    assert caller.may_use(["x", "sales-team"])
    assert not caller.may_use(["x", "Sales-team"])


def test_keys_passed_through_are_flowises_to_judge() -> None:
    keys = Keys(passes_through=True)
    assert not keys.is_open
    assert keys.caller({"Authorization": "Bearer theirs"}.get).flowise_key == "theirs"
    assert "theirs" not in keys.caller({"api-key": "theirs"}.get).name
    with pytest.raises(NotAuthenticated):
        keys.caller(lambda _: None)


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("https://ai.example.com", "localhost:8000", True),  # nginx's own Host
        ("https://ai.example.com", "ai.example.com", True),
        ("http://ai.example.com", "ai.example.com", False),
        ("https://ai.example.com:8443", "ai.example.com:8443", False),
        ("http://localhost:8000", "localhost:8000", True),
        ("https://other.example.com", "localhost:8000", False),
    ],
)
def test_behind_a_proxy_the_page_is_the_public_urls(origin: str, host: str, *, is_own: bool) -> None:
    settings = Settings(proxy_public_url="https://ai.example.com/flows", proxy_cors_origins=())
    if is_own:
        check_origin(origin, host, settings, is_open=True)
    else:
        with pytest.raises(OriginNotAllowed):
            check_origin(origin, host, settings, is_open=True)
