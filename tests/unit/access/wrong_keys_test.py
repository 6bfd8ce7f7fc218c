"""Wrong keys of one address: so many a minute, and no lock-out of those who share the address."""

from __future__ import annotations

import logging

import pytest

from flowise_gateway.access.keys import Keys
from flowise_gateway.access.wrong_keys import MAX_ADDRESSES, MAX_WRONG_KEYS, WrongKeys
from flowise_gateway.flow.errors import NotAuthenticated, TooManyWrongKeys, error_headers


class Door:
    """Keys with one right key, at which addresses try."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wrong_keys = WrongKeys(lambda: self.now)
        self.keys = Keys(["a-right-key-of-ours"], wrong_keys=self.wrong_keys)

    def tries(self, address: str, key: str = "wrong") -> str:
        """What becomes of a key."""
        try:
            return self.keys.caller({"api-key": key}.get, address).name[:4]
        except NotAuthenticated:
            return "401"
        except TooManyWrongKeys:
            return "429"

    def right(self, address: str) -> str:
        return self.tries(address, "a-right-key-of-ours")


def test_so_many_wrong_keys_a_minute_are_answered_the_rest_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = Door()
    with caplog.at_level(logging.WARNING):
        assert [door.tries("192.0.2.1") for _ in range(MAX_WRONG_KEYS + 2)] == [
            *["401"] * MAX_WRONG_KEYS,
            "429",
            "429",
        ]
    (line,) = caplog.messages
    assert "192.0.2.1" in line
    assert door.wrong_keys.refusals == 2
    assert door.right("192.0.2.1") == "key-", "else one client could lock out all who share its address"
    assert (door.tries("192.0.2.2"), door.right("192.0.2.3")) == ("401", "key-")
    door.now += 30
    with pytest.raises(TooManyWrongKeys) as caught:
        door.keys.caller({"api-key": "x"}.get, "192.0.2.1")
    assert error_headers(caught.value) == {
        "Retry-After": "30",
        "retry-after-ms": "30000",
        "x-should-retry": "false",
    }
    door.now += 30
    assert door.tries("192.0.2.1") == "401"


def test_a_request_without_a_key_is_no_guess() -> None:
    door = Door()
    for _ in range(2 * MAX_WRONG_KEYS):
        with pytest.raises(NotAuthenticated):
            door.keys.caller(lambda _: None, "192.0.2.1")
    assert door.tries("192.0.2.1") == "401"


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("no:address", "no:address", True),
        ("", "192.0.2.1", False),
    ],
)
def test_an_address_of_ipv6_is_its_network(first: str, second: str, is_one: bool) -> None:
    door = Door()
    for _ in range(MAX_WRONG_KEYS):
        door.tries(first)
    assert door.tries(second) == ("429" if is_one else "401")


def test_a_hundred_thousand_addresses_take_bounded_memory() -> None:
    door = Door()
    for number in range(2 * MAX_ADDRESSES):
        door.tries(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(door.wrong_keys._wrong) == MAX_ADDRESSES
