"""python-pkcs11's own tests, out of its source package, with the library in the process and remote."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from region import BIN, Region, clean_environment

LIBRARY = BIN / "libhsm_pkcs11.so"
LABEL, PIN, SO_PIN = "TEST", "1234", "56785678"

# Why a test does not apply.
NOT_APPLICABLE = {
    "SoftHSMv2 only": "asks for SoftHSM's own behaviour, such as keys on explicit curves",
    "Requires an additional PKCS#11 module": "needs a second library",
}
# What PKCS #11 v3.1 wants to be otherwise than these tests do.
EXPLAINED = {
    "tests/test_aes.py::AESTests::test_derive_using_cbc_encrypt_8_NEGATIVE_256_BIT_SHORT_DATA": ["- pkcs11.exceptions.DataLenRange"],
    "tests/test_aes.py::AESTests::test_derive_using_ecb_encrypt_4_NEGATIVE_256_BIT_SHORT_IV": ["- pkcs11.exceptions.DataLenRange"],
}
PASSED = 152


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of the very version that is installed, without the package beside them."""
    release = version("python-pkcs11")
    downloads = BIN.parent / "sdists"
    archive = downloads / f"python_pkcs11-{release}.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "python-pkcs11"]
        subprocess.run([*command, "--dest", downloads, f"python-pkcs11=={release}"], check=True, timeout=300)
    directory = tmp_path_factory.mktemp("python-pkcs11")
    shutil.unpack_archive(archive, directory)
    source = directory / archive.name.removesuffix(".tar.gz")
    shutil.rmtree(source / "pkcs11")
    return source


def embedded(directory: Path) -> dict[str, str]:
    return {"HSM_PKCS11_STATE": str(directory / "hsm")}


def run(suite: Path, environment: dict[str, str]) -> None:
    environment = {**clean_environment(), **environment}
    tool = ["pkcs11-tool", "--module", LIBRARY]
    free = ["--slot-index", "0", "--init-token", "--label", LABEL, "--so-pin", SO_PIN]
    user = ["--token-label", LABEL, "--login", "--login-type", "so", "--so-pin", SO_PIN, "--init-pin", "--pin", PIN]
    for arguments in (free, user):
        subprocess.run([*tool, *arguments], env=environment, check=True, capture_output=True, timeout=60)
    environment |= {
        "PKCS11_MODULE": str(LIBRARY),
        "PKCS11_TOKEN_LABEL": LABEL,
        "PKCS11_TOKEN_PIN": PIN,
        "PKCS11_TOKEN_SO_PIN": SO_PIN,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--no-header", "-p", "no:cacheprovider", "tests"]
    environment["COLUMNS"] = "400"
    done = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True, timeout=600)
    summary = done.stdout[done.stdout.rindex("short test summary info") :]
    lines = summary.splitlines()
    outcomes = [line.split(maxsplit=2) for line in lines if re.match(r"(PASSED|FAILED|ERROR) ", line)]
    counts = Counter(outcome for outcome, *_ in outcomes)
    bad = {name: reason for outcome, name, *reason in outcomes if outcome != "PASSED"}
    skipped = re.findall(r"^SKIPPED \[(\d+)\] .*?: (.*)$", summary, re.M)
    print(f"{counts['PASSED']} passed, {counts['FAILED']} failed, {sum(int(n) for n, _ in skipped)} do not apply")
    assert bad == EXPLAINED, done.stdout
    assert not {reason for _, reason in skipped} - NOT_APPLICABLE.keys(), summary
    assert counts["PASSED"] == PASSED, summary


def test_embedded(suite: Path, tmp_path: Path) -> None:
    run(suite, embedded(tmp_path))


def test_remote(suite: Path, region: Region) -> None:
    names = ("HSM_GRPC_ENDPOINT", "HSM_API_KEY_FILE")
    run(suite, {name: region.env[name] for name in names})
