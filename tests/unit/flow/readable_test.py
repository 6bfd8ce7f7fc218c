"""Values of the store that another version wrote."""

from __future__ import annotations

import zlib

import orjson
import pytest

from flowise_gateway.flow.readable import readable


def test_a_value_is_decoded() -> None:
    assert readable(orjson.loads, b"[1]") == [1]
    assert readable(orjson.loads, None) is None


@pytest.mark.parametrize("raw", [b"", b"garbage", zlib.compress(b"[1]"), zlib.compress(b"5")])
def test_a_value_in_another_form_is_none(raw: bytes) -> None:
    assert readable(lambda packed: orjson.loads(zlib.decompress(packed))["a"], raw) is None
