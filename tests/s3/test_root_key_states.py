"""What happens to objects when their root key is disabled, enabled, rotated or destroyed, or out of reach."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from ibm_botocore.exceptions import ClientError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

from region import LEASE_SECONDS, Region, eventually, keyed_bucket
from sigv4 import UNSIGNED, Signer

# A lease counts from the moment when a key was last unwrapped; the rest is for slow machines.
BOUND_SECONDS = LEASE_SECONDS + 15

BODY = random.Random(1).randbytes(200_000)
BIG = random.Random(2).randbytes(6_000_000)


def http_status(call: Callable[[], Any]) -> int:
    try:
        return int(call()["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def fill(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="small", Body=BODY)
    client.put_object(Bucket=bucket, Key="big", Body=BIG)


def reads_back(client: Any, bucket: str) -> None:
    assert client.get_object(Bucket=bucket, Key="small")["Body"].read() == BODY
    assert client.get_object(Bucket=bucket, Key="big")["Body"].read() == BIG


def data_calls(client: Any, bucket: str, upload: dict[str, str]) -> dict[str, Callable[[], Any]]:
    """Everything that needs the bucket's key."""
    return {
        "get small": lambda: client.get_object(Bucket=bucket, Key="small"),
        "get big": lambda: client.get_object(Bucket=bucket, Key="big"),
        "get range": lambda: client.get_object(Bucket=bucket, Key="big", Range="bytes=5-9"),
        "put": lambda: client.put_object(Bucket=bucket, Key="refused", Body=b"x"),
        "put big": lambda: client.put_object(Bucket=bucket, Key="refused", Body=BIG),
        "copy": lambda: client.copy_object(Bucket=bucket, Key="refused", CopySource=f"{bucket}/small"),
        "part": lambda: client.upload_part(**upload, PartNumber=1, Body=b"x"),
    }


def all_answer(calls: dict[str, Callable[[], Any]], expected: int) -> None:
    """Within the lease every call is answered so, and from then on at every try."""
    eventually(lambda: http_status(calls["get small"]) == expected, f"{expected} for get small", BOUND_SECONDS)
    for name, call in calls.items():
        eventually(lambda: http_status(call) == expected, f"{expected} for {name}", BOUND_SECONDS)
    for name, call in calls.items():
        assert http_status(call) == expected, name


def test_disabling_stops_and_enabling_brings_back(region: Region, bucket_name: str) -> None:
    client = region.ibm_s3()
    key = region.new_root_key()
    bucket = keyed_bucket(client, bucket_name, key["crn"])
    other = keyed_bucket(client, f"{bucket_name}-other", region.env["ROOT_KEY_CRN"])
    fill(client, bucket)
    fill(client, other)
    upload = client.create_multipart_upload(Bucket=bucket, Key="upload")
    upload = {name: upload[name] for name in ("Bucket", "Key", "UploadId")}
    calls = data_calls(client, bucket, upload)

    region.root_key("disable", key["id"])
    all_answer(calls, 403)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.get_object(Bucket=bucket, Key="small")
    assert client.head_bucket(Bucket=bucket)["IBMSSEKPCrkId"] == key["crn"]
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["big", "small"]
    reads_back(client, other)
    with pytest.raises(ClientError, match="400|InvalidRequest"):
        keyed_bucket(client, f"{bucket_name}-late", key["crn"])

    region.root_key("enable", key["id"])
    eventually(lambda: http_status(calls["get small"]) == 200, "reads again", BOUND_SECONDS)
    reads_back(client, bucket)
    part = client.upload_part(**upload, PartNumber=1, Body=b"part")
    client.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert client.get_object(Bucket=bucket, Key="upload")["Body"].read() == b"part"
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.get_object(Bucket=bucket, Key="refused")


def test_an_upload_in_progress_ends_with_its_key(region: Region, bucket_name: str) -> None:
    """A slow client must not keep a key in use: it is told while it is still sending."""
    client = region.ibm_s3()
    key = region.new_root_key()
    bucket = keyed_bucket(client, bucket_name, key["crn"])
    size, step = 64_000_000, 4_000_000
    with Signer.of(region.env).begin("PUT", f"{bucket}/key", size, UNSIGNED) as connection:
        connection.sendall(bytes(step))
        region.root_key("disable", key["id"])
        time.sleep(LEASE_SECONDS + 1)
        connection.settimeout(0.5)
        sent, answer = step, b""
        while not answer and sent < size - step:
            try:
                connection.sendall(bytes(step))
                sent += step
                answer = connection.recv(4096)
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
    assert answer.startswith(b"HTTP/1.1 403"), (sent, answer)
    region.root_key("enable", key["id"])
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


def test_a_download_in_progress_ends_with_its_key(region: Region, bucket_name: str) -> None:
    client = region.ibm_s3()
    key = region.new_root_key()
    bucket = keyed_bucket(client, bucket_name, key["crn"])
    size = 64_000_000
    client.put_object(Bucket=bucket, Key="key", Body=bytes(size))
    body = client.get_object(Bucket=bucket, Key="key")["Body"]
    read = len(body.read(1_000_000))
    region.root_key("disable", key["id"])
    time.sleep(LEASE_SECONDS + 1)
    # What had been released lies in the buffers of the connection.
    with pytest.raises((IncompleteReadError, ResponseStreamingError, ReadTimeoutError)):
        while piece := body.read(1_000_000):
            read += len(piece)
    assert read < size


