"""Programs in C that use the PKCS #11 library: how they are compiled."""

from __future__ import annotations

import functools
import json
import platform
import subprocess
from pathlib import Path

from region import ROOT

FLAGS = ["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror"]


@functools.cache
def header_directory() -> Path:
    """Where pkcs11.h is: in the package that the library takes its types from."""
    # Packages of other platforms need not be here.
    host = f"{platform.machine()}-unknown-linux-gnu"
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    packages = json.loads(done.stdout)["packages"]
    manifest = next(package["manifest_path"] for package in packages if package["name"] == "cryptoki-sys")
    return Path(manifest).parent / "vendor"


def compile_program(program: Path, *arguments: str | Path) -> Path:
    """Compiles and links it; warnings are errors."""
    command = ["cc", *FLAGS, f"-I{header_directory()}", *arguments, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return program
