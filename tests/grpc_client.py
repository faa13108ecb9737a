"""A gRPC client that knows nothing but what the server's reflection tells it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase



def channel_to(endpoint: str) -> grpc.Channel:
    """Connects again soon after the server was gone."""
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    return grpc.insecure_channel(endpoint.removeprefix("http://"), options=options)


class Client:
    """`Kms(endpoint, token).Wrap(key=..., plaintext=...)`: any method, its request's fields as arguments."""

    service: str

    def __init__(self, endpoint: str, token: str | None, scheme: str = "Bearer") -> None:
        self._channel = channel_to(endpoint)
        # Whether a call waits for a server that is starting, or fails at once.
        self.patient = False
        self._metadata = [("authorization", f"{scheme} {token}")] if token is not None else []
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self._channel))
        self._methods = {method.name: method for method in pool.FindServiceByName(self.service).methods}

    @property
    def methods(self) -> set[str]:
        return set(self._methods)

    def __getattr__(self, name: str) -> Any:
        method = self._methods[name]
        request_type, response_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = self._channel.unary_unary(
            f"/{self.service}/{name}",
            request_serializer=request_type.SerializeToString,
            response_deserializer=response_type.FromString,
        )
        return lambda **fields: call(request_type(**fields), metadata=self._metadata, timeout=30, wait_for_ready=self.patient)

    def close(self) -> None:
        self._channel.close()


class Kms(Client):
    """Root keys."""

    service = "hsm.kms.v1.Kms"


class Grep11(Client):
    """IBM's Enterprise PKCS #11 over gRPC."""

    service = "grep11.Crypto"


def grep11_error(error: grpc.RpcError) -> int:
    """The CKR_* of GREP11's only detail, the code in which must be the call's own."""
    status = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    (detail,) = _fields(status)[3]
    assert _fields(detail)[1] == [b"type.googleapis.com/grep11.Grep11Error"]
    assert _numbers(status)[1] == error.code().value[0] != 0
    return _numbers(_fields(detail)[2][0])[1]


def refusal(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """Status and the reason in google.rpc.ErrorInfo."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return error.code(), _error_info_reason(details)


def _error_info_reason(status: bytes) -> str:
    """google.rpc.Status { details = 3: Any { value = 2: ErrorInfo { reason = 1 } } }, read by hand."""
    for detail in _fields(status).get(3, []):
        for value in _fields(detail).get(2, []):
            for reason in _fields(value).get(1, []):
                return reason.decode()
    return ""


def _fields(message: bytes) -> dict[int, list[bytes]]:
    """Length-delimited fields of a protobuf message, by number."""
    found: dict[int, list[bytes]] = {}
    for number, value in _read(message):
        if isinstance(value, bytes):
            found.setdefault(number, []).append(value)
    return found


def _numbers(message: bytes) -> dict[int, int]:
    """Varint fields of a protobuf message, by number."""
    return {number: value for number, value in _read(message) if isinstance(value, int)}


def _read(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 2:
            length = varint()
            yield tag >> 3, message[at : at + length]
            at += length
        else:
            assert tag & 7 == 0, f"unexpected wire type in {message!r}"
            yield tag >> 3, varint()
