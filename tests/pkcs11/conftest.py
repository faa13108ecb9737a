"""Every client of the PKCS #11 library gets an HSM with a token of its own, in the process and remote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pkcs11_c import compile_program
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


@pytest.fixture(scope="session")
def stress(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles a program of stress/, the first time that it is asked for."""
    sources, directory = Path(__file__).parent / "stress", tmp_path_factory.mktemp("stress")

    def program(name: str) -> Path:
        if not (directory / name).exists():
            # Only one of them uses it, and it takes nothing from the others.
            libraries = ["-Wl,--as-needed", "-l:libcrypto.so.3"]
            inputs = [sources / f"{name}.c", sources / "stress.c"]
            compile_program(directory / name, "-O1", "-pthread", *inputs, *libraries)
        return directory / name

    return program


@pytest.fixture(autouse=True)
def work_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients read and write files by short names."""
    monkeypatch.chdir(tmp_path)
