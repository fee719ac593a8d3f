from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from overworld.contract.status import from_rpc_error, trailing_metadata
from overworld.errors import ContractError, Reason

from tests.support.optional import present

README = Path(__file__).parents[3] / "proto" / "README.md"


def test_the_contracts_readme_lists_every_reason() -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `") and line.count("|") == 5]
    expected = [
        f"| `{reason.name}` | {reason.status or ''} | {reason.meaning} | {reason.retry.value} |" for reason in Reason
    ]
    assert [row for row in rows if row.split("`")[1].isupper()] == expected


Metadata = tuple[tuple[str, str | bytes], ...] | None


class Failed(grpc.RpcError):
    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def trailing_metadata(self) -> Any:
        return self._metadata


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.status])
def test_errors_survive_the_wire(reason: Reason) -> None:
    error = present(from_rpc_error(Failed(trailing_metadata(ContractError(reason, "what happened")))))
    assert (error.reason, error.message) == (reason, "what happened")


def _spoilt_detail() -> bytes:
    detail = any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")
    return status_pb2.Status(details=[detail]).SerializeToString()


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        (),
        (("grpc-status-details-bin", b"\xff\xff"),),
        (("grpc-status-details-bin", _spoilt_detail()),),
        (("other", "x"),),
    ],
)
def test_other_failures_are_not_the_contracts(metadata: Metadata) -> None:
    assert from_rpc_error(Failed(metadata)) is None
