"""A token with five thousand objects: MANY_OBJECTS=100000 is the long form. Times are printed, and nothing is promised
of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pkcs11_token import LIBRARY, run


def test_many_objects(stress: Callable[[str], Path], backend: dict[str, str]) -> None:
    # The server's store is the same: there, the searches of the library are what is of interest.
    default = "5000" if "HSM_PKCS11_STATE" in backend else "2000"
    objects = os.environ.get("MANY_OBJECTS", default)
    # The program itself ends after 900 seconds.
    print(run(stress("many"), LIBRARY, objects, environment=backend, timeout=930))
