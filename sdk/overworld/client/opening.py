"""Opening a session on a server, with shared memory where client and server can both map it."""

from __future__ import annotations

import functools
import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from overworld.authoring.env import EnvSpec
from overworld.client.channel import Channel
from overworld.contract.frames import map_for_reading
from overworld.contract.wire import spec_from_proto
from overworld.errors import ServerBrokenError, ServerChangedError
from overworld.v1 import env_pb2 as pb

_DEFAULT_REQUEST_BYTES = 4 << 20
"""Where the server does not say: gRPC's own default."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a server granted."""

    spec: EnvSpec
    options: dict[str, Any]
    provenance_digest: str
    lease: float
    """Seconds."""
    shared: mmap.mmap | None
    """The memory that frames come through; None: they come inline."""
    compressed: bool
    """Whether inline frames may be compressed."""
    max_request_bytes: int
    """Of a Step."""

    @functools.cached_property
    def vocabulary(self) -> frozenset[str]:
        """Of the spec's actions."""
        return frozenset(self.spec.action.vocabulary)


def open_session(
    channel: Channel, request: pb.OpenRequest, *, shared_memory: bool, compress: bool, before: Opened | None
) -> Opened:
    """Opens the session, with shared memory if that is allowed and works, else with compression if that is wanted.

    `before` is what was granted the last time, if the session was open before: the server must not have changed since.
    Raises ServerChangedError if it has, and what `Channel.call` raises.
    """
    info = channel.ask()
    channel.keep_alive(info)
    shared = pb.TRANSPORT_SHARED_MEMORY
    inline = [pb.TRANSPORT_INLINE_LZ4, pb.TRANSPORT_INLINE] if compress else [pb.TRANSPORT_INLINE]
    response = _send(channel, request, [shared, *inline] if shared_memory else inline)
    memory = None
    if response.transport == shared:
        memory = map_for_reading(response.shared)
        if memory is None:  # the server is on another machine, or in another container
            response = _send(channel, request, inline)
    if before is not None and before.provenance_digest not in ("", response.provenance_digest):
        raise ServerChangedError(
            f"{channel.address} now runs {request.env_id} with other data, rules or options than before "
            f"({dict(response.spec.provenance)}), so results would not be comparable: start again from the beginning"
        )
    with channel.reading("Open"):
        if response.spec.id != request.env_id:
            raise ValueError(f"the spec is that of {response.spec.id!r}; {request.env_id!r} was asked for")
        options = json.loads(response.options_json)
        if not isinstance(options, dict):
            raise ValueError(f"options_json is {response.options_json[:100]!r}; a JSON object was expected")
        lease = response.lease.seconds + response.lease.nanos / 1e9
        if not lease > 0:
            raise ValueError(f"it grants a lease of {lease:g} s; it must be longer than 0")
        return Opened(
            spec=spec_from_proto(response.spec),
            options=options,
            provenance_digest=response.provenance_digest,
            lease=lease,
            shared=memory,
            compressed=response.transport == pb.TRANSPORT_INLINE_LZ4,
            max_request_bytes=info.max_request_bytes or _DEFAULT_REQUEST_BYTES,
        )


def _send(channel: Channel, request: pb.OpenRequest, transports: Sequence[pb.Transport]) -> pb.OpenResponse:
    wanted = pb.OpenRequest(transports=transports)
    wanted.MergeFrom(request)
    data = channel.call("Open", wanted)
    with channel.reading("Open"):
        response = pb.OpenResponse.FromString(data)
    if response.transport not in transports:
        raise ServerBrokenError(f"{channel.address} granted a transport that was not asked for: {response.transport}")
    return response
