"""Wycheproof's test vectors through the library."""

from __future__ import annotations

from pathlib import Path

from pkcs11_token import LIBRARY, PIN, Token, embedded, remote
from region import BIN, Region


def run(token: Token, *sections: str) -> int:
    """How many vectors had the right answer; none had a wrong one."""
    table = token.run(BIN / "wycheproof", LIBRARY, str(token.slot()), PIN, *sections)
    print(table)
    return int(table.splitlines()[-1].split()[0])


def test_embedded(tmp_path: Path) -> None:
    token = Token("wycheproof", embedded(tmp_path))
    runs = ("secret-keys", "derivation", "signatures"), ("agreement", "post-quantum"), ("rsa-encryption",)
    assert sum(run(token, *sections) for sections in runs) > 32_000


def test_remote(region: Region) -> None:
    """Signatures are verified in the library, also where the HSM is remote; the rest is the same unit's work, only slower."""
    assert run(Token("wycheproof", remote(region)), "secret-keys") > 4_500
