"""A token with ten thousand objects: MANY_OBJECTS=100000 is the long form. Times are printed, and nothing is promised of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from pkcs11_token import LIBRARY



def test_many_objects(stress: Callable[[str], Path], backend: dict[str, str]) -> None:
    # The server's store is the same: there, the searches of the library are what is of interest.
    default = "10000" if "HSM_PKCS11_STATE" in backend else "2000"
    command = [stress("many"), LIBRARY, os.environ.get("MANY_OBJECTS", default)]
    done = subprocess.run(command, env=backend, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
