"""Wycheproof's test vectors through the library."""

from __future__ import annotations

from pkcs11_token import LIBRARY, PIN, Token
from region import BIN


def test_vectors(token: Token) -> None:
    table = token.run(BIN / "wycheproof", LIBRARY, str(token.slot()), PIN)
    print(table)
    right = int(table.splitlines()[-1].split()[0])
    assert right > 10_000, table
