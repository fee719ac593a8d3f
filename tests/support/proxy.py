"""A TCP proxy that can be made to lose, delay, hold back or spoil what passes through it."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time


class Proxy:
    """Passes bytes on between clients and the server at `target`, "host:port"; each fault is off at first.

    cut_after  bytes of the server's next answer after which its link is cut; None again once that was done
    delay      seconds for which each piece is held back, in both directions
    drip       bytes that are passed on at a time; None: as they come
    inserted   bytes that reach the client ahead of the server's next answer
    flips      bits that are still to be flipped: one in each of the next pieces, at a place that `seed` decides
    repeats    pieces that are still to be passed on twice

    `accepted` counts links, `cuts`, `flipped` and `repeated` what was done; `port` fixes where it listens.
    """

    def __init__(self, target: str, *, port: int = 0, seed: int = 0) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_after: int | None = None
        self.delay = 0.0
        self.drip: int | None = None
        self.inserted = b""
        self.flips = 0
        self.repeats = 0
        self.accepted = 0
        self.cuts = 0
        self.flipped = 0
        self.repeated = 0
        self._random = random.Random(seed)
        self._off = self._swallow = False
        self._links: list[socket.socket] = []
        self._frozen: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cuts all links and accepts no more."""
        self._off = True
        _shut(self._listener)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cuts the links that there are; new ones work."""
        with self._lock:
            links = list(self._links)
        for link in links:
            _shut(link)

    def cut_off(self, swallow: bool = False) -> None:
        """Nothing goes through, or with `swallow` only what clients send."""
        self._off, self._swallow = True, swallow
        if not swallow:
            self.cut()

    def freeze(self) -> None:
        """Of what servers send, nothing goes through the links that there are; new links work."""
        self._frozen = set(self._links)

    def restore(self) -> None:
        """Everything goes through again, on new links."""
        self._off = self._swallow = False
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                try:
                    if self._off:
                        raise ConnectionRefusedError
                    host, port = self._target.rsplit(":", 1)
                    server = socket.create_connection((host, int(port)))
                except OSError:  # the server is away
                    client.close()
                    continue
                for link in (client, server):
                    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._links += [client, server]
                threading.Thread(target=self._connect, args=(client, server), daemon=True).start()

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        """Passes on what the two say to each other, until one of them hangs up."""
        answers = threading.Thread(target=self._pass, args=(server, client, True), daemon=True)
        answers.start()
        self._pass(client, server, False)
        answers.join()
        with self._lock:
            self._links = [link for link in self._links if link not in (client, server)]
        client.close()
        server.close()

    def _pass(self, source: socket.socket, sink: socket.socket, from_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if from_server and (self._swallow or source in self._frozen):
                    continue
                if self.delay:
                    time.sleep(self.delay)
                if from_server and self.cut_after is not None:
                    sink.sendall(data[: self.cut_after])
                    self.cut_after = None
                    self.cuts += 1
                    break
                if from_server and self.inserted:
                    sink.sendall(self.inserted)
                    self.inserted = b""
                data = self._spoilt(data)
                step = self.drip or len(data)
                for start in range(0, len(data), step):
                    sink.sendall(data[start : start + step])
        for end in (source, sink):
            _shut(end)

    def _spoilt(self, data: bytes) -> bytes:
        """The data, twice while there are repeats left, else with one bit flipped while there are flips left."""
        with self._lock:
            if self.repeats:
                self.repeats -= 1
                self.repeated += 1
                return data + data
            if not self.flips:
                return data
            self.flips -= 1
            self.flipped += 1
            bit = self._random.randrange(8 * len(data))
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        return bytes(spoilt)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
