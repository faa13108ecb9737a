"""Multipart uploads."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

MIB = 1024 * 1024
PARTS = {1: 5 * MIB, 2: 5 * MIB + 1, 5: 6 * MIB - 1, 10000: 12345}


def content(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def start(client: Any, bucket: str, **options: Any) -> dict[str, str]:
    upload = client.create_multipart_upload(Bucket=bucket, Key="object", **options)
    return {"Bucket": bucket, "Key": "object", "UploadId": upload["UploadId"]}


def send(client: Any, upload: dict[str, str], number: int, body: bytes) -> dict[str, Any]:
    answer = client.upload_part(**upload, PartNumber=number, Body=body)
    assert answer["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    return {"PartNumber": number, "ETag": answer["ETag"]}


def composed(bodies: list[bytes]) -> str:
    digests = b"".join(hashlib.md5(body).digest() for body in bodies)
    return f'"{hashlib.md5(digests).hexdigest()}-{len(bodies)}"'


def uploads(client: Any, bucket: str) -> list[str]:
    return [upload["UploadId"] for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


def test_parts_in_any_order_make_one_object(s3: Any, bucket: str) -> None:
    upload = start(s3, bucket, Metadata={"m": "1"}, ContentType="text/plain")
    bodies = {number: content(number, size) for number, size in PARTS.items()}
    with ThreadPoolExecutor(4) as pool:
        sent = list(pool.map(lambda number: send(s3, upload, number, bodies[number]), [10000, 2, 5, 1]))
    sent.sort(key=lambda part: part["PartNumber"])

    listed = s3.list_parts(**upload)["Parts"]
    assert [(part["PartNumber"], part["ETag"], part["Size"]) for part in listed] == [
        (part["PartNumber"], part["ETag"], PARTS[part["PartNumber"]]) for part in sent
    ]
    first = s3.list_parts(**upload, MaxParts=3)
    assert first["IsTruncated"] and len(first["Parts"]) == 3
    rest = s3.list_parts(**upload, PartNumberMarker=first["NextPartNumberMarker"])
    assert [part["PartNumber"] for part in rest["Parts"]] == [10000]
    assert uploads(s3, bucket) == [upload["UploadId"]]

    whole = b"".join(bodies[number] for number in sorted(bodies))
    etag = composed([bodies[number] for number in sorted(bodies)])
    assert s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})["ETag"] == etag
    got = s3.get_object(Bucket=bucket, Key="object")
    assert (got["ETag"], got["Metadata"], got["ContentType"]) == (etag, {"m": "1"}, "text/plain")
    assert got["Body"].read() == whole
    assert uploads(s3, bucket) == []
    for edge in (5 * MIB, 10 * MIB + 1, 16 * MIB):  # ranges over the joints
        got = s3.get_object(Bucket=bucket, Key="object", Range=f"bytes={edge - 70_000}-{edge + 70_000}")
        assert got["Body"].read() == whole[edge - 70_000 : edge + 70_001]


def test_a_part_sent_again_replaces_the_first(s3: Any, bucket: str) -> None:
    upload = start(s3, bucket)
    send(s3, upload, 1, b"first attempt")
    part = send(s3, upload, 1, b"second")
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})
    assert s3.get_object(Bucket=bucket, Key="object")["Body"].read() == b"second"


def test_only_the_named_parts_count(s3: Any, bucket: str) -> None:
    upload = start(s3, bucket)
    send(s3, upload, 1, b"left out")
    part = send(s3, upload, 2, b"named")
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})
    assert s3.get_object(Bucket=bucket, Key="object")["Body"].read() == b"named"


def test_an_aborted_upload_leaves_nothing(s3: Any, bucket: str) -> None:
    upload = start(s3, bucket)
    part = send(s3, upload, 1, b"x" * MIB)
    s3.abort_multipart_upload(**upload)
    assert uploads(s3, bucket) == []
    for attempt in (
        lambda: s3.upload_part(**upload, PartNumber=2, Body=b"x"),
        lambda: s3.list_parts(**upload),
        lambda: s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]}),
    ):
        with pytest.raises(Exception, match="NoSuchUpload"):
            attempt()
    with pytest.raises(Exception, match="NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="object")
    s3.delete_bucket(Bucket=bucket)


Complete = Callable[[Any, dict[str, str]], list[dict[str, Any]]]


@pytest.mark.parametrize(
    "expected, parts",
    [
        ("InvalidPart", lambda s3, upload: [{"PartNumber": 1, "ETag": f'"{"0" * 32}"'}]),
        ("InvalidPart", lambda s3, upload: [send(s3, upload, 1, b"x" * 5 * MIB), {"PartNumber": 2, "ETag": f'"{"0" * 32}"'}]),
        ("InvalidPartOrder", lambda s3, upload: [send(s3, upload, 2, b"x" * 5 * MIB), send(s3, upload, 1, b"x" * 5 * MIB)]),
        ("EntityTooSmall", lambda s3, upload: [send(s3, upload, 1, b"x" * (5 * MIB - 1)), send(s3, upload, 2, b"x")]),
    ],
    ids=["never sent", "one missing", "wrong order", "first too small"],
)
def test_a_wrong_completion_is_refused_and_can_be_mended(s3: Any, bucket: str, expected: str, parts: Complete) -> None:
    upload = start(s3, bucket)
    with pytest.raises(Exception, match=rf"\({expected}\)"):
        s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts(s3, upload)})
    with pytest.raises(Exception, match="NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="object")
    part = send(s3, upload, 7, b"right")
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})
    assert s3.get_object(Bucket=bucket, Key="object")["Body"].read() == b"right"


@pytest.mark.parametrize("number", [0, 10001])
def test_a_part_number_out_of_range_is_refused(s3: Any, bucket: str, number: int) -> None:
    upload = start(s3, bucket)
    with pytest.raises(Exception, match="InvalidArgument"):
        s3.upload_part(**upload, PartNumber=number, Body=b"x")


def test_parts_can_be_copied_from_objects(s3: Any, bucket: str) -> None:
    source = content(1, 6 * MIB)
    s3.put_object(Bucket=bucket, Key="source", Body=source)
    upload = start(s3, bucket)
    copied = s3.upload_part_copy(
        **upload, PartNumber=1, CopySource={"Bucket": bucket, "Key": "source"}, CopySourceRange=f"bytes=7-{5 * MIB + 6}"
    )
    parts = [{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}, send(s3, upload, 2, b"end")]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=bucket, Key="object")["Body"].read() == source[7 : 5 * MIB + 7] + b"end"


def test_the_transfer_manager_works_both_ways(s3: Any, bucket: str) -> None:
    """What upload_file and download_file do: parallel parts, parallel ranges, checksums."""
    body = content(3, 21 * MIB + 1)
    s3.upload_fileobj(io.BytesIO(body), bucket, "object")
    assert s3.head_object(Bucket=bucket, Key="object")["ETag"].endswith('-3"')
    back = io.BytesIO()
    s3.download_fileobj(bucket, "object", back)
    assert hashlib.sha256(back.getvalue()).digest() == hashlib.sha256(body).digest()
