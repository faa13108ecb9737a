"""Who may come in: signatures in headers and URLs, signed and unsigned bodies."""

from __future__ import annotations

import base64
import hashlib
import zlib
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

import sigv4
from region import Region
from sigv4 import Response, Signer, exchange

CHUNKS = [b"a" * 65536, b"b" * 65536, b"end"]
WHOLE = b"".join(CHUNKS)
CRC32 = "x-amz-checksum-crc32", base64.b64encode(zlib.crc32(WHOLE).to_bytes(4)).decode()


def code(answer: Response) -> str:
    return answer.body.decode().partition("<Code>")[2].partition("</Code>")[0]


def fetch(url: str, method: str = "GET", body: bytes = b"") -> Response:
    parts = urlsplit(url)
    return exchange(f"http://{parts.netloc}", method, f"{parts.path}?{parts.query}", body, {})


def test_presigned_urls_work_for_as_long_as_they_say(s3: Any, bucket: str) -> None:
    where = {"Bucket": bucket, "Key": "a key+é"}
    put = s3.generate_presigned_url("put_object", Params=where, ExpiresIn=60)
    assert fetch(put, "PUT", b"by url").status == 200
    get = s3.generate_presigned_url("get_object", Params=where, ExpiresIn=60)
    assert "X-Amz-Signature=" in get
    assert fetch(get).body == b"by url"
    assert fetch(get, "PUT", b"x").status == 403  # signed for another method
    assert fetch(get.replace("X-Amz-Expires=60", "X-Amz-Expires=61")).status == 403
    assert fetch(get[:-1] + ("0" if get[-1] != "0" else "1")).status == 403
    assert s3.get_object(**where)["Body"].read() == b"by url"


def test_an_expired_presigned_url_is_refused(region: Region, bucket: str) -> None:
    class Yesterday(S3SigV4QueryAuth):
        def _modify_request_before_signing(self, request: Any) -> None:
            request.context["timestamp"] = (datetime.now(timezone.utc) - timedelta(days=1)).strftime("%Y%m%dT%H%M%SZ")
            super()._modify_request_before_signing(request)

    credentials = Credentials(region.env["AWS_ACCESS_KEY_ID"], region.env["AWS_SECRET_ACCESS_KEY"])
    answers = []
    for expires in (60, 2 * 86400):
        request = AWSRequest("GET", f"{region.env['S3_ENDPOINT']}/{bucket}/key")
        request.context["timestamp"] = ""
        Yesterday(credentials, "s3", "us-south", expires=expires).add_auth(request)
        answers.append(fetch(request.url))
    # With two days to live it is only the object that is missing.
    assert [(answer.status, code(answer)) for answer in answers] == [(403, "AccessDenied"), (404, "NoSuchKey")]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"secret_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"access_key": "nobody"}, "InvalidAccessKeyId"),
        ({"now": datetime.now(timezone.utc) - timedelta(hours=1)}, "RequestTimeTooSkewed"),
        ({"now": datetime.now(timezone.utc) + timedelta(hours=1)}, "RequestTimeTooSkewed"),
    ],
    ids=["secret", "access key", "an hour late", "an hour early"],
)
def test_wrong_credentials_and_clocks_are_refused(region: Region, bucket: str, changes: Any, expected: str) -> None:
    signer = Signer.of(region.env, **changes)
    for answer in (signer.send("PUT", f"{bucket}/key", b"x"), signer.send("GET", bucket)):
        assert (answer.status, code(answer)) == (403, expected)
    assert Signer.of(region.env).send("GET", f"{bucket}/key").status == 404


def test_nobody_comes_in_without_a_signature(region: Region, bucket: str) -> None:
    for method, path in (("GET", "/"), ("GET", f"/{bucket}"), ("PUT", f"/{bucket}/key"), ("DELETE", f"/{bucket}")):
        answer = exchange(region.env["S3_ENDPOINT"], method, path, b"", {})
        assert (answer.status, code(answer)) == (403, "AccessDenied")


