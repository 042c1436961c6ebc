"""A way to a server that tests may block: refused, hung, or cut in the middle of an answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["open", "refused", "hung", "cut"]
CUT_BYTES = 20  # of an answer: not even its first line


@dataclass
class Way:
    """Forwards TCP connections to `port` of this machine, as `mode` says at the moment."""

    port: int
    mode: Mode = "open"
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    @contextmanager
    def block(self, mode: Mode) -> Iterator[None]:
        """What is open is closed, as by whatever went wrong; and nothing comes through."""
        self._become(mode)
        try:
            yield
        finally:
            self._become("open")

    def serve(self) -> None:
        """Until the listener is closed for good."""
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.mode == "refused":  # as near as one comes with a listener: reset at once
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
            else:
                self.connections.append(client)
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def end(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self._become("open")
        self.listener.close()

    def _become(self, mode: Mode) -> None:
        self.mode = mode
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def _carry(self, client: socket.socket) -> None:
        if self.mode == "hung":
            with suppress(OSError):
                while client.recv(65_536):
                    pass
            client.close()
            return
        with client, socket.create_connection(("127.0.0.1", self.port)) as server:
            self.connections.append(server)
            asking = threading.Thread(target=self._copy, args=(client, server, None), daemon=True)
            asking.start()
            self._copy(server, client, CUT_BYTES if self.mode == "cut" else None)
            asking.join(60)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket, most: int | None) -> None:
        with suppress(OSError):
            while part := source.recv(65_536):
                target.sendall(part[:most])
                if most is not None:
                    break
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def way_to(port: int) -> Iterator[Way]:
    """An open way to `port`."""
    way = Way(port)
    thread = threading.Thread(target=way.serve)
    thread.start()
    try:
        yield way
    finally:
        way.end()
        thread.join()
