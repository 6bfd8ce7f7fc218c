"""Messages of a channel, split in every way."""

from __future__ import annotations

import pytest

from flowise_gateway.pipelines.channel import Kind, Unpacker, packed

MESSAGES = [(Kind.RUN, 1, b"{}"), (Kind.PIECE, 2**31, b""), (Kind.ANSWER, 3, bytes(300))]


@pytest.mark.parametrize("size", [1, 2, 9, 10, 1000])
def test_messages_come_whole(size: int) -> None:
    sent = b"".join(packed(*message) for message in MESSAGES)
    unpacker = Unpacker()
    got = [one for at in range(0, len(sent), size) for one in unpacker.feed(sent[at : at + size])]
    assert got == MESSAGES


def test_what_is_no_message_is_an_error() -> None:
    with pytest.raises(ValueError, match="99"):
        list(Unpacker().feed(bytes([99]) + bytes(8)))
