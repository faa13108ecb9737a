"""Listings: order, prefixes, delimiters, pages."""

from __future__ import annotations

from typing import Any

import pytest

from region import Region

KEYS = sorted(
    [*(f"logs/2026/{month:02}/{day:02}" for month in (1, 2) for day in range(1, 13)), "a", "a/b", "a b", "b+c", "z/é"],
    key=str.encode,
)


@pytest.fixture(scope="module")
def full(region: Region) -> str:
    client = region.ibm_s3()
    client.create_bucket(Bucket="listing")
    for key in KEYS:
        client.put_object(Bucket="listing", Key=key, Body=b"")
    return "listing"


def pages(client: Any, operation: str, **arguments: Any) -> list[dict[str, Any]]:
    size = arguments.pop("size")
    return list(client.get_paginator(operation).paginate(**arguments, PaginationConfig={"PageSize": size}))


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pages_make_up_the_whole(s3: Any, full: str, operation: str, size: int) -> None:
    got = pages(s3, operation, Bucket=full, size=size)
    assert [item["Key"] for page in got for item in page.get("Contents", [])] == KEYS
    assert len(got) == -(-len(KEYS) // size)
    assert [page["IsTruncated"] for page in got] == [True] * (len(got) - 1) + [False]


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_delimiter_rolls_up_prefixes(s3: Any, full: str, operation: str, size: int) -> None:
    def rolled(prefix: str) -> tuple[list[str], list[str]]:
        got = pages(s3, operation, Bucket=full, Prefix=prefix, Delimiter="/", size=size)
        keys = [item["Key"] for page in got for item in page.get("Contents", [])]
        return keys, [item["Prefix"] for page in got for item in page.get("CommonPrefixes", [])]

    assert rolled("") == (["a", "a b", "b+c"], ["a/", "logs/", "z/"])
    assert rolled("logs/2026/") == ([], ["logs/2026/01/", "logs/2026/02/"])
    assert rolled("a") == (["a", "a b"], ["a/"])
    assert rolled("nothing") == ([], [])


def test_a_listing_starts_after_any_key(s3: Any, full: str) -> None:
    after = s3.list_objects_v2(Bucket=full, StartAfter="logs/2026/01/05x")["Contents"]
    assert [item["Key"] for item in after] == [key for key in KEYS if key > "logs/2026/01/05x"]
    after = s3.list_objects(Bucket=full, Marker="a b")["Contents"]
    assert [item["Key"] for item in after] == [key for key in KEYS if key > "a b"]
    assert s3.list_objects_v2(Bucket=full, MaxKeys=0)["KeyCount"] == 0


def test_owner_comes_only_when_asked_for(s3: Any, full: str) -> None:
    assert "Owner" not in s3.list_objects_v2(Bucket=full)["Contents"][0]
    assert s3.list_objects_v2(Bucket=full, FetchOwner=True)["Contents"][0]["Owner"]["ID"]


def test_a_made_up_continuation_token_is_refused_or_harmless(s3: Any, full: str) -> None:
    try:
        listed = s3.list_objects_v2(Bucket=full, ContinuationToken="nonsense!")
    except Exception as refused:
        assert "InvalidArgument" in str(refused)
    else:
        assert set(item["Key"] for item in listed.get("Contents", [])) <= set(KEYS)
