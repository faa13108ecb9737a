"""Fixtures: regions made by scripts/up in temporary directories."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from region import BIN, Region, keyed_bucket

# pexpect forks. What gRPC does before a fork can wait for ever for its own threads, and the child only execs.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

_numbers = itertools.count(1)


def pytest_sessionstart() -> None:
    missing = [name for name in ("hsm-emulator", "tke", "cos-service", "hsm-util", "libhsm_pkcs11.so") if not (BIN / name).exists()]
    if missing:
        pytest.exit(f"not built: {', '.join(missing)}; run scripts/test, or cargo build --release", returncode=3)


@pytest.fixture(scope="session")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    """One region for all tests that leave it as usable as they found it."""
    with_region = Region(tmp_path_factory.mktemp("region"))
    try:
        yield with_region.up()
    finally:
        with_region.down()


@pytest.fixture
def new_region(tmp_path: Path) -> Iterator[Callable[..., Region]]:
    """Makes regions that a test has for itself."""
    made: list[Region] = []

    def make(**options: Any) -> Region:
        directory = tmp_path / f"region-{len(made)}"
        directory.mkdir()
        made.append(Region(directory, **options))
        return made[-1].up()

    yield make
    for each in made:
        each.down()


@pytest.fixture(params=["ibm", "aws"])
def s3(request: pytest.FixtureRequest, region: Region) -> Any:
    """Both SDKs, one after the other."""
    return region.ibm_s3() if request.param == "ibm" else region.s3()


@pytest.fixture
def bucket_name() -> str:
    return f"bucket-{next(_numbers)}"


@pytest.fixture
def bucket(region: Region, bucket_name: str) -> str:
    """A new bucket under the region's first root key."""
    return keyed_bucket(region.ibm_s3(), bucket_name, region.env["ROOT_KEY_CRN"])
