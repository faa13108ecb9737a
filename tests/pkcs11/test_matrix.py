"""Every function of the PKCS #11 library with whatever an application may get wrong: matrix/, in C, plain and sanitized."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from region import BIN, ROOT, Region, clean_environment

LIBRARY = BIN / "libhsm_pkcs11.so"
SOURCES = Path(__file__).parent / "matrix"
FLAGS = ["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
# Fewer calls than this, and something was left out.
CALLS = 36_300


def header_directory() -> Path:
    """Where pkcs11.h is: in the package that the library takes its types from."""
    # Packages of other platforms need not be here.
    host = f"{platform.machine()}-unknown-linux-gnu"
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    packages = json.loads(done.stdout)["packages"]
    manifest = next(package["manifest_path"] for package in packages if package["name"] == "cryptoki-sys")
    return Path(manifest).parent / "vendor"


@pytest.fixture(scope="module", params=["plain", "sanitized"])
def matrix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    directory = tmp_path_factory.mktemp("matrix")
    headers = header_directory()
    generator = [sys.executable, SOURCES / "generate.py", headers / "pkcs11.h", directory]
    subprocess.run(generator, check=True, timeout=60)
    flags = [*FLAGS, *(SANITIZERS if request.param == "sanitized" else []), f"-I{headers}", f"-I{directory}", f"-I{SOURCES}"]
    program = directory / "matrix"
    sources = [*sorted(SOURCES.glob("*.c")), directory / "functions.c"]
    done = subprocess.run(["cc", *flags, *sources, "-o", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return program


def run(matrix: Path, environment: dict[str, str]) -> None:
    environment = {**clean_environment(), "ASAN_OPTIONS": "detect_leaks=1", **environment}
    done = subprocess.run([matrix, LIBRARY], env=environment, capture_output=True, text=True, timeout=120)
    summary = re.search(r"^(\d+) calls, \d+ failures$", done.stdout, re.M)
    print(summary.group() if summary else "it did not come to its end")
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary and int(summary.group(1)) >= CALLS, done.stdout


def test_embedded(matrix: Path, tmp_path: Path) -> None:
    run(matrix, {"HSM_PKCS11_STATE": str(tmp_path / "hsm")})


def test_remote(matrix: Path, new_region: Callable[..., Region]) -> None:
    region = new_region()
    run(matrix, {name: region.env[name] for name in ("HSM_GRPC_ENDPOINT", "HSM_API_KEY_FILE")})
