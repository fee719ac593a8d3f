"""Metrics for Prometheus over HTTP, and health for probes that cannot speak gRPC over TLS, as Kubernetes' cannot.

Bounded: whoever reaches the port can neither take all threads nor all files.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any

from overworld.service import bounds
from overworld.service.extras import needs_extra

with needs_extra("host"):
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import MetricsHandler

_logger = logging.getLogger(__name__)


class MetricsServer(ThreadingHTTPServer):
    """Serves a registry at `host:port`, and at /health whether `healthy()`.

    When too many connections are open, the oldest is closed.

    Raises OSError if the address cannot be listened on.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, healthy: Callable[[], bool] | None = None
    ) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._connections: deque[socket.socket] = deque()
        values = {
            "registry": registry,
            "timeout": bounds.METRICS,
            "healthy": staticmethod(healthy) if healthy else None,
        }
        handler = type("_Handler", (_Handler,), values)
        super().__init__((host, port), handler)
        self._thread = threading.Thread(target=self.serve_forever, name="metrics", daemon=True)

    def start(self) -> None:
        """Begins to serve, on threads of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Ends that."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def get_request(self) -> tuple[socket.socket, Any]:
        """As the base's, but does not spin while no file descriptor is free."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """As the base's, but closes the oldest connection if there are too many."""
        self._connections.append(request)
        if len(self._connections) > bounds.METRICS_CONNECTIONS:
            with contextlib.suppress(OSError):  # it was closed just now
                self._connections.popleft().shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """As the base's."""
        with contextlib.suppress(ValueError):  # it was the oldest of too many
            self._connections.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs it, unless the client just hung up."""
        if not isinstance(sys.exception(), ConnectionError):
            _logger.exception("metrics for %s", client_address)


class _Handler(MetricsHandler):
    healthy: Callable[[], bool] | None

    def do_GET(self) -> None:  # noqa: N802 - as the base has it
        if self.path != "/health" or self.healthy is None:
            super().do_GET()
            return
        well = self.healthy()
        body = b"ok\n" if well else b"not serving\n"
        self.send_response(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
