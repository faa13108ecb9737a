"""A tree of real files goes in, and comes out as it was."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from region import Region, keyed_bucket

MIB = 1024 * 1024
FILES, BYTES = 2_000, 500 * MIB
# Sizes at which storage changes its ways, and two files above 100 MB.
GENERATED = [0, 1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, MIB - 1, MIB, MIB + 1, 101 * MIB + 1, 120 * MIB]
MULTIPART_FROM = 110 * MIB


@dataclass(frozen=True)
class Original:
    """What was read from the disk when it was uploaded."""

    key: str
    size: int
    md5: str
    sha256: str


def real_files() -> Iterator[Path]:
    """Documentation, libraries and sources that a development machine has: many small files and some large."""
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    roots = ["/usr/share", sysroot, "/usr/lib"]
    for root in roots:
        for directory, below, names in os.walk(root):
            below.sort()
            for name in sorted(names):
                path = Path(directory, name)
                if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                    yield path


def chosen_files() -> list[Path]:
    """At least FILES files and BYTES bytes: files as they come, then large ones that fill up the bytes."""
    paths = list(itertools.islice(real_files(), FILES))
    total = sum(path.stat().st_size for path in paths)
    taken = set(paths)
    large = (path for path in real_files() if MIB < path.stat().st_size < 60 * MIB and path not in taken)
    while total < BYTES:
        paths.append(next(large))
        total += paths[-1].stat().st_size
    return paths


@pytest.fixture(scope="module")
def tree(region: Region, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Original]]:
    """Uploads everything, several files at a time."""
    client = region.ibm_s3()
    bucket = keyed_bucket(client, "tree", region.env["ROOT_KEY_CRN"])
    directory = tmp_path_factory.mktemp("generated")
    paths = chosen_files()
    for size in GENERATED:
        paths.append(directory / f"{size}-bytes")
        paths[-1].write_bytes(random.Random(size).randbytes(size))

    def upload(path: Path) -> Original:
        key = str(path).lstrip("/")
        body = path.read_bytes()
        md5 = hashlib.md5(body).hexdigest()
        if len(body) >= MULTIPART_FROM:
            client.upload_file(str(path), bucket, key)
        else:
            assert client.put_object(Bucket=bucket, Key=key, Body=body)["ETag"] == f'"{md5}"', key
        return Original(key, len(body), md5, hashlib.sha256(body).hexdigest())

    with ThreadPoolExecutor(4) as pool:
        originals = list(pool.map(upload, paths))
    assert len(originals) >= FILES and sum(original.size for original in originals) >= BYTES
    return bucket, {original.key: original for original in originals}


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
def test_the_whole_tree_is_listed(region: Region, tree: tuple[str, dict[str, Original]], operation: str) -> None:
    bucket, originals = tree
    pages = list(region.ibm_s3().get_paginator(operation).paginate(Bucket=bucket))
    assert len(pages) == -(-len(originals) // 1000)
    listed = [item for page in pages for item in page["Contents"]]
    assert [item["Key"] for item in listed] == sorted(originals, key=str.encode)
    for item in listed:
        original = originals[item["Key"]]
        assert item["Size"] == original.size
        if original.size < MULTIPART_FROM:
            assert item["ETag"] == f'"{original.md5}"'
        else:
            assert item["ETag"].endswith('-15"')


def test_every_file_reads_back(region: Region, tree: tuple[str, dict[str, Original]]) -> None:
    bucket, originals = tree
    client = region.ibm_s3()

    def check(original: Original) -> None:
        digest = hashlib.sha256()
        body: Any = client.get_object(Bucket=bucket, Key=original.key)["Body"]
        while piece := body.read(4 * MIB):
            digest.update(piece)
        assert digest.hexdigest() == original.sha256, original.key

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(check, originals.values()))) == len(originals)


def test_ranges_of_real_files_read_back(region: Region, tree: tuple[str, dict[str, Original]]) -> None:
    bucket, originals = tree
    client = region.ibm_s3()
    dice = random.Random(2026)
    candidates = sorted((original for original in originals.values() if original.size > 1), key=lambda each: each.key)
    largest = sorted(candidates, key=lambda each: each.size)[-5:]
    for original in [*dice.sample(candidates, 150), *largest * 5]:
        first = dice.randrange(original.size)
        last = min(original.size - 1, first + dice.randrange(2 * MIB))
        got = client.get_object(Bucket=bucket, Key=original.key, Range=f"bytes={first}-{last}")["Body"].read()
        path = Path("/", original.key)
        with path.open("rb") as file:
            file.seek(first)
            assert got == file.read(last - first + 1), (original.key, first, last)
