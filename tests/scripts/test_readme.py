"""What the README shows works as pasted."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from region import ROOT, clean_environment, run_script

README = (ROOT / "README.md").read_text()


@pytest.fixture
def tour(tmp_path: Path) -> Iterator[list[str]]:
    """The README's blocks. Their directories are in the test's own one, if they run in `environment`."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    yield [block.replace("--detach", "--detach --no-build") for block in blocks]
    for state in tmp_path.glob("tmp.*/state"):
        run_script("down", "--state", state)


def environment(tmp_path: Path) -> dict[str, str]:
    return {**clean_environment(), "TMPDIR": str(tmp_path)}


def test_the_tour_works_as_pasted(tour: list[str], tmp_path: Path) -> None:
    [block] = [block for block in tour if "create_bucket" in block]
    assert "mktemp -d" in block and "--no-build" in block
    done = subprocess.run(
        ["bash", "-ec", block], cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("crn:")]
    crn, count = line.split()
    [env] = tmp_path.glob("tmp.*/env")
    assert crn == re.search(r"^ROOT_KEY_CRN=(.*)$", env.read_text(), re.MULTILINE)[1]  # type: ignore[index]
    assert count == "1"


def test_the_pkcs11_line_works_as_pasted(tour: list[str], tmp_path: Path) -> None:
    [block] = [block for block in tour if "pkcs11-tool" in block]
    data = {**environment(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-ec", block], cwd=ROOT, capture_output=True, text=True, timeout=60, env=data)
    assert done.returncode == 0, done.stderr
    assert "Token successfully initialized" in done.stdout
    assert any(tmp_path.iterdir())


def test_the_drill_works_as_pasted(tour: list[str], tmp_path: Path) -> None:
    [block] = [block for block in tour if "--imprint" in block]
    done = subprocess.run(
        ["bash", "-ec", f"{block}\nwait"], cwd=ROOT, capture_output=True, text=True, timeout=60, env=environment(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "CRYPTO UNIT" in done.stdout.upper(), done.stdout
    [state] = tmp_path.glob("tmp.*/state")
    assert not (state / "endpoint").exists(), "it was stopped"


DOCS = sorted(path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize(
    "document", ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", *map(str, DOCS)]
)
def test_documents_point_at_what_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    paths = {path for path in re.findall(r"`((?:tests|scripts|cos-service|hsm-emulator|docs)/[\w./-]+)`", text)}
    for name in links | paths:
        place = (ROOT / document).parent if name in links else ROOT
        assert os.path.exists(place / name), f"{document} points at {name}"
