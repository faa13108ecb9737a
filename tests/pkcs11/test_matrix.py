"""Every function of the PKCS #11 library with whatever an application may get wrong: matrix/, in C, plain and sanitized."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pkcs11_c import compile_program, header_directory
from region import BIN, Region, clean_environment

LIBRARY = BIN / "libhsm_pkcs11.so"
SOURCES = Path(__file__).parent / "matrix"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
# Fewer calls than this, and something was left out.
CALLS = 36_300


@pytest.fixture(scope="module", params=["plain", "sanitized"])
def matrix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    directory = tmp_path_factory.mktemp("matrix")
    generator = [sys.executable, SOURCES / "generate.py", header_directory() / "pkcs11.h", directory]
    subprocess.run(generator, check=True, timeout=60)
    flags = SANITIZERS if request.param == "sanitized" else []
    sources = [*sorted(SOURCES.glob("*.c")), directory / "functions.c"]
    return compile_program(directory / "matrix", *flags, f"-I{directory}", f"-I{SOURCES}", *sources)


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
