"""Wycheproof's test vectors through the library."""

from __future__ import annotations

from pathlib import Path

from pkcs11_token import LIBRARY, PIN, Token, embedded, remote
from region import BIN, Region


def run(token: Token, *sections: str) -> str:
    """The totals of these sections; the program fails if an answer is wrong."""
    table = token.run(BIN / "wycheproof", LIBRARY, str(token.slot()), PIN, *sections)
    print(table)
    return table.splitlines()[-1]


def test_embedded(tmp_path: Path) -> None:
    """The totals change with the release of the vectors, and with what the library offers."""
    token = Token("wycheproof", embedded(tmp_path))
    for sections, totals in (
        (("secret-keys", "derivation", "signatures"), "27123 right, 0 wrong, 56 beyond what is offered, 19538 left out"),
        (("agreement", "post-quantum"), "9614 right, 0 wrong, 0 beyond what is offered, 3045 left out"),
        (("rsa-encryption",), "769 right, 0 wrong, 0 beyond what is offered, 530 left out"),
    ):
        assert run(token, *sections) == totals


def test_remote(region: Region) -> None:
    """Signatures are verified in the library, also where the HSM is remote; the rest is the same unit's work, only slower."""
    token = Token("wycheproof", remote(region))
    assert run(token, "secret-keys") == "4538 right, 0 wrong, 44 beyond what is offered, 0 left out"
