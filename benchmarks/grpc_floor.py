"""What one call costs that does nothing: Python's gRPC without Overworld, unary and as a stream, over TCP.

python grpc_floor.py serve     prints its port
"""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc


async def _serve() -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        return request

    async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    server = grpc.aio.server()
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("floor", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


@contextmanager
def empty_calls() -> Iterator[dict[str, Callable[[], object]]]:
    """An empty unary call, and an empty message there and back on a stream."""
    server = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with grpc.insecure_channel(f"127.0.0.1:{server.stdout.readline().strip()}") as channel:
        unary: Any = channel.unary_unary("/floor/Unary")
        stream: Any = channel.stream_stream("/floor/Stream")
        requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        responses = stream(iter(requests.get, None))

        def there_and_back() -> object:
            requests.put(b"")
            return next(responses)

        yield {"empty call": lambda: unary(b""), "empty message": there_and_back}
        requests.put(None)
    server.kill()
    server.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
