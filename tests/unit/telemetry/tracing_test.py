"""When traces are sent, and what is said when they cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flowise_gateway.telemetry.tracing import is_wanted, open_tracing, tracing_problem

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
PROJECT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "console"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "false"}, True),
    ],
)
def test_the_standard_variables_switch_it_on(environ: dict[str, str], wanted: bool) -> None:
    assert is_wanted(environ) is wanted
    if not wanted:
        assert open_tracing(environ) is None
        assert tracing_problem(environ) == ""


def test_a_protocol_that_is_not_there_is_told() -> None:
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        environ = {**ENDPOINT, name: "grpc"}
        assert "not grpc" in tracing_problem(environ)
        assert open_tracing(environ) is None
        assert tracing_problem({**ENDPOINT, name: "http/protobuf"}) == ""


def test_without_the_extra_the_start_says_what_to_install() -> None:
    # A process in which the package cannot be found, as where the extra is not installed.
    program = (
        "import sys; sys.modules['opentelemetry'] = None; import importlib.util as u; real = u.find_spec\n"
        "from flowise_gateway.telemetry.tracing import open_tracing, tracing_problem\n"
        f"print(tracing_problem({ENDPOINT!r})); print(open_tracing({ENDPOINT!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, timeout=60, check=False
    )
    assert done.stdout.splitlines() == [
        "OTEL_*: traces need the extra otel: pip install 'flowise-gateway[otel]'",
        "None",
    ], done.stderr
