"""`python -m serving`: the service until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pipelines.home import Home
from pipelines.keys import all_keys
from pipelines.store import Store
from serving.ports import own_ports
from serving.run import Address, await_ready, read_config, serving
from serving.settings import Settings
from tsformer.errors import TsformerError, UnavailableError


def main(arguments: Sequence[str]) -> int:
    """Serves as `arguments` say; what is left out is as configs/serve.yaml says."""
    given = _parser().parse_args(arguments)
    stop = threading.Event()

    def leave(_signal: int, _frame: FrameType | None) -> None:
        if stop.is_set():  # a second signal while stopping changes nothing
            return
        stop.set()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    try:
        _serve(given)
    except TsformerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(given: argparse.Namespace) -> None:
    config = read_config(given.config)
    http: dict[str, Any] = config["http_options"]
    address = Address(
        given.host or http["host"], http["port"] if given.port is None else given.port
    )
    if given.model:
        arguments = config["applications"][0]["args"]
        arguments["models"] = {**arguments.get("models", {}), "default": given.model}
    home = Home.of(os.environ)

    def say(reason: str) -> None:
        print(f"Not ready yet: {reason} The log is in {home.logs}.", file=sys.stderr, flush=True)

    with serving(config, address, home=home) as url:
        print(f"Listening at {url}, {access(home)} Loading ...", flush=True)
        doors = Settings.read(config["applications"][0]["args"]).server.replicas
        own = own_ports(address.port, doors)
        if doors > 1:
            print(f"{doors} ingresses share it; each by itself: {own[0]} to {own[-1]}.", flush=True)
        if address.everywhere:
            print("Names that clients call it by belong in server.allowed_hosts.", flush=True)
        try:
            for port in dict.fromkeys((*own, address.port)):  # the one that is shared opens last
                await_ready(Address(address.host, port).url, report=say)
            print(f"Ready. What it can do: {url}/docs", flush=True)
        except UnavailableError as error:
            print(f"Not ready yet, still trying. {error}", file=sys.stderr, flush=True)
        while True:
            signal.pause()


def access(home: Home) -> str:
    """Who may ask, as a sentence."""
    try:
        known = all_keys(Store.of(home)).keys
    except UnavailableError as error:  # it may come back; until then nobody is let in
        return f"closed: {error}"
    if known:
        return "for those who send a key (tsformer keys list)."
    return (
        "open to this machine alone, since there is no key. To guard it and to serve others: "
        "tsformer keys add --role operator."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="serving", description="Forecasts over HTTP.")
    parser.add_argument("--config", type=Path, help="Default: configs/serve.yaml.")
    parser.add_argument("--host", help="Address to listen on.")
    parser.add_argument("--port", type=int, help="Port to listen on.")
    parser.add_argument("--model", help="The model of requests that name none.")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
