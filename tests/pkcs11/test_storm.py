"""256 threads with all kinds of calls, every result of which is looked at. STORM_SECONDS=60 is the long form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pkcs11_token import LIBRARY, run


def test_storm(stress: Callable[[str], Path], backend: dict[str, str]) -> None:
    environment = {"STORM_SECONDS": "3", **backend}
    # The program itself ends 120 seconds after its storm.
    timeout = int(environment["STORM_SECONDS"]) + 150
    print(run(stress("storm"), LIBRARY, environment=environment, timeout=timeout))


def test_a_thread_sees_its_own_changes(stress: Callable[[str], Path], backend: dict[str, str]) -> None:
    environment = {"CHANGES_SECONDS": "1", **backend}
    # The program itself ends 60 seconds after its changes.
    timeout = int(environment["CHANGES_SECONDS"]) + 90
    print(run(stress("own_changes"), LIBRARY, environment=environment, timeout=timeout))
