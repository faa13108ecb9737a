"""Every client of the PKCS #11 library gets an HSM with a token of its own, in the process and remote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pkcs11_token import Token, embedded, remote
from region import Region


@pytest.fixture(scope="module", params=["embedded", "remote"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of programs that use a new HSM: some clients try the PIN on every token that they see."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        yield embedded(directory)
        return
    region = Region(directory)
    try:
        yield remote(region.up())
    finally:
        region.down()


@pytest.fixture(scope="module")
def token(request: pytest.FixtureRequest, backend: dict[str, str]) -> Token:
    """The module's token, in which its tests leave what they make."""
    return Token(Path(request.path).stem.removeprefix("test_"), backend)


@pytest.fixture(autouse=True)
def work_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients read and write files by short names."""
    monkeypatch.chdir(tmp_path)
