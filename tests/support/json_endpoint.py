"""An HTTP server of a test that answers with JSON."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JsonHandler(BaseHTTPRequestHandler):
    """Reads and sends JSON; subclasses have `do_GET` and `do_POST`."""

    def read(self) -> Any:
        """The body of a POST."""
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def send(self, content: object) -> None:
        """Answers with status 200."""
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving_json(handler: type[JsonHandler]) -> Iterator[str]:
    """Serves it on a port of its own: the base URL of an OpenAI-compatible API there."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
