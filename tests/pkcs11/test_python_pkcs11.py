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

from pkcs11_token import LIBRARY, SO_PIN, Token
from region import BIN

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


def test_the_own_suite_of_python_pkcs11(suite: Path, token: Token) -> None:
    environment = token.environment | {
        "PKCS11_MODULE": str(LIBRARY),
        "PKCS11_TOKEN_LABEL": token.label,
        "PKCS11_TOKEN_PIN": token.pin,
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
