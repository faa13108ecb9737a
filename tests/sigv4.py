"""Signature Version 4 by hand, for requests that the SDKs would never send."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
from dataclasses import dataclass, field
from datetime import datetime, timezone
from urllib.parse import quote, urlsplit

UNSIGNED = "UNSIGNED-PAYLOAD"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Signer:
    """Signs and sends requests to one endpoint."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-south"
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @classmethod
    def of(cls, env: dict[str, str], **changes: object) -> Signer:
        known = {"secret_key": env["AWS_SECRET_ACCESS_KEY"], "access_key": env["AWS_ACCESS_KEY_ID"]}
        return cls(env["S3_ENDPOINT"], **{**known, **changes})  # type: ignore[arg-type]

    @property
    def _time(self) -> str:
        return self.now.strftime("%Y%m%dT%H%M%SZ")

    @property
    def _scope(self) -> str:
        return f"{self._time[:8]}/{self.region}/s3/aws4_request"

    def _sign(self, kind: str, *lines: str) -> str:
        key = f"AWS4{self.secret_key}".encode()
        for part in self._scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        text = "\n".join([kind, self._time, self._scope, *lines])
        return hmac.new(key, text.encode(), "sha256").hexdigest()

    def headers(
        self, method: str, path: str, payload_hash: str, extra: dict[str, str], query: str = ""
    ) -> dict[str, str]:
        """Headers of a signed request; `path` is what is sent, without the query."""
        headers = {name.lower(): value for name, value in extra.items()}
        headers["host"] = urlsplit(self.endpoint).netloc
        headers["x-amz-date"] = self._time
        headers["x-amz-content-sha256"] = payload_hash
        names = ";".join(sorted(headers))
        canonical = "\n".join(
            [method, path, query, *(f"{name}:{headers[name].strip()}" for name in sorted(headers)), "", names, payload_hash]
        )
        signature = self._sign("AWS4-HMAC-SHA256", hashlib.sha256(canonical.encode()).hexdigest())
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{self._scope}, SignedHeaders={names}, Signature={signature}"
        )
        return headers

    def send(
        self,
        method: str,
        bucket_and_key: str,
        body: bytes = b"",
        payload_hash: str | None = None,
        query: dict[str, str] | None = None,
        **extra: str,
    ) -> Response:
        """Signs and sends; underscores in the names of extra headers become hyphens."""
        path = "/" + quote(bucket_and_key, safe="/~")
        canonical = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in sorted((query or {}).items()))
        extra = {name.replace("_", "-"): value for name, value in extra.items()}
        digest = payload_hash or hashlib.sha256(body).hexdigest()
        headers = self.headers(method, path, digest, extra, canonical)
        return exchange(self.endpoint, method, f"{path}?{canonical}" if canonical else path, body, headers)

    def send_chunked(
        self,
        bucket_and_key: str,
        chunks: list[bytes],
        mode: str,
        trailer: tuple[str, str] | None = None,
        spoil: bytes = b"",
        **extra: str,
    ) -> Response:
        """PUTs an aws-chunked body. `spoil`, if given, replaces the bytes of the first chunk after signing."""
        path = "/" + quote(bucket_and_key, safe="/~")
        headers = {
            "content-encoding": "aws-chunked",
            "x-amz-decoded-content-length": str(sum(map(len, chunks))),
            **({"x-amz-trailer": trailer[0]} if trailer else {}),
            **{name.replace("_", "-"): value for name, value in extra.items()},
        }
        signed = self.headers("PUT", path, mode, headers)
        signature = signed["authorization"].rpartition("=")[2]
        body = b""
        for index, chunk in enumerate([*chunks, b""]):
            extension = ""
            if mode != UNSIGNED_TRAILER:
                digest = hashlib.sha256(chunk).hexdigest()
                signature = self._sign("AWS4-HMAC-SHA256-PAYLOAD", signature, EMPTY_SHA256, digest)
                extension = f";chunk-signature={signature}"
            sent = spoil if spoil and index == 0 else chunk
            body += f"{len(sent):x}{extension}\r\n".encode() + sent + (b"\r\n" if chunk else b"")
        if trailer:
            line = f"{trailer[0]}:{trailer[1]}"
            body += f"{line}\r\n".encode()
            if mode == SIGNED_TRAILER:
                digest = hashlib.sha256(f"{line}\n".encode()).hexdigest()
                body += f"x-amz-trailer-signature:{self._sign('AWS4-HMAC-SHA256-TRAILER', signature, digest)}\r\n".encode()
        body += b"\r\n"
        return exchange(self.endpoint, "PUT", path, body, signed)

    def begin(
        self, method: str, bucket_and_key: str, length: int, payload_hash: str, query: str = "", **extra: str
    ) -> socket.socket:
        """Sends the head of a request with a body of so many bytes, and leaves the rest to the caller."""
        path = "/" + quote(bucket_and_key, safe="/~")
        extra = {name.replace("_", "-"): value for name, value in extra.items()}
        headers = self.headers(method, path, payload_hash, extra, query)
        endpoint = urlsplit(self.endpoint)
        assert endpoint.hostname and endpoint.port
        connection = socket.create_connection((endpoint.hostname, endpoint.port), timeout=60)
        lines = [f"{method} {path}{'?' + query if query else ''} HTTP/1.1", f"content-length: {length}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return connection


def exchange(endpoint: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> Response:
    """One HTTP exchange with exactly these headers (and Content-Length)."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=60)
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return Response(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()
