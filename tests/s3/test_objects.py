"""Objects of every awkward size and name."""

from __future__ import annotations

import base64
import hashlib
import random
import socket
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from region import Region, keyed_bucket
from sigv4 import UNSIGNED_TRAILER, Signer

KIB = 1024
MIB = 1024 * KIB
# Around the sizes at which storage changes its ways: empty, one segment, one large segment, several.
SIZES = [0, 1, 15, 16, 17, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 128 * KIB, MIB - 1, MIB, MIB + 1, 5 * MIB + 3]
# The edges of what is encrypted in one piece: 65,480 bytes (65,536 less header and tag), then 65,520 more;
# from 8 MiB on the pieces are larger.
SIZES += [edge + step for edge in (65_480, 131_000, 8 * MIB) for step in (-1, 0, 1)]


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def status(error: pytest.ExceptionInfo[Exception]) -> int:
    return error.value.response["ResponseMetadata"]["HTTPStatusCode"]  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("size", SIZES)
def test_an_object_reads_back_and_its_etag_is_the_md5_of_the_plaintext(s3: Any, bucket: str, size: int) -> None:
    body = content(size)
    assert s3.put_object(Bucket=bucket, Key="object", Body=body)["ETag"] == etag(body)
    head = s3.head_object(Bucket=bucket, Key="object")
    assert (head["ContentLength"], head["ETag"]) == (size, etag(body))
    got = s3.get_object(Bucket=bucket, Key="object")
    assert got["ETag"] == etag(body)
    assert got["Body"].read() == body
    [listed] = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert (listed["Key"], listed["Size"], listed["ETag"]) == ("object", size, etag(body))


def test_an_empty_object_does_not_disturb_the_next(s3: Any, bucket: str) -> None:
    """botocore sends `Expect: 100-continue` with an empty body too, and then misreads the next answer on the same
    connection if it got a final answer at once: without an ETag, and only after the connection was idle for long."""
    for number in range(3):
        for body in (b"", b"not empty"):
            assert s3.put_object(Bucket=bucket, Key=f"key-{number}", Body=body)["ETag"] == etag(body)
    assert s3.get_object(Bucket=bucket, Key="key-0")["Body"].read() == b"not empty"


def test_an_object_of_an_unkeyed_bucket_reads_back(s3: Any, bucket_name: str) -> None:
    s3.create_bucket(Bucket=bucket_name)
    body = content(300_000)
    assert s3.put_object(Bucket=bucket_name, Key="object", Body=body)["ETag"] == etag(body)
    assert s3.get_object(Bucket=bucket_name, Key="object")["Body"].read() == body


def test_a_new_object_replaces_an_old_one(s3: Any, bucket: str) -> None:
    for size in (3 * MIB, 10, 200_000, 0, 100):
        s3.put_object(Bucket=bucket, Key="object", Body=content(size))
        assert s3.get_object(Bucket=bucket, Key="object")["Body"].read() == content(size)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


