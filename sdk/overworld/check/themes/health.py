"""The standard services around the contract's: health and reflection."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError

from overworld.check.case import Case, check
from overworld.check.wire import SERVICE
from overworld.service.extras import needs_extra

with needs_extra("check"):
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2

_HEALTH = "grpc.health.v1.Health"
_REFLECTIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_MAX_ANSWERS = 8


def health(case: Case, service: str) -> str:
    """The name of the status, or the error. Without a token, since probes have none."""
    stub: Any = health_pb2_grpc.HealthStub(case.run.wire.channel)
    try:
        status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=case.run.wire.timeout).status
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    known: Any = health_pb2.HealthCheckResponse.ServingStatus
    return str(known.Name(status)) if status in known.values() else f"status {status}"


@check("H1")
def is_told_without_a_token(case: Case) -> None:
    """Health.Check for "" and for the service."""
    expected = "NOT_SERVING" if case.run.draining else "SERVING"
    for service in ("", SERVICE):
        if (status := health(case, service)) != expected:
            case.finding("H1", f"{_HEALTH}/Check of {service!r}", came=status, expected=expected)


@check("H2")
def reflection_describes_the_service(case: Case) -> None:
    """Reflection, in either version, lists the service and gives the file that describes it."""
    failures = []
    for name in _REFLECTIONS:  # their messages are the same on the wire
        try:
            listed = _ask(case, name, reflection_pb2.ServerReflectionRequest(list_services=""))
        except (grpc.RpcError, DecodeError) as error:
            code = error.code().name if isinstance(error, grpc.RpcError) else "bytes that cannot be decoded"
            failures.append(f"{name}: {code}")
            continue
        names = [service.name for answer in listed for service in answer.list_services_response.service]
        if SERVICE not in names:
            case.finding("H2", f"{name}: list_services", came=f"{names[:20]}", expected=f"{SERVICE} among them")
            return
        try:
            described = _ask(case, name, reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE))
        except (grpc.RpcError, DecodeError) as error:
            case.finding("H2", f"{name}: file_containing_symbol", came=repr(error)[:200], expected="its descriptor")
            return
        files = [data for answer in described for data in answer.file_descriptor_response.file_descriptor_proto]
        if not any(b"EnvService" in data for data in files):
            case.finding(
                "H2",
                f"{name}: file_containing_symbol {SERVICE}",
                came=f"{len(files)} files without it",
                expected="the file that describes the service",
            )
        return
    case.finding("H2", "ServerReflectionInfo: list_services", came="; ".join(failures), expected="server reflection")


def _ask(case: Case, name: str, request: reflection_pb2.ServerReflectionRequest) -> list[Any]:
    """The answers to one question, bounded in number and time. Raises RpcError or DecodeError."""
    stub: Any = case.run.wire.channel.stream_stream(f"/{name}/ServerReflectionInfo")
    call = stub(iter([request.SerializeToString()]), timeout=case.run.wire.timeout, metadata=case.run.wire.metadata)
    answers = []
    for data in call:
        answers.append(reflection_pb2.ServerReflectionResponse.FromString(data))
        if len(answers) == _MAX_ANSWERS:
            call.cancel()
            break
    return answers
