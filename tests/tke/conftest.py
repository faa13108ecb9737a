"""An operator's desk for each drill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tke_desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """An instance that nobody has initialised yet, and its operator."""
    desk = Desk(tmp_path).serve()
    yield desk
    desk.stop()
