"""Where questions are asked, and how a terminal is left after them."""

from __future__ import annotations

from pathlib import Path

import pexpect
import pytest

from region import BIN, clean_environment

QUESTION = "Enter a password to protect the signature key:\r\n> "


def at_terminal(directory: Path, script: str) -> pexpect.spawn:
    environment = {**clean_environment(), "CLOUDTKEFILES": str(directory), "TKE": str(BIN / "tke")}
    return pexpect.spawn("bash", ["-c", script], env=environment, encoding="utf-8", timeout=30)


@pytest.mark.parametrize("key", ["c", "\\"])
def test_a_password_that_is_broken_off_leaves_the_echo_on(tmp_path: Path, key: str) -> None:
    child = at_terminal(tmp_path, '"$TKE" sigkey-add --name ann; echo "code $?"; stty -a')
    child.expect_exact(QUESTION)
    child.send("half a pass")
    child.sendcontrol(key)
    child.expect_exact("FAILED\r\nCancelled. Nothing was changed.\r\ncode 1\r\n")
    printed = child.read()
    assert {"echo", "isig"} <= set(printed.split()) and "half" not in printed
    assert not list(tmp_path.iterdir())


def test_a_password_is_asked_for_at_the_terminal(tmp_path: Path) -> None:
    child = at_terminal(tmp_path, '"$TKE" sigkey-add > "$CLOUDTKEFILES/log"; echo "code $?"')
    child.expect_exact("Enter an administrator name to be associated with the signature key:\r\n> ")
    child.sendline("ann")
    child.expect_exact(QUESTION)
    child.sendline("secret")
    child.expect_exact("Re-enter the password to confirm:\r\n> ")
    child.sendline("secret")
    child.expect_exact("code 0")
    assert (tmp_path / "log").read_text().startswith("OK\nA signature key was created.\n")