@pytest.mark.parametrize("size", [1, 1000, 64 * KIB, 3 * MIB + 17])
def test_ranges_are_cut_from_the_plaintext(s3: Any, bucket: str, size: int) -> None:
    body = content(size)
    s3.put_object(Bucket=bucket, Key="object", Body=body)
    dice = random.Random(size)
    spans = [(first, min(size, first + dice.randrange(1, size + 1)) - 1) for first in dice.choices(range(size), k=12)]
    edges = [edge for edge in (64 * KIB, 128 * KIB, MIB) if edge < size]
    spans += [(0, 0), (size - 1, size - 1), (0, size - 1), *((edge - 1, edge) for edge in edges)]
    for first, last in spans:
        got = s3.get_object(Bucket=bucket, Key="object", Range=f"bytes={first}-{last}")
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert got["ContentRange"] == f"bytes {first}-{last}/{size}"
        assert got["Body"].read() == body[first : last + 1]
    assert s3.get_object(Bucket=bucket, Key="object", Range=f"bytes={size // 2}-")["Body"].read() == body[size // 2 :]
    assert s3.get_object(Bucket=bucket, Key="object", Range="bytes=-1")["Body"].read() == body[-1:]
    assert s3.get_object(Bucket=bucket, Key="object", Range=f"bytes=0-{size + 9}")["Body"].read() == body
    with pytest.raises(Exception, match="InvalidRange") as refused:
        s3.get_object(Bucket=bucket, Key="object", Range=f"bytes={size}-")
    assert status(refused) == 416
    assert refused.value.response["ResponseMetadata"]["HTTPHeaders"]["content-range"] == f"bytes */{size}"


def test_headers_and_metadata_come_back(s3: Any, bucket: str) -> None:
    given = {
        "ContentType": "text/x-test; charset=utf-8",
        "CacheControl": "max-age=60",
        "ContentDisposition": 'attachment; filename="a b.txt"',
        "ContentEncoding": "gzip",
        "ContentLanguage": "cy",
        "Metadata": {"colour": "green", "empty": "", "with-hyphen": "a  b"},
    }
    s3.put_object(Bucket=bucket, Key="object", Body=b"body", **given)
    for answer in (s3.head_object(Bucket=bucket, Key="object"), s3.get_object(Bucket=bucket, Key="object")):
        assert {name: answer[name] for name in given} == given


def test_an_object_that_was_deleted_is_not_there(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="object", Body=b"x")
    for _ in range(2):  # deleting twice is no error
        assert s3.delete_object(Bucket=bucket, Key="object")["ResponseMetadata"]["HTTPStatusCode"] == 204
    with pytest.raises(Exception, match="NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="object")
    with pytest.raises(Exception, match="404"):
        s3.head_object(Bucket=bucket, Key="object")


UNUSUAL_KEYS = [
    "with space",
    " leading and trailing ",
    "plus+and%20percent%",
    "a/../b",
    "../up",
    "./here",
    "..",
    "double//slash",
    "trailing/",
    "ünïcödé/日本語/🔑",
    "e\u0301 is not \u00e9",
    "&<>\"'?#=;:@!$*()[]{}|\\^`~,",
    "tab\tand\u0085",
    "k" * 1024,
    "é" * 512,
]


@pytest.mark.parametrize("key", UNUSUAL_KEYS, ids=lambda key: ascii(key[:24]))
def test_a_key_is_opaque_text(s3: Any, bucket: str, key: str) -> None:
    body = key.encode()
    s3.put_object(Bucket=bucket, Key=key, Body=body)
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert [item["Key"] for item in s3.list_objects(Bucket=bucket)["Contents"]] == [key]
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == body
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]})
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["copy"]


def test_unusual_keys_do_not_meet(s3: Any, bucket: str) -> None:
    for key in UNUSUAL_KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    for key in UNUSUAL_KEYS:
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    listed = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert listed == sorted(UNUSUAL_KEYS, key=str.encode)


def test_control_characters_in_a_key_do_not_break_a_document(region: Region, bucket: str) -> None:
    signer, key = Signer.of(region.env), "return\r and \x01"
    raw = f"<a>{key}</a>".encode()
    assert signer.send("PUT", f"{bucket}/{key}", raw, content_type="application/xml").status == 200
    listing = signer.send("GET", bucket).body
    assert b"<Key>return&#xd; and &#x1;</Key>" in listing
    assert signer.send("GET", f"{bucket}/{key}").body == raw  # no document of ours


def test_a_key_of_more_than_1024_bytes_is_refused(s3: Any, bucket: str) -> None:
    with pytest.raises(Exception, match="KeyTooLong") as refused:
        s3.put_object(Bucket=bucket, Key="é" * 512 + "k", Body=b"x")
    assert status(refused) == 400


