"""A dict of bounded size."""

from __future__ import annotations

from flowise_gateway.flow.lru import LRU


def test_the_entry_set_longest_ago_is_dropped_and_setting_it_again_keeps_it() -> None:
    lru: LRU[str, int] = LRU(2)
    lru.update(a=1, b=2)
    lru["a"] = 3
    assert lru["b"] == 2, "reading is no use of an entry"
    lru.setdefault("c", 4)
    assert dict(lru) == {"a": 3, "c": 4}
