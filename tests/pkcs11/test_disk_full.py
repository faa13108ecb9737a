"""No room for more on the disk of the embedded library: a code that says so, nothing lost, and all else goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from pkcs11_token import LIBRARY, embedded, run

Stress = Callable[[str], Path]


def test_a_file_must_not_grow(stress: Stress, tmp_path: Path) -> None:
    print(run(stress("disk_full"), "limit", LIBRARY, tmp_path, environment=embedded(tmp_path)))


def test_the_disk_is_full(stress: Stress, tmp_path: Path) -> None:
    """A disk of 8 MiB in memory. Where nothing may be mounted, no file may grow instead."""
    mount = mounting(tmp_path)
    kind = "disk" if mount else "limit"
    print(run(*mount, stress("disk_full"), kind, LIBRARY, tmp_path, environment=embedded(tmp_path)))


def mounting(directory: Path) -> list[str | Path]:
    """The words before a command that runs with a small disk mounted, which nobody else sees and which ends with it."""
    mount: list[str | Path] = ["sh", "-c", 'mount -t tmpfs -o size=8m none "$0" && exec "$@"', directory]
    for unshare in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        try:
            done = subprocess.run([*unshare, *mount, "true"], capture_output=True)
        except FileNotFoundError:
            break
        if done.returncode == 0:
            return [*unshare, *mount]
    print("nothing may be mounted here")
    return []
