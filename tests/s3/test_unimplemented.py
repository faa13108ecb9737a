"""What is not there says so: no operation of the SDKs' models, and no query, is taken for another one."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import botocore.session
import ibm_botocore.session
import pytest

from region import Region
from sigv4 import Signer

IMPLEMENTED = {
    "AbortMultipartUpload", "CompleteMultipartUpload", "CopyObject", "CreateBucket", "CreateMultipartUpload",
    "DeleteBucket", "DeleteObject", "DeleteObjects", "GetBucketAcl", "GetBucketCors", "GetBucketEncryption",
    "GetBucketLifecycle", "GetBucketLifecycleConfiguration", "GetBucketLocation", "GetBucketPolicy",
    "GetBucketReplication", "GetBucketTagging", "GetBucketVersioning", "GetBucketWebsite", "GetObject", "GetObjectAcl",
    "GetObjectLockConfiguration", "GetObjectTagging", "GetPublicAccessBlock", "HeadBucket", "HeadObject", "ListBuckets",
    "ListBucketsExtended", "ListMultipartUploads", "ListObjectVersions", "ListObjects", "ListObjectsV2", "ListParts",
    "PutObject", "UploadPart", "UploadPartCopy",
}  # fmt: skip
# The path of this one is no bucket's name.
OTHERWISE = {"WriteGetObjectResponse": 400}

MODELS = {"aws": botocore.session, "ibm": ibm_botocore.session}
OPERATIONS = [
    (sdk, name)
    for sdk, session in MODELS.items()
    for name in session.get_session().get_service_model("s3").operation_names
    if name not in IMPLEMENTED
]


def example(shape: Any) -> Any:
    """A value that the model accepts, with what is required and no more."""
    match shape.type_name:
        case "structure" if getattr(shape, "is_tagged_union", False):
            return {name: example(member) for name, member in list(shape.members.items())[:1]}
        case "structure":
            return {name: example(shape.members[name]) for name in shape.required_members}
        case "list":
            return [example(shape.member)]
        case "map":
            return {}
        case "integer" | "long":
            return 1
        case "boolean":
            return True
        case "timestamp":
            return datetime(2030, 1, 1, tzinfo=timezone.utc)
        case "blob":
            return b"x"
        case _:
            return "x" * shape.metadata.get("min", 1)


@pytest.mark.parametrize("sdk, operation", OPERATIONS, ids=lambda value: str(value))
def test_an_operation_that_is_not_there_changes_nothing(region: Region, bucket: str, sdk: str, operation: str) -> None:
    options = {"inject_host_prefix": False, "request_checksum_calculation": "when_required"}
    s3 = region.ibm_s3(**options) if sdk == "ibm" else region.s3(**options)
    s3.put_object(Bucket=bucket, Key="key", Body=b"content")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="upload")["UploadId"]
    model = s3.meta.service_model.operation_model(operation)
    given = {**example(model.input_shape), "Bucket": bucket, "Key": "key"}
    given = {name: value for name, value in given.items() if name in model.input_shape.members}
    with pytest.raises(Exception) as refused:
        s3._make_api_call(operation, given)
    answer = getattr(refused.value, "response", {})
    assert answer, refused.value
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == OTHERWISE.get(operation, 501), answer
    assert answer["Error"]["Code"] == ("InvalidBucketName" if operation in OTHERWISE else "NotImplemented")

    assert s3.get_object(Bucket=bucket, Key="key")["Body"].read() == b"content"
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["key"]
    assert [item["UploadId"] for item in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]


@pytest.mark.parametrize(
    "method, path, query",
    [
        ("PUT", "bucket/key", {"somethingNew": ""}),
        ("PUT", "bucket/key", {"partNumber": "1"}),
        ("PUT", "bucket/key", {"uploadId": "1"}),
        ("PUT", "bucket/key", {"versionId": "null"}),
        ("PUT", "bucket/key", {"x-amz-acl": "public-read"}),
        ("PUT", "bucket/key", {"x-amz-meta-a": "b"}),
        ("DELETE", "bucket", {"somethingNew": ""}),
        ("DELETE", "bucket/key", {"somethingNew": ""}),
        ("GET", "bucket/key", {"somethingNew": ""}),
        ("HEAD", "bucket/key", {"acl": ""}),
        ("HEAD", "bucket", {"acl": ""}),
        ("GET", "bucket", {"list-type": "3"}),
        ("GET", "bucket", {"delete": ""}),
        ("GET", "", {"somethingNew": ""}),
        ("GET", "", {"extended": "", "somethingNew": ""}),
        ("POST", "bucket", {"somethingNew": ""}),
    ],
)
def test_a_query_that_is_not_understood_is_refused(
    region: Region, bucket: str, method: str, path: str, query: dict[str, str]
) -> None:
    signer = Signer.of(region.env)
    assert signer.send("PUT", f"{bucket}/key", b"content").status == 200
    body = b"other" if method == "PUT" else b""
    answer = signer.send(method, path.replace("bucket", bucket), body, query=query)
    assert answer.status == 501, answer.body
    if method not in ("HEAD", "POST"):
        [name] = [name for name in query if name not in ("extended",)]
        assert f"?{name}".encode() in answer.body
    assert signer.send("GET", f"{bucket}/key").body == b"content"


def test_a_query_is_judged_after_the_signature(region: Region, bucket: str) -> None:
    stranger = Signer.of(region.env, secret_key="0" * 48)
    assert stranger.send("PUT", f"{bucket}/key", b"x", query={"somethingNew": ""}).status == 403


def test_what_any_request_may_carry_is_no_sub_resource(region: Region, bucket: str) -> None:
    signer = Signer.of(region.env)
    assert signer.send("PUT", f"{bucket}/key", b"x", query={"x-id": "PutObject"}).status == 200
    answer = signer.send("GET", f"{bucket}/key", query={"x-id": "GetObject", "response-content-type": "text/plain"})
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain")