def test_many_objects_are_deleted_at_once(s3: Any, bucket: str) -> None:
    keys = [f"object {number}+é" for number in range(50)]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    gone = keys[:40]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in [*gone, "never was"]]})
    assert "Errors" not in answer
    assert sorted(item["Key"] for item in answer["Deleted"]) == sorted([*gone, "never was"])
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Quiet": True, "Objects": [{"Key": keys[40]}]})
    assert not quiet.get("Deleted") and not quiet.get("Errors")
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == sorted(keys[41:])


@pytest.mark.parametrize("size", [0, 100, 3 * MIB])
def test_a_copy_has_the_bytes_and_the_metadata(region: Region, s3: Any, bucket: str, bucket_name: str, size: int) -> None:
    """Also into a bucket under another root key."""
    other = keyed_bucket(region.ibm_s3(), f"{bucket_name}-other", region.new_root_key()["crn"])
    body = content(size)
    s3.put_object(Bucket=bucket, Key="a b", Body=body, Metadata={"m": "1"}, ContentType="text/plain")
    for target in (bucket, other):
        source = {"Bucket": bucket, "Key": "a b"}
        copied = s3.copy_object(Bucket=target, Key="copy", CopySource=source)
        assert copied["CopyObjectResult"]["ETag"] == etag(body)
        got = s3.get_object(Bucket=target, Key="copy")
        assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (body, {"m": "1"}, "text/plain")
        s3.copy_object(Bucket=target, Key="new", CopySource=source, MetadataDirective="REPLACE", Metadata={"n": "2"})
        got = s3.get_object(Bucket=target, Key="new")
        assert (got["Body"].read(), got["Metadata"]) == (body, {"n": "2"})


def test_a_copy_onto_itself_needs_a_change(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"x", Metadata={"m": "1"})
    source = {"Bucket": bucket, "Key": "key"}
    with pytest.raises(Exception, match="InvalidRequest"):
        s3.copy_object(Bucket=bucket, Key="key", CopySource=source)
    s3.copy_object(Bucket=bucket, Key="key", CopySource=source, MetadataDirective="REPLACE", Metadata={"m": "2"})
    got = s3.get_object(Bucket=bucket, Key="key")
    assert (got["Body"].read(), got["Metadata"]) == (b"x", {"m": "2"})
    with pytest.raises(Exception, match="NoSuchKey"):
        s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "never was"})


def test_conditions_are_kept(s3: Any, bucket: str) -> None:
    mine = s3.put_object(Bucket=bucket, Key="key", Body=b"one")["ETag"]
    modified = s3.head_object(Bucket=bucket, Key="key")["LastModified"]
    other = etag(b"two")
    get = {"Bucket": bucket, "Key": "key"}

    assert s3.get_object(**get, IfMatch=mine)["Body"].read() == b"one"
    assert s3.get_object(**get, IfNoneMatch=other)["Body"].read() == b"one"
    assert s3.get_object(**get, IfModifiedSince=modified - timedelta(hours=1))["Body"].read() == b"one"
    assert s3.get_object(**get, IfUnmodifiedSince=modified)["Body"].read() == b"one"
    for condition, expected in [
        ({"IfMatch": other}, 412),
        ({"IfNoneMatch": mine}, 304),
        ({"IfModifiedSince": modified}, 304),
        ({"IfUnmodifiedSince": modified - timedelta(hours=1)}, 412),
    ]:
        for read in (s3.get_object, s3.head_object):
            with pytest.raises(Exception, match="412|304|PreconditionFailed") as refused:
                read(**get, **condition)
            assert status(refused) == expected, condition
            if expected == 304:
                assert refused.value.response["ResponseMetadata"]["HTTPHeaders"]["etag"] == mine


