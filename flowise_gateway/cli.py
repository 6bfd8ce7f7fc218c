"""The command line: `flowise-gateway serve | reload | check | models | keys new | ask | backup | …`."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flowise_gateway import __version__
from flowise_gateway.config.yaml_document import ConfigError
from flowise_gateway.flow.errors import ProxyError, SettingsError

INTERRUPTED = 130
BROKEN_PIPE = 141
MAX_SECONDS = 3600
"""The statuses that a shell gives for a program ended by SIGINT and by SIGPIPE: 128 and the signal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when all is well, 1 when something is not, 2 for a wrong call or setting."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(options)
        sys.stdout.flush()
        return status
    except (SettingsError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ProxyError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Python flushes standard output at exit, which would fail again on the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {MAX_SECONDS}")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flowise-gateway", description="OpenAI-compatible API for Flowise.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser("serve", help="run the server").set_defaults(command="serve")
    reload = commands.add_parser("reload", help="reload the settings of the running server without downtime")
    reload.add_argument("--release", action="store_true", help="also switch to the installed release")
    reload.set_defaults(command="reload")
    check = commands.add_parser("check", help="test the connection to Flowise and list its flows")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(command="check")
    models = commands.add_parser("models", help="list the models that clients see")
    models.add_argument("--json", action="store_true", help="print JSON")
    models.set_defaults(command="models")
    keys = commands.add_parser("keys", help="client keys").add_subparsers(required=True, metavar="command")
    new = keys.add_parser("new", help="generate a key and its lines for proxy.yaml")
    new.add_argument("name", nargs="?", default="client")
    new.set_defaults(command="new_key")
    ask = commands.add_parser("ask", help="send a question to a model and stream the answer")
    ask.add_argument("model")
    ask.add_argument("question")
    ask.set_defaults(command="ask")
    backup = commands.add_parser("backup", help="back up the store's file while servers use it")
    backup.add_argument("path", type=Path, help="the backup file; it must not exist yet")
    backup.set_defaults(command="backup")
    pipelines = commands.add_parser(
        "pipelines", help="serve the pipelines of proxy.yaml through Flowise's API"
    )
    pipelines.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; non-loopback ones need PROXY_PIPELINES_KEY"
    )
    pipelines.add_argument(
        "--port", default="0", help="port to listen on; 0, the default, selects a free one"
    )
    pipelines.set_defaults(command="pipelines")
    conformance = commands.add_parser("conformance", help="test any OpenAI-compatible server")
    _add_conformance(conformance)
    usage = commands.add_parser("usage", help="show requests and tokens by day, key, user or model")
    usage.add_argument(
        "--from", metavar="DAY", help="the first day, such as 2026-11-01; default: 30 days ago"
    )
    usage.add_argument("--to", metavar="DAY", help="the last day; default: today, in UTC")
    usage.add_argument("--by", default="day", help="comma-separated: day, key, user, model")
    usage.add_argument("--format", choices=("table", "json", "csv"), default="table")
    usage.set_defaults(command="usage")
    return parser


def _add_conformance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="base URL of the server, with or without /v1")
    parser.add_argument("--model", required=True, help="a model that accepts images and tools")
    parser.add_argument("--key", default="key", help="API key for the server")
    parser.add_argument("--json", action="store_true", help="print JSON")
    longest = "limit for one case (60); all cases together have ten times as long"
    parser.add_argument("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help=longest)
    parser.set_defaults(command="conformance")


def _run(options: argparse.Namespace) -> int:
    # Loaded by name, one or the other: gevent must patch the standard library before anything that serving
    # uses is imported, and the commands import sockets and TLS.
    if options.command == "serve":
        return int(importlib.import_module("flowise_gateway.serving.main").main())
    if options.command == "pipelines":
        host = importlib.import_module("flowise_gateway.pipelines.__main__")
        return int(host.main(["--host", options.host, "--port", options.port]))
    if options.command == "conformance":
        return int(importlib.import_module("flowise_gateway.conformance.run").main(options))
    commands = importlib.import_module("flowise_gateway.commands")
    return int(getattr(commands, options.command)(options))
