"""No room for more on the disk of the embedded library: a code that says so, nothing lost, and all else goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pkcs11_token import LIBRARY, embedded, run

# A mount that nobody else sees, and that ends with the process.
MOUNT = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=8m none "$0" && exec "$@"']


def may_mount(directory: str = "/mnt") -> bool:
    return subprocess.run([*MOUNT, directory, "true"], capture_output=True).returncode == 0


# A limit of the process stands for the disk where nothing may be mounted.
@pytest.mark.parametrize("kind", ["limit", *(["disk"] if may_mount() else [])])
def test_no_room(stress: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    mount = [*MOUNT, str(tmp_path)] if kind == "disk" else []
    print(run(*mount, stress("disk_full"), kind, LIBRARY, tmp_path, environment=embedded(tmp_path)))