def test_a_conditional_put_does_not_overwrite(region: Region, bucket: str) -> None:
    signer = Signer.of(region.env)
    assert signer.send("PUT", f"{bucket}/key", b"first", if_none_match="*").status == 200
    assert signer.send("PUT", f"{bucket}/key", b"second", if_none_match="*").status == 412
    assert signer.send("PUT", f"{bucket}/key", b"second", if_match=etag(b"other")).status == 412
    assert signer.send("GET", f"{bucket}/key").body == b"first"
    assert signer.send("PUT", f"{bucket}/key", b"second", if_match=etag(b"first")).status == 200
    assert signer.send("GET", f"{bucket}/key").body == b"second"


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def test_a_checksum_is_verified_kept_and_returned(region: Region, bucket: str, algorithm: str) -> None:
    if algorithm == "CRC32C":  # boto needs a native extension to compute it: a known value instead
        computed = "ChecksumCRC32C", "4waSgw=="  # of b"123456789"
        region.s3().put_object(Bucket=bucket, Key="key", Body=b"123456789", ChecksumCRC32C=computed[1])
    else:
        region.s3().put_object(Bucket=bucket, Key="key", Body=b"123456789", ChecksumAlgorithm=algorithm)
        known = {
            "CRC32": "y/Q5Jg==",
            "SHA1": base64.b64encode(hashlib.sha1(b"123456789").digest()).decode(),
            "SHA256": base64.b64encode(hashlib.sha256(b"123456789").digest()).decode(),
        }
        computed = f"Checksum{algorithm}", known[algorithm]
    head = region.s3().head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")
    assert head[computed[0]] == computed[1]
    part = region.s3().get_object(Bucket=bucket, Key="key", Range="bytes=2-4")
    assert part["Body"].read() == b"345"  # the client would refuse a whole object's checksum here


@pytest.mark.parametrize(
    "header",
    [
        {"content_md5": base64.b64encode(hashlib.md5(b"other").digest()).decode()},
        {"x_amz_checksum_crc32": "AAAAAA=="},
        {"x_amz_checksum_sha256": base64.b64encode(hashlib.sha256(b"other").digest()).decode()},
    ],
    ids=["Content-MD5", "CRC32", "SHA-256"],
)
def test_a_body_that_does_not_match_its_checksum_is_not_stored(region: Region, bucket: str, header: dict[str, str]) -> None:
    signer = Signer.of(region.env)
    answer = signer.send("PUT", f"{bucket}/key", b"body", **header)
    assert answer.status == 400, answer.body
    assert b"BadDigest" in answer.body or b"XAmzContentChecksumMismatch" in answer.body
    assert signer.send("GET", f"{bucket}/key").status == 404


def test_a_body_that_breaks_off_is_not_stored(region: Region, bucket: str) -> None:
    signer = Signer.of(region.env)
    path = f"/{bucket}/key"
    headers = signer.headers("PUT", path, "UNSIGNED-PAYLOAD", {})
    endpoint = urlsplit(region.env["S3_ENDPOINT"])
    assert endpoint.hostname and endpoint.port
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((endpoint.hostname, endpoint.port)) as connection:
        connection.sendall(f"PUT {path} HTTP/1.1\r\n{head}content-length: 1000000\r\n\r\n".encode())
        connection.sendall(bytes(500_000))
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(30)
        assert b"200 OK" not in connection.recv(4096)
    assert signer.send("GET", f"{bucket}/key").status == 404


