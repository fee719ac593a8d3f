"""A proxy before a policy server that records what a harness sends.

    python -m tests.integration.policy.harnesses.record http://127.0.0.1:8000 balrog.jsonl --port 8001

Each line is a request: method, path, the headers that a server may look at, the body, and the status of the answer.
Long texts are cut, images are made small, in the format that they had, and a message keeps at most four of them; the
policy server gets the request as it was.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import PIL.Image

KEPT_HEADERS = ("accept", "authorization", "content-type")
_MAX_TEXT = 120
_MAX_IMAGES = 4
_SIDE = 14  # pixels


def main() -> None:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="the policy server, e.g. http://127.0.0.1:8000")
    parser.add_argument("file", type=Path, help="where the requests are written, one a line")
    parser.add_argument("--port", type=int, default=8001)
    arguments = parser.parse_args()
    upstream = urllib.parse.urlsplit(arguments.server).netloc
    lock = threading.Lock()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._forward(b"")

        def do_POST(self) -> None:
            self._forward(self.rfile.read(int(self.headers["Content-Length"])))

        def _forward(self, body: bytes) -> None:
            headers = {name: value for name, value in self.headers.items() if name.lower() in KEPT_HEADERS}
            connection = http.client.HTTPConnection(upstream, timeout=600)
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            answered = answer.read()
            with lock, arguments.file.open("a") as file:
                file.write(json.dumps(_record(self.command, self.path, headers, body, answer.status)) + "\n")
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(answered)))
            self.end_headers()
            self.wfile.write(answered)

    with ThreadingHTTPServer(("127.0.0.1", arguments.port), Proxy) as server:
        server.serve_forever()


def _record(method: str, path: str, headers: dict[str, str], body: bytes, status: int) -> dict[str, Any]:
    return {
        "method": method,
        "path": path,
        "headers": {name.lower(): value for name, value in headers.items()},
        "body": _small(json.loads(body)) if body else None,
        "status": status,
    }


def _small(value: Any) -> Any:
    """The same, with short texts and small images."""
    if isinstance(value, dict):
        return {name: _small(inner) for name, inner in value.items()}
    if isinstance(value, list):
        images = [n for n, inner in enumerate(value) if isinstance(inner, dict) and "image_url" in inner]
        return [_small(inner) for n, inner in enumerate(value) if n not in images[_MAX_IMAGES:]]
    if isinstance(value, str) and value.startswith("data:image/"):
        return _small_image(value)
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        return value[:_MAX_TEXT] + " [...]"
    return value


def _small_image(url: str) -> str:
    """A data URL of the image, at most 14 pixels high and wide, labelled as it was and in the format that it had."""
    label, _, data = url.partition(",")
    image = PIL.Image.open(io.BytesIO(base64.b64decode(data)))
    small = io.BytesIO()
    shrunk = image.copy()
    shrunk.thumbnail((_SIDE, _SIDE))
    shrunk.save(small, image.format)
    return f"{label},{base64.b64encode(small.getvalue()).decode()}"


if __name__ == "__main__":
    main()
