"""A token of the PKCS #11 library as its users make it, with the library in the process and remote."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from region import BIN, Region, clean_environment, eventually, port_answers

LIBRARY = BIN / "libhsm_pkcs11.so"
PIN, SO_PIN = "1234", "56785678"


def embedded(directory: Path) -> dict[str, str]:
    """The environment of a program that has the HSM in its own process."""
    return {**clean_environment(), "HSM_PKCS11_STATE": str(directory / "hsm")}


def remote(region: Region) -> dict[str, str]:
    """The environment of a program that reaches a region's HSM."""
    return clean_environment() | {name: region.env[name] for name in ("HSM_GRPC_ENDPOINT", "HSM_API_KEY_FILE")}


def run(
    *command: str | Path, environment: dict[str, str], stdin: str = "", fails: bool = False, timeout: float = 120
) -> str:
    """Runs a program that has to succeed, or to fail; what it printed, errors too. The timeout is in seconds."""
    done = subprocess.run(
        command, env=environment, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
    assert (done.returncode != 0) == fails, f"{command}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout


class Token:
    """A new token with both PINs, and programs that use it."""

    def __init__(self, label: str, environment: dict[str, str], pin: str = PIN) -> None:
        self.label = label
        self.pin = pin
        self.environment = environment
        tool = ("pkcs11-tool", "--module", LIBRARY)
        slots = self.run(*tool, "--list-slots")
        free = re.search(r"\((0x[0-9a-f]+)\).*\n +token state: +uninitialized", slots)
        assert free, slots
        self.run(*tool, "--slot", free[1], "--init-token", "--label", label, "--so-pin", SO_PIN)
        self.tool = (*tool, "--token-label", label, "--login", "--pin", pin)
        self.pkcs11_tool("--login-type", "so", "--so-pin", SO_PIN, "--init-pin")

    def run(self, *command: str | Path, stdin: str = "", fails: bool = False, **variables: str) -> str:
        """Runs any program in the token's environment, with more variables."""
        return run(*command, environment={**self.environment, **variables}, stdin=stdin, fails=fails)

    def pkcs11_tool(self, *arguments: str | Path, fails: bool = False) -> str:
        """pkcs11-tool, logged in."""
        return self.run(*self.tool, *arguments, fails=fails)

    @contextmanager
    def serving(self, *command: str | Path, port: int, **variables: str) -> Iterator[None]:
        """A server in the token's environment, from when it listens; it is killed in the end."""
        log = Path("server.log")
        with log.open("w") as output:
            server = subprocess.Popen(
                command, env={**self.environment, **variables}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            eventually(lambda: port_answers(port) or server.poll() is not None, f"{command} listens")
            assert server.poll() is None, log.read_text()
            yield
        finally:
            server.kill()
            server.wait()

    def slot(self) -> int:
        """The ID of the token's slot."""
        slots = self.run("pkcs11-tool", "--module", LIBRARY, "--list-token-slots")
        found = re.search(rf"\((0x[0-9a-f]+)\).*\n +token label +: {re.escape(self.label)}\n", slots)
        assert found, slots
        return int(found[1], 16)