@pytest.mark.parametrize("changed", ["path", "header", "method"])
def test_a_signed_request_that_was_changed_is_refused(region: Region, bucket: str, changed: str) -> None:
    signer = Signer.of(region.env)
    path = f"/{bucket}/key"
    headers = signer.headers("PUT", path, hashlib.sha256(b"x").hexdigest(), {"x-amz-meta-a": "1"})
    method, sent_path = "PUT", path
    if changed == "path":
        sent_path = f"/{bucket}/other"
    elif changed == "header":
        headers["x-amz-meta-a"] = "2"
    else:
        method = "DELETE"
    answer = exchange(region.env["S3_ENDPOINT"], method, sent_path, b"x", headers)
    assert (answer.status, code(answer)) == (403, "SignatureDoesNotMatch")
    assert signer.send("PUT", f"{bucket}/key", b"x", x_amz_meta_a="1").status == 200


@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
def test_a_body_with_another_hash_is_not_stored(region: Region, bucket: str, size: int) -> None:
    signer = Signer.of(region.env)
    answer = signer.send("PUT", f"{bucket}/key", b"x" * size, payload_hash=hashlib.sha256(b"other").hexdigest())
    assert (answer.status, code(answer)) == (400, "XAmzContentSHA256Mismatch")
    assert signer.send("GET", f"{bucket}/key").status == 404


def test_an_unsigned_payload_is_accepted(region: Region, bucket: str) -> None:
    signer = Signer.of(region.env)
    assert signer.send("PUT", f"{bucket}/key", b"body", payload_hash=sigv4.UNSIGNED).status == 200
    assert signer.send("GET", f"{bucket}/key").body == b"body"


@pytest.mark.parametrize(
    "mode, trailer",
    [
        (sigv4.UNSIGNED_TRAILER, CRC32),
        (sigv4.SIGNED_CHUNKS, None),
        (sigv4.SIGNED_TRAILER, CRC32),
    ],
)
def test_chunked_bodies_are_decoded(region: Region, bucket: str, mode: str, trailer: tuple[str, str] | None) -> None:
    signer = Signer.of(region.env)
    answer = signer.send_chunked(f"{bucket}/key", CHUNKS, mode, trailer)
    assert answer.status == 200, answer.body
    assert answer.headers["etag"] == f'"{hashlib.md5(WHOLE).hexdigest()}"'
    got = signer.send("GET", f"{bucket}/key", x_amz_checksum_mode="ENABLED")
    assert got.body == WHOLE
    assert "aws-chunked" not in got.headers.get("content-encoding", "")
    if trailer:
        assert got.headers[trailer[0]] == trailer[1]


@pytest.mark.parametrize(
    "mode, trailer, spoil",
    [
        (sigv4.UNSIGNED_TRAILER, (CRC32[0], "AAAAAA=="), b""),
        (sigv4.SIGNED_TRAILER, (CRC32[0], "AAAAAA=="), b""),
        (sigv4.SIGNED_CHUNKS, None, b"A" * 65536),
        (sigv4.SIGNED_TRAILER, CRC32, b"A" * 65536),
        (sigv4.UNSIGNED_TRAILER, CRC32, b"A" * 65536),
        (sigv4.UNSIGNED_TRAILER, CRC32, b"short"),
    ],
    ids=["crc", "signed crc", "signed chunk", "signed chunk and crc", "chunk against crc", "too few bytes"],
)
def test_a_spoiled_chunked_body_is_not_stored(
    region: Region, bucket: str, mode: str, trailer: tuple[str, str] | None, spoil: bytes
) -> None:
    signer = Signer.of(region.env)
    answer = signer.send_chunked(f"{bucket}/key", CHUNKS, mode, trailer, spoil)
    assert 400 <= answer.status < 500, answer
    assert signer.send("GET", f"{bucket}/key").status == 404