@pytest.mark.parametrize(
    "promise",
    [
        {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": "2099-01-01T00:00:00Z"},
        {"Tagging": "a=b"},
        {"WebsiteRedirectLocation": "/elsewhere"},
    ],
)
def test_what_is_not_kept_is_refused_not_ignored(region: Region, bucket: str, promise: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="NotImplemented"):
        region.s3().put_object(Bucket=bucket, Key="a", Body=b"a", **promise)


def refused(call: Any, **given: Any) -> int:
    with pytest.raises(Exception, match="NotImplemented|AccessDenied|InvalidArgument") as refusal:
        call(**given)
    return status(refusal)


@pytest.mark.parametrize("promise", [{"ACL": "public-read"}, {"StorageClass": "GLACIER"}, {"GrantRead": "id=1"}])
def test_no_write_ignores_a_promise(region: Region, bucket: str, promise: dict[str, Any]) -> None:
    """An ACL was refused on PutObject alone; a storage class was ignored everywhere."""
    s3 = region.s3()
    s3.put_object(Bucket=bucket, Key="source", Body=b"x")
    where = {"Bucket": bucket, "Key": "key"}
    assert refused(s3.put_object, **where, Body=b"x", **promise) == 501
    assert refused(s3.copy_object, **where, CopySource=f"{bucket}/source", **promise) == 501
    assert refused(s3.create_multipart_upload, **where, **promise) == 501
    if "StorageClass" not in promise:
        assert refused(s3.create_bucket, Bucket=f"{bucket}-new", **promise) == 501
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["source"]


def test_what_is_so_anyway_may_be_asked_for(s3: Any, bucket: str) -> None:
    given = {"ACL": "private", "StorageClass": "STANDARD", "ServerSideEncryption": "AES256"}
    s3.put_object(Bucket=bucket, Key="key", Body=b"x", **given)
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/key", **given)
    s3.create_multipart_upload(Bucket=bucket, Key="parts", **given)
    s3.create_bucket(Bucket=f"{bucket}-new-{s3.meta.service_model.service_id.hyphenize()}", ACL="private")


def test_an_unkeyed_bucket_does_not_promise_encryption(s3: Any, bucket_name: str) -> None:
    """It used to answer 200 and to store plain bytes."""
    s3.create_bucket(Bucket=bucket_name)
    where = {"Bucket": bucket_name, "Key": "key", "ServerSideEncryption": "AES256"}
    with pytest.raises(Exception, match="root key") as refusal:
        s3.put_object(**where, Body=b"x")
    assert status(refusal) == 501
    assert refused(s3.create_multipart_upload, **where) == 501
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket_name)


def test_the_expected_owner_is_compared(region: Region, bucket: str) -> None:
    s3 = region.s3()
    owner = s3.list_buckets()["Owner"]["ID"]
    s3.put_object(Bucket=bucket, Key="key", Body=b"x", ExpectedBucketOwner=owner)
    where = {"Bucket": bucket, "Key": "key"}
    for call, given in [
        (s3.put_object, {**where, "Body": b"y"}),
        (s3.get_object, where),
        (s3.delete_object, where),
        (s3.list_objects_v2, {"Bucket": bucket}),
        (s3.delete_bucket, {"Bucket": bucket}),
    ]:
        with pytest.raises(Exception, match="AccessDenied") as refusal:
            call(**given, ExpectedBucketOwner="123456789012")
        assert status(refusal) == 403
    assert refused(s3.copy_object, **where, CopySource=f"{bucket}/key", ExpectedSourceBucketOwner="123456789012") == 403
    assert s3.get_object(**where)["Body"].read() == b"x"


def test_a_checksum_that_is_not_known_is_not_taken_for_verified(region: Region, bucket: str) -> None:
    signer = Signer.of(region.env)
    assert signer.send("PUT", f"{bucket}/key", b"x", x_amz_checksum_xxhash64="AAAAAAAAAAA=").status == 501
    trailer = "x-amz-checksum-sha512", "AAAA"
    assert signer.send_chunked(f"{bucket}/key", [b"x"], UNSIGNED_TRAILER, trailer).status == 501
    assert signer.send("GET", f"{bucket}/key").status == 404


def test_a_conditional_delete_does_not_delete(region: Region, bucket: str) -> None:
    s3 = region.s3()
    s3.put_object(Bucket=bucket, Key="a", Body=b"new")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a", "ETag": '"old"'}]})
    assert [error["Code"] for error in answer["Errors"]] == ["NotImplemented"]
    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"new"
