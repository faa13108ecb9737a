"""Buckets under root keys."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from ibm_botocore.exceptions import ClientError

from region import Region, keyed_bucket
from sigv4 import Signer


def names(client: Any) -> list[str]:
    return [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]


def test_head_reports_the_root_key_under_both_header_names(region: Region, bucket: str) -> None:
    crn = region.env["ROOT_KEY_CRN"]
    head = region.ibm_s3().head_bucket(Bucket=bucket)
    assert head["IBMSSEKPEnabled"] is True
    assert head["IBMSSEKPCrkId"] == crn

    raw = Signer.of(region.env).send("HEAD", bucket)
    assert raw.status == 200
    assert raw.headers["ibm-sse-kp-enabled"] == "true"
    assert raw.headers["ibm-sse-kp-crk-id"] == crn
    assert raw.headers["ibm-sse-kp-customer-root-key-crn"] == crn


def test_listing_a_keyed_bucket_reports_the_root_key(region: Region, bucket: str) -> None:
    listing = region.ibm_s3().list_objects(Bucket=bucket)
    assert listing["IBMSSEKPEnabled"] is True
    assert listing["IBMSSEKPCrkId"] == region.env["ROOT_KEY_CRN"]


def test_a_bucket_without_a_key_reports_none(region: Region, s3: Any, bucket_name: str) -> None:
    s3.create_bucket(Bucket=bucket_name)
    raw = Signer.of(region.env).send("HEAD", bucket_name)
    assert raw.status == 200
    assert raw.headers.get("ibm-sse-kp-enabled", "false") == "false"
    assert "ibm-sse-kp-crk-id" not in raw.headers
    assert bucket_name in names(s3)


def test_a_bucket_may_name_its_location(region: Region, bucket_name: str) -> None:
    client = region.ibm_s3()
    client.create_bucket(
        Bucket=bucket_name,
        CreateBucketConfiguration={"LocationConstraint": "us-south-standard"},
        IBMSSEKPEncryptionAlgorithm="AES256",
        IBMSSEKPCustomerRootKeyCrn=region.env["ROOT_KEY_CRN"],
    )
    assert bucket_name in names(client)


def wrong_crns(crn: str) -> dict[str, str]:
    """CRNs of keys that are not there."""
    prefix, instance, _, key = crn.rsplit(":", 3)
    return {
        "unknown key": f"{prefix}:{instance}:key:{uuid.uuid4()}",
        "unknown instance": f"{prefix}:{uuid.uuid4()}:key:{key}",
    }


@pytest.mark.parametrize("wrong", wrong_crns("a:b:key:d"))
def test_a_wrong_crn_is_refused_and_leaves_no_bucket(region: Region, bucket_name: str, wrong: str) -> None:
    client = region.ibm_s3()
    with pytest.raises(ClientError) as refused:
        keyed_bucket(client, bucket_name, wrong_crns(region.env["ROOT_KEY_CRN"])[wrong])
    response = refused.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert response["Error"]["Code"] == "InvalidRequest"
    assert response["Error"]["Message"] == "The Key CRN could not be found"
    assert bucket_name not in names(client)
    # The name is not taken.
    keyed_bucket(client, bucket_name, region.env["ROOT_KEY_CRN"])
    assert client.head_bucket(Bucket=bucket_name)["IBMSSEKPCrkId"] == region.env["ROOT_KEY_CRN"]


@pytest.mark.parametrize(
    "headers",
    [
        {"IBMSSEKPEncryptionAlgorithm": "AES256"},
        {"IBMSSEKPCustomerRootKeyCrn": "<right>"},
        {"IBMSSEKPEncryptionAlgorithm": "AES128", "IBMSSEKPCustomerRootKeyCrn": "<right>"},
        {"IBMSSEKPEncryptionAlgorithm": "AES256", "IBMSSEKPCustomerRootKeyCrn": "no crn at all"},
    ],
    ids=["algorithm alone", "CRN alone", "other algorithm", "no CRN"],
)
def test_incomplete_key_headers_are_refused(region: Region, bucket_name: str, headers: dict[str, str]) -> None:
    client = region.ibm_s3()
    headers = {name: region.env["ROOT_KEY_CRN"] if value == "<right>" else value for name, value in headers.items()}
    with pytest.raises(ClientError) as refused:
        client.create_bucket(Bucket=bucket_name, **headers)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert refused.value.response["Error"]["Code"] in ("InvalidRequest", "InvalidArgument")
    assert bucket_name not in names(client)


def test_an_existing_bucket_keeps_its_key(region: Region, bucket: str) -> None:
    client = region.ibm_s3()
    other = region.new_root_key()["crn"]
    with pytest.raises(ClientError) as refused:
        keyed_bucket(client, bucket, other)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 409
    assert client.head_bucket(Bucket=bucket)["IBMSSEKPCrkId"] == region.env["ROOT_KEY_CRN"]


def test_an_unkeyed_bucket_cannot_be_given_a_key(region: Region, bucket_name: str) -> None:
    client = region.ibm_s3()
    client.create_bucket(Bucket=bucket_name)
    with pytest.raises(ClientError) as refused:
        keyed_bucket(client, bucket_name, region.env["ROOT_KEY_CRN"])
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 409
    assert not client.head_bucket(Bucket=bucket_name).get("IBMSSEKPEnabled")


@pytest.mark.parametrize("name", ["ab", "Upper-case", "under_score", "-hyphen", "1.2.3.4", "x" * 64])
def test_a_bad_bucket_name_is_refused(region: Region, name: str) -> None:
    answer = Signer.of(region.env).send("PUT", name)
    assert answer.status == 400
    assert b"<Code>InvalidBucketName</Code>" in answer.body


def test_only_an_empty_bucket_can_be_deleted(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"x")
    with pytest.raises(Exception, match="BucketNotEmpty"):
        s3.delete_bucket(Bucket=bucket)
    s3.delete_object(Bucket=bucket, Key="key")
    assert s3.delete_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert bucket not in names(s3)
    with pytest.raises(Exception, match="404"):
        s3.head_bucket(Bucket=bucket)


def test_a_bucket_that_never_was_is_not_there(s3: Any, bucket_name: str) -> None:
    with pytest.raises(Exception, match="NoSuchBucket"):
        s3.list_objects_v2(Bucket=bucket_name)
    with pytest.raises(Exception, match="NoSuchBucket"):
        s3.put_object(Bucket=bucket_name, Key="key", Body=b"x")
    with pytest.raises(Exception, match="NoSuchBucket"):
        s3.delete_bucket(Bucket=bucket_name)


def test_the_extended_list_comes_in_pages(region: Region, bucket_name: str) -> None:
    client = region.ibm_s3()
    names = [f"{bucket_name}-{letter}" for letter in "abc"]
    for name in names:
        client.create_bucket(Bucket=name)
    seen, marker = [], ""
    while True:
        page = client.list_buckets_extended(Prefix=f"{bucket_name}-", MaxKeys=2, Marker=marker)
        seen += [bucket["Name"] for bucket in page["Buckets"]]
        if not page["IsTruncated"]:
            break
        marker = page["NextMarker"]
        assert marker == seen[-1]
    assert seen == names
    answer = Signer.of(region.env).send("GET", "", query={"extended": "", "max-keys": "many"})
    assert (answer.status, b"<Code>InvalidArgument</Code>" in answer.body) == (400, True)
