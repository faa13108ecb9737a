"""Every client of the PKCS #11 library gets a token of its own, in the process and remote."""

from __future__ import annotations

from pathlib import Path

import pytest

from pkcs11_token import Token, embedded, remote


@pytest.fixture(scope="module", params=["embedded", "remote"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of programs that use the library."""
    if request.param == "embedded":
        return embedded(tmp_path_factory.mktemp("embedded"))
    return remote(request.getfixturevalue("region"))


@pytest.fixture(scope="module")
def token(request: pytest.FixtureRequest, backend: dict[str, str]) -> Token:
    """The module's token, in which its tests leave what they make."""
    return Token(Path(request.path).stem.removeprefix("test_"), backend)


@pytest.fixture(autouse=True)
def work_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients read and write files by short names."""
    monkeypatch.chdir(tmp_path)
