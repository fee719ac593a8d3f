"""Checksums of requests and responses, so that bits which flip on the way are noticed (rules C1 to C4)."""

from __future__ import annotations

import xxhash

from overworld.v1 import env_pb2 as pb

FEATURE = "checksum"
"""Listed by servers that check requests and whose responses have checksums."""

HEADER = "overworld-checksum"
"""Of a request. In its body a flipped bit might hide it."""

TAG = pb.StepResponse.CHECKSUM_FIELD_NUMBER << 3 | 1
_TAG = bytes((TAG & 0x7F | 0x80, TAG >> 7))
SIZE = len(_TAG) + 8
"""Bytes of a response's field."""

_SERVICE = pb.DESCRIPTOR.services_by_name["EnvService"].full_name


class CorruptedError(ValueError):
    """Bytes that are not those that were sent."""


def request_checksum(method: str, data: bytes) -> str:
    """The header of a request: its serialised message is `data`."""
    return _hash(method, data).hexdigest()


def response_checksum(method: str, data: bytes | memoryview) -> bytes:
    """The field that is to follow the serialised response `data`."""
    return _TAG + _hash(method, data).digest()[::-1]


def with_checksum(method: str, data: bytes) -> bytes:
    """The serialised response `data`, which has no checksum, with one."""
    return data + response_checksum(method, data)


def check_request(method: str, data: bytes, header: str) -> None:
    """Raises CorruptedError unless `header` is the request's checksum."""
    if header != request_checksum(method, data):
        raise CorruptedError(f"the checksum of the request is not {header[:20]!r}: it changed on the way")


def check_response(method: str, data: bytes | memoryview) -> None:
    """Raises CorruptedError unless `data` ends with the checksum of what comes before it."""
    view = memoryview(data)
    if view[-SIZE:] != response_checksum(method, view[:-SIZE]):
        raise CorruptedError("its checksum is not that of its bytes, which changed on the way")


def _hash(method: str, data: bytes | memoryview) -> xxhash.xxh64:
    """The method is part of it: a flipped bit may make one into another."""
    digest = xxhash.xxh64(f"/{_SERVICE}/{method}".encode())
    digest.update(data)
    return digest
