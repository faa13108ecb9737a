"""No room for more on the disk of the embedded library: a code that says so, nothing lost, and all else goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pkcs11_token import LIBRARY, embedded, run

# A mount that nobody else sees, and that ends with the process.
MOUNT = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=8m none "$0" && exec "$@"']


def want_mount(directory: Path) -> None:
    """Ends the test where nothing can be mounted: only root may be expected to."""
    try:
        done = subprocess.run([*MOUNT, directory, "true"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        reason = f"exit code {done.returncode}: {done.stdout}" if done.returncode else ""
    except FileNotFoundError as error:
        reason = str(error)
    if reason and os.geteuid() != 0:
        pytest.skip(f"not root, no mount: {reason}")
    assert not reason, f"no mount: {reason}"


# A limit of the process stands for the disk where nothing may be mounted.
@pytest.mark.parametrize("kind", ["limit", "disk"])
def test_no_room(stress: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    mount = []
    if kind == "disk":
        want_mount(tmp_path)
        mount = [*MOUNT, str(tmp_path)]
    print(run(*mount, stress("disk_full"), kind, LIBRARY, tmp_path, environment=embedded(tmp_path)))
