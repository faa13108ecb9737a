"""What clients ask about configurations that buckets and objects do not have."""

from __future__ import annotations

from typing import Any

import boto3
import pytest

from region import Region


@pytest.mark.parametrize(
    "operation, code",
    [
        ("get_bucket_cors", "NoSuchCORSConfiguration"),
        ("get_bucket_lifecycle_configuration", "NoSuchLifecycleConfiguration"),
        ("get_bucket_policy", "NoSuchBucketPolicy"),
        ("get_bucket_replication", "ReplicationConfigurationNotFoundError"),
        ("get_bucket_tagging", "NoSuchTagSet"),
        ("get_bucket_website", "NoSuchWebsiteConfiguration"),
        ("get_object_lock_configuration", "ObjectLockConfigurationNotFoundError"),
        ("get_public_access_block", "NoSuchPublicAccessBlockConfiguration"),
    ],
)
def test_a_configuration_that_is_not_there(region: Region, bucket: str, operation: str, code: str) -> None:
    for name, expected in ((bucket, code), ("no-such-bucket", "NoSuchBucket")):
        with pytest.raises(Exception, match=expected) as refused:
            getattr(region.s3(), operation)(Bucket=name)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404  # type: ignore[attr-defined]


def test_encryption_is_that_of_the_bucket(region: Region, bucket: str, bucket_name: str) -> None:
    s3 = region.s3()
    [rule] = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    expected = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": region.env["ROOT_KEY_CRN"]}
    assert rule["ApplyServerSideEncryptionByDefault"] == expected
    s3.create_bucket(Bucket=f"{bucket_name}-open")
    with pytest.raises(Exception, match="ServerSideEncryptionConfigurationNotFoundError"):
        s3.get_bucket_encryption(Bucket=f"{bucket_name}-open")


def test_acls_are_private(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"x")
    for acl in (s3.get_bucket_acl(Bucket=bucket), s3.get_object_acl(Bucket=bucket, Key="key")):
        [grant] = acl["Grants"]
        assert grant["Permission"] == "FULL_CONTROL"
        assert grant["Grantee"]["ID"] == acl["Owner"]["ID"] == s3.list_buckets()["Owner"]["ID"]
        assert grant["Grantee"]["Type"] == "CanonicalUser"
    with pytest.raises(Exception, match="NoSuchKey"):
        s3.get_object_acl(Bucket=bucket, Key="never was")


def test_no_object_has_tags(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="key", Body=b"x")
    assert s3.get_object_tagging(Bucket=bucket, Key="key")["TagSet"] == []
    with pytest.raises(Exception, match="NoSuchKey"):
        s3.get_object_tagging(Bucket=bucket, Key="never was")


def test_every_object_is_its_only_version(s3: Any, bucket: str) -> None:
    keys = sorted(f"{folder}/{number} é" for folder in "ab" for number in range(4))
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    seen = []
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, PaginationConfig={"PageSize": 3}):
        seen += page["Versions"]
    assert [version["Key"] for version in seen] == keys
    assert all(version["VersionId"] == "null" and version["IsLatest"] and version["Size"] == 1 for version in seen)
    groups = [
        prefix["Prefix"]
        for page in s3.get_paginator("list_object_versions").paginate(
            Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 1}
        )
        for prefix in page.get("CommonPrefixes", [])
    ]
    assert groups == ["a/", "b/"]


def test_a_bucket_is_emptied_version_by_version(region: Region, bucket: str) -> None:
    for number in range(5):
        region.s3().put_object(Bucket=bucket, Key=str(number), Body=b"x")
    resource = boto3.resource("s3", **region._client_arguments())
    resource.Bucket(bucket).object_versions.delete()
    assert "Contents" not in region.s3().list_objects_v2(Bucket=bucket)
    resource.Bucket(bucket).delete()


def test_uploads_are_grouped_by_their_keys(s3: Any, bucket: str) -> None:
    """A delimiter used to be looked for in the upload's id too, which has hyphens."""
    for key in ("key", "with-hyphen", "with-two"):
        s3.create_multipart_upload(Bucket=bucket, Key=key)
    listed = s3.list_multipart_uploads(Bucket=bucket, Delimiter="-")
    assert [upload["Key"] for upload in listed["Uploads"]] == ["key"]
    assert [prefix["Prefix"] for prefix in listed["CommonPrefixes"]] == ["with-"]


def test_a_copy_on_condition_of_its_destination(region: Region, bucket: str) -> None:
    s3 = region.s3()
    first = s3.put_object(Bucket=bucket, Key="source", Body=b"source")["ETag"]
    where = {"Bucket": bucket, "Key": "copy", "CopySource": f"{bucket}/source"}
    s3.copy_object(**where, IfNoneMatch="*")
    for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"00"'}):
        with pytest.raises(Exception, match="PreconditionFailed"):
            s3.copy_object(**where, **condition)
    s3.copy_object(**where, IfMatch=first)


def test_two_hyphens_in_a_row_are_in_no_name(s3: Any, bucket_name: str) -> None:
    with pytest.raises(Exception, match="InvalidBucketName"):
        s3.create_bucket(Bucket=f"{bucket_name}--two")
