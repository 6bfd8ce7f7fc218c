"""Two gateways on one Redis, with budgets and limits: `python -m benchmarks.exact_counts [--requests 10000]`.

Ends with an error unless what the clients saw, the logs, the metrics, the report of usage and Redis agree.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.counted_load import Load, check_all_agree, write_file
from tests.support.demo_server import DemoServer
from tests.support.processes import free_port
from tests.support.running_proxy import RunningProxy


def main() -> None:
    """Send the requests, compare, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2, help="of each gateway")
    options = parser.parse_args()
    redis = shutil.which("redis-server")
    assert redis, "redis-server is needed (apt-get install redis-server)"
    port = free_port()
    command = [redis, "--port", str(port), "--save", "", "--bind", "127.0.0.1"]
    url = f"redis://127.0.0.1:{port}/0"
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.DEVNULL) as server,
        DemoServer("--token-seconds", "0.001") as flowise,
    ):
        settings = {
            "FLOWISE_BASE_URL": flowise.base_url,
            "PROXY_STORE": url,
            "PROXY_SECRET": "the same on both machines",
            "WORKERS": str(options.workers),
        }
        folders = [write_file(Path(folder) / name, options.requests) for name in ("one", "two")]
        try:
            with RunningProxy(folders[0], **settings) as one, RunningProxy(folders[1], **settings) as two:
                load, began = Load([one, two], options.clients), time.monotonic()
                load.send(options.requests)
                seconds = time.monotonic() - began
                print(f"{options.requests} requests in {seconds:.0f} s, {options.workers} workers each")
                for line in check_all_agree(load, [one, two], url, options.requests // 5):
                    print(line)
                print("clients, logs, metrics, usage and Redis agree")
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