def test_the_lease_bounds_how_long_a_disabled_key_is_used(new_region: Callable[..., Region], bucket_name: str) -> None:
    """Measured from the moment at which the HSM has disabled it; the slack is for one request on a slow machine."""
    lease, slack = 3, 2
    region = new_region(lease_seconds=lease)
    client = region.ibm_s3()
    key = region.new_root_key()
    bucket = keyed_bucket(client, bucket_name, key["crn"])
    client.put_object(Bucket=bucket, Key="key", Body=b"x")
    for _ in range(3):
        assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == b"x"
        region.root_key("disable", key["id"])
        disabled = time.monotonic()
        while True:
            # When a request was sent decides, not how long its answer took.
            asked = time.monotonic()
            if http_status(lambda: client.get_object(Bucket=bucket, Key="key")) == 403:
                break
            assert asked - disabled <= lease + slack
            time.sleep(0.02)
        region.root_key("enable", key["id"])
        eventually(lambda: http_status(lambda: client.get_object(Bucket=bucket, Key="key")) == 200, "reads again")


def test_destroying_the_key_shreds_every_bucket_under_it(region: Region, bucket_name: str) -> None:
    client = region.ibm_s3()
    key = region.new_root_key()
    buckets = [keyed_bucket(client, f"{bucket_name}-{name}", key["crn"]) for name in ("one", "two")]
    uploads = {}
    for bucket in buckets:
        fill(client, bucket)
        upload = client.create_multipart_upload(Bucket=bucket, Key="upload")
        uploads[bucket] = {name: upload[name] for name in ("Bucket", "Key", "UploadId")}

    region.root_key("delete", key["id"])
    for bucket in buckets:
        all_answer(data_calls(client, bucket, uploads[bucket]), 403)

    # What is left is a name to look at and to clear away.
    for bucket in buckets:
        assert client.head_bucket(Bucket=bucket)["IBMSSEKPCrkId"] == key["crn"]
        listed = client.list_objects_v2(Bucket=bucket)["Contents"]
        assert [(item["Key"], item["Size"]) for item in listed] == [("big", len(BIG)), ("small", len(BODY))]
        assert [item["Key"] for item in client.list_objects(Bucket=bucket)["Contents"]] == ["big", "small"]
        client.abort_multipart_upload(**uploads[bucket])
        client.delete_object(Bucket=bucket, Key="small")
        client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "big"}]})
        assert "Contents" not in client.list_objects_v2(Bucket=bucket)
        assert client.delete_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    with pytest.raises(ClientError, match="The Key CRN could not be found"):
        keyed_bucket(client, bucket_name, key["crn"])


def test_a_shredded_bucket_stays_shredded_after_a_restart(new_region: Callable[..., Region], bucket_name: str) -> None:
    region = new_region()
    client = region.ibm_s3()
    key = region.new_root_key()
    bucket = keyed_bucket(client, bucket_name, key["crn"])
    fill(client, bucket)
    region.root_key("delete", key["id"])
    region.kill("hsm", "cos")
    region.up()
    assert http_status(lambda: client.get_object(Bucket=bucket, Key="small")) == 403
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["big", "small"]


def test_rotating_changes_nothing_that_a_client_sees(region: Region, bucket_name: str) -> None:
    client = region.ibm_s3()
    key = region.new_root_key()
    bucket = keyed_bucket(client, bucket_name, key["crn"])
    bodies: dict[str, bytes] = {}
    for generation in range(4):
        name = f"object-{generation}"
        bodies[name] = random.Random(generation).randbytes(100_000 * generation + 1)
        client.put_object(Bucket=bucket, Key=name, Body=bodies[name])
        before = client.list_objects_v2(Bucket=bucket)["Contents"]
        assert len(region.root_key("rotate", key["id"])["versions"]) == generation + 2
        assert client.list_objects_v2(Bucket=bucket)["Contents"] == before
        for name, body in bodies.items():
            assert client.get_object(Bucket=bucket, Key=name)["Body"].read() == body
    assert client.head_bucket(Bucket=bucket)["IBMSSEKPCrkId"] == key["crn"]


def test_without_the_hsm_keyed_buckets_wait_and_others_go_on(new_region: Callable[..., Region], bucket_name: str) -> None:
    region = new_region()
    client = region.ibm_s3()
    bucket = keyed_bucket(client, bucket_name, region.env["ROOT_KEY_CRN"])
    fill(client, bucket)
    client.create_bucket(Bucket=f"{bucket_name}-open")
    fill(client, f"{bucket_name}-open")
    upload = client.create_multipart_upload(Bucket=bucket, Key="upload")
    upload = {name: upload[name] for name in ("Bucket", "Key", "UploadId")}

    region.stop("hsm")
    all_answer(data_calls(client, bucket, upload), 503)
    reads_back(client, f"{bucket_name}-open")
    client.put_object(Bucket=f"{bucket_name}-open", Key="new", Body=b"x")
    assert len(client.list_objects_v2(Bucket=bucket)["Contents"]) == 2
    with pytest.raises(ClientError, match="ServiceUnavailable|503"):
        keyed_bucket(client, f"{bucket_name}-late", region.env["ROOT_KEY_CRN"])

    # The storage service starts without it too.
    region.restart_without_up("cos")
    assert http_status(lambda: client.get_object(Bucket=bucket, Key="small")) == 503
    reads_back(client, f"{bucket_name}-open")
    alone = region.pid("cos")

    region.up()
    assert region.pid("cos") == alone, "the storage service was not restarted"
    eventually(
        lambda: http_status(lambda: client.get_object(Bucket=bucket, Key="small")) == 200, "reads again", BOUND_SECONDS
    )
    reads_back(client, bucket)
    client.put_object(Bucket=bucket, Key="new", Body=b"x")
    assert len(client.list_buckets()["Buckets"]) == 2, "the bucket that was refused is not there"
