"""The drills of operators: every one that is tested can be run by its number, and the other way round."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_numbered_drill_is_listed() -> None:
    tested = {int(number) for file in (ROOT / "tests/tke").glob("*.py") for number in re.findall(r"^def test_(\d+)_", file.read_text(), re.M)}
    command = [ROOT / "scripts/drills/operator", "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert {int(line.split()[0]) for line in listed.splitlines()} == tested == {*range(1, 27)} - {10}


def test_unknown_drills_are_refused() -> None:
    done = subprocess.run([ROOT / "scripts/drills/operator", "10"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "no such drill: 10" in done.stderr
