"""What the server and the application share of a request."""

from __future__ import annotations

from typing import Any

from flowise_gateway.flow.request_scope import request_scope


def test_a_request_has_one_scope_for_all_layers() -> None:
    environ: dict[str, Any] = {}
    assert request_scope(environ) is request_scope(environ)
    assert request_scope({}) is not request_scope(environ)


def test_without_a_serving_process_its_part_does_nothing() -> None:
    scope = request_scope({})
    scope.watch_client()
    assert not scope.is_draining()
    assert scope.connection is scope.write_now is None
    with scope.ended_with_runs():
        pass


def test_what_waits_for_the_end_is_called_once_last_first() -> None:
    scope = request_scope({})
    called: list[int] = []
    scope.on_close += [lambda: called.append(1), lambda: called.append(2)]
    scope.close()
    scope.close()
    assert called == [2, 1]
