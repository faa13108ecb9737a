"""SoftHSM and this project in its place, side by side."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from region import BIN, clean_environment

LIBRARY = BIN / "libhsm_pkcs11.so"
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN, SO_PIN = "1234", "5678"
INIT = ["--init-token", "--free", "--so-pin", SO_PIN, "--pin", PIN, "--label"]

Done = subprocess.CompletedProcess[str]


class Peer:
    """softhsm2-util, the real one or this project's by that name, with a token directory of its own."""

    def __init__(self, directory: Path, util: Path, library: Path) -> None:
        self.tokens = directory / "tokens"
        self.tokens.mkdir(parents=True)
        self.library = library
        self.command = util
        self.conf = directory / "softhsm2.conf"
        self.conf.write_text(f"directories.tokendir = {self.tokens}\n")

    @property
    def environment(self) -> dict[str, str]:
        return {**clean_environment(), "SOFTHSM2_CONF": str(self.conf)}

    def util(self, *arguments: str | Path) -> Done:
        return self.run(self.command, *arguments)

    def tool(self, *arguments: str | Path, library: Path | None = None) -> str:
        """pkcs11-tool, which must succeed; its standard output."""
        done = self.run("pkcs11-tool", "--module", library or self.library, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *command: str | Path) -> Done:
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )

    def init(self, label: str) -> str:
        """A new token; the number of its slot."""
        done = self.util(*INIT, label)
        assert done.returncode == 0, done.stderr
        return re.fullmatch(r".* reassigned to slot (\d+)", done.stdout.splitlines()[-1])[1]


def in_its_place(directory: Path) -> Peer:
    """This project's, by SoftHSM's names for the commands."""
    link = directory / "bin" / "softhsm2-util"
    link.parent.mkdir()
    link.symlink_to(BIN / "hsm-util")
    return Peer(directory / "ours", link, LIBRARY)


def the_real_one(directory: Path) -> Peer:
    return Peer(directory / "real", Path("/usr/bin/softhsm2-util"), SOFTHSM)


def pem_key(directory: Path, algorithm: str, *options: str, encrypted_by: str | None = None) -> Path:
    """A private key in PKCS #8."""
    path = directory / f"{algorithm}.pem"
    encryption = ["-aes-256-cbc", "-pass", f"pass:{encrypted_by}"] if encrypted_by else []
    command = ["openssl", "genpkey", "-algorithm", algorithm, *options, *encryption, "-out", path]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def public_key(directory: Path, key: Path, *options: str) -> Path:
    path = directory / "public.pem"
    command = ["openssl", "pkey", "-in", key, *options, "-pubout", "-out", path]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def check_signature(directory: Path, public: Path, signature: Path, data: Path, *options: str) -> None:
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-sigfile", signature, "-in", data, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Signature Verified Successfully" in done.stdout, done.stdout + done.stderr
