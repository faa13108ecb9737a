"""Processes that fork, end, unload and use their own OpenSSL, at any moment: stress/, in C."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pkcs11_token import LIBRARY, run

# Enough to meet every case; FORKS=200, LIVES=1000, FINALIZES=1000 and EXITS=100 are the long form.
SHORT = {"FORKS": "40", "LIVES": "600", "FINALIZES": "50"}
EXITS = int(os.environ.get("EXITS", "5"))
# The programs themselves end after 300.
SECONDS = 330

Stress = Callable[[str], Path]


@pytest.fixture
def environment(backend: dict[str, str]) -> dict[str, str]:
    return {**SHORT, **backend}


@pytest.mark.parametrize("case", ["operations", "spawns", "threads"])
def test_fork(stress: Stress, environment: dict[str, str], case: str) -> None:
    print(run(stress("fork"), case, LIBRARY, environment=environment, timeout=SECONDS))


@pytest.fixture(scope="module")
def life(stress: Stress, backend: dict[str, str]) -> Path:
    """The program, whose token is made."""
    program = stress("life")
    run(program, "make", LIBRARY, environment=backend)
    return program


@pytest.mark.parametrize("case", ["leaks", "reloads", "finalize"])
def test_beginnings_and_ends(life: Path, environment: dict[str, str], case: str) -> None:
    print(run(life, case, LIBRARY, environment=environment, timeout=SECONDS))


def test_two_copies_of_the_library_in_one_process(life: Path, environment: dict[str, str], tmp_path: Path) -> None:
    copy = shutil.copy(LIBRARY, tmp_path / "copy.so")
    try:
        run(life, "copies", LIBRARY, copy, environment=environment)
    finally:
        copy.unlink()


@pytest.mark.parametrize("way", ["0", "1", "2"], ids=["return", "finalize", "quick_exit"])
def test_the_process_ends_while_threads_are_inside_calls(life: Path, environment: dict[str, str], way: str) -> None:
    for _ in range(EXITS):
        run(life, "exit", LIBRARY, way, environment=environment)


ORDERS = [
    "loaded-first",
    "finalized-before-openssl",
    "finalized-after-openssl",
    "finalized-by-openssl",
    "cleaned-up-between",
    "never-used",
]


@pytest.mark.parametrize("order", ORDERS)
def test_a_program_with_an_openssl_of_its_own(stress: Stress, environment: dict[str, str], order: str) -> None:
    printed = run(stress("openssl"), order, LIBRARY, environment=environment)
    assert ("finalized at exit" in printed) == order.startswith("finalized-"), printed
