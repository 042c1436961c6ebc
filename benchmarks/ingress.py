"""Which door of Ray Serve costs what: the ingress itself, Serve's Python proxy, the bundled HAProxy.

    unshare -rn sh -c 'ip link set lo up && python -m benchmarks.ingress [--seconds 3] [--rounds 2]'

Each is the whole service in processes of its own, asked for forecasts of one series by 16 clients, in
turns; `direct` is what `tsformer serve` does. HAProxy listens on every address of the machine, which
no setting of Serve changes: hence the network of its own, and no HAProxy without one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.machine import keep, machine
from benchmarks.serving import NAME, forecaster, free_port, in_json, load, register, running
from pipelines.home import Home, configure
from serving.run import ENVIRONMENT, Address, with_host

DOORS = {"direct": {}, "proxy": {}, "haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"}}
CLIENTS = (1, 16)


def serve(door: str, port: int) -> None:
    """The application behind one of the doors, until it is ended."""
    scratch = tempfile.mkdtemp(prefix="tsf-")
    configure(os.environ, role="serving")
    own = {name: value for name, value in ENVIRONMENT.items() if "DIRECT_INGRESS" not in name}
    files = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{scratch}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{scratch}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": scratch,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{scratch}/server-state",
    }
    os.environ |= own | files | DOORS[door] | {"RAY_AUTH_TOKEN": "benchmark" * 8}
    import ray  # reads the environment
    from ray import serve as ray_serve
    from ray.serve.config import HTTPOptions

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error",
             _temp_dir=scratch, _node_ip_address="127.0.0.1")  # fmt: skip
    ray_serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port, request_timeout_s=35))
    from serving.deployments import build

    arguments = with_host({"models": {"default": NAME}}, Address("127.0.0.1", port))
    ray_serve.run(build({**arguments, "jobs": {"at_once": 0}}), name="tsformer")
    while True:
        time.sleep(1)


def measure(doors: Sequence[str], *, seconds: float, rounds: int) -> dict[str, Any]:
    """Requests a second and latency behind each door; the median of the rounds counts."""
    with TemporaryDirectory(prefix="tsf-") as scratch, ExitStack() as stack:
        configure(os.environ, role="training")
        home = Home.of({"TSFORMER_HOME": f"{scratch}/home"})
        register(home, forecaster("small"), Path(scratch) / "artifact")
        environment, ports, found = {"TSFORMER_HOME": str(home.folder)}, {}, dict[str, Any]()
        for door in doors:
            ports[door] = free_port()
            command = ["-m", "serving", "--port", str(ports[door]), "--model", NAME]
            if door != "direct":
                command = ["-m", "benchmarks.ingress", "--serve", door, str(ports[door])]
            stack.enter_context(running(command, ports[door], environment))
        ask = in_json()
        for _ in range(rounds):
            for clients in CLIENTS:
                for door, port in ports.items():
                    row = asyncio.run(load(port, ask, clients=clients, seconds=seconds))
                    found.setdefault(f"{door} {clients}", []).append(row)
    return {
        name: {key: median(row[key] for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }


def main(arguments: Sequence[str]) -> None:
    """Measures, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, each time")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve:
        serve(given.serve[0], int(given.serve[1]))
        return
    alone = [name for _, name in socket.if_nameindex()] == ["lo"]
    doors = [door for door in DOORS if alone or door != "haproxy"]
    found = measure(doors, seconds=given.seconds, rounds=given.rounds)
    for name, row in found.items():
        print(
            f"{name:12} {row['per_second']:7.0f} req/s {row['p50_ms']:7.1f} {row['p99_ms']:7.1f} ms"
        )
    print(keep("ingress", {"machine": machine("ray"), **found}))


if __name__ == "__main__":
    main(sys.argv[1:])
