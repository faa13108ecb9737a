"""A region under test: the real processes, started and stopped by the project's own scripts."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import boto3
import botocore.config
import ibm_boto3
import ibm_botocore.config

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"

# Short, so that tests of the lease do not take long.
LEASE_SECONDS = 1

T = TypeVar("T")


def run_script(name: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of the project to its end, whatever its exit code."""
    return subprocess.run(
        [ROOT / "scripts" / name, *arguments],
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=180,
        stdin=subprocess.DEVNULL,
    )


def clean_environment() -> dict[str, str]:
    """The environment without what a region would have put there."""
    prefixes = ("AWS_", "HSM_", "COS_", "S3_", "ROOT_KEY_", "INSTANCE_", "PKCS11_", "EP11CLIENT_", "SOFTHSM2_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def read_env_file(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("export ")]
    return dict(line.split("=", 1) for line in lines)


class Region:
    """An instance and its storage service in a directory of their own."""

    def __init__(self, directory: Path, lease_seconds: int = LEASE_SECONDS) -> None:
        self.state = directory / "state"
        self.env_file = directory / "env"
        self.lease = f"{lease_seconds}s"
        self.env: dict[str, str] = {}
        self._children: list[subprocess.Popen[bytes]] = []

    def up(self) -> Region:
        """Starts what is not running."""
        done = run_script(
            "up", "--detach", "--no-build", "--state", self.state, "--env", self.env_file, COS_LEASE=self.lease
        )
        assert done.returncode == 0, done.stderr
        self.env = read_env_file(self.env_file)
        return self

    def down(self) -> None:
        done = run_script("down", "--state", self.state)
        assert done.returncode == 0, done.stderr
        while self._children:
            self._children.pop().wait()

    def pid(self, process: str) -> int:
        """`hsm` or `cos`."""
        return int((self.state / f"{process}.pid").read_text().split()[0])

    def signal(self, process: str, number: signal.Signals) -> None:
        """Sends a signal; if it's SIGSTOP, waits until no thread of the process runs any more."""
        pid = self.pid(process)
        os.kill(pid, number)
        if number == signal.SIGSTOP:
            tasks = Path(f"/proc/{pid}/task")
            eventually(lambda: all(state(task) in "TZX" for task in tasks.iterdir()), f"process {pid} is stopped")

    def kill(self, *processes: str) -> None:
        """Kills processes at once, as a power failure would, and waits until they are gone."""
        pids = [self.pid(process) for process in processes]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            eventually(lambda: not alive(pid), f"process {pid} is gone")

    def stop(self, process: str) -> None:
        """Asks a process to stop, and waits until it has."""
        pid = self.pid(process)
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not alive(pid), f"process {pid} has stopped")

    def restart_without_up(self, process: str, *options: str | Path) -> None:
        """Kills a process and starts it again by its own command line, whatever the other one does."""
        command = Path(f"/proc/{self.pid(process)}/cmdline").read_text().rstrip("\0").split("\0")
        self.kill(process)
        port = (self.state / f"{process}.port").read_text().strip()
        # Its threads may hold the socket for a moment longer than the process is seen.
        eventually(lambda: not port_answers(int(port)), f"{process} has let go of its port")
        with open(self.state / f"{process}.log", "a") as log:
            new = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self._children.append(new)
        started = Path(f"/proc/{new.pid}/stat").read_text().rpartition(")")[2].split()[19]
        (self.state / f"{process}.pid").write_text(f"{new.pid} {started}\n")
        eventually(lambda: port_answers(int(port)), f"{process} listens")

    def root_key(self, *arguments: str | Path) -> dict[str, Any]:
        """`hsm-emulator root-key ...` and its JSON."""
        done = subprocess.run(
            [BIN / "hsm-emulator", "root-key", *arguments, "--state", self.state / "hsm", "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            env=clean_environment(),
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def new_root_key(self, name: str = "test") -> dict[str, Any]:
        return self.root_key("create", "--name", name)

    def ibm_s3(self, attempts: int = 1, **config: Any) -> Any:
        """IBM's SDK, with HMAC credentials. `attempts` above 1 lets it retry as it likes."""
        config = {"connect_timeout": 10, "read_timeout": 120, "max_pool_connections": 32, **config}
        return ibm_boto3.client(
            "s3", **self._client_arguments(), config=ibm_botocore.config.Config(retries=_retries(attempts), **config)
        )

    def s3(self, attempts: int = 1, **config: Any) -> Any:
        """Amazon's SDK."""
        config = {"connect_timeout": 10, "read_timeout": 120, "max_pool_connections": 32, **config}
        config["s3"] = {"addressing_style": "path", **config.get("s3", {})}
        return boto3.client(
            "s3", **self._client_arguments(), config=botocore.config.Config(retries=_retries(attempts), **config)
        )

    def _client_arguments(self) -> dict[str, str]:
        return {
            "endpoint_url": self.env["S3_ENDPOINT"],
            "aws_access_key_id": self.env["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": self.env["AWS_SECRET_ACCESS_KEY"],
            "region_name": self.env["AWS_DEFAULT_REGION"],
        }


def _retries(attempts: int) -> dict[str, Any]:
    return {"max_attempts": attempts - 1, "mode": "legacy"}


def keyed_bucket(client: Any, name: str, crn: str) -> str:
    """Creates a bucket under a root key, with IBM's SDK."""
    client.create_bucket(Bucket=name, IBMSSEKPEncryptionAlgorithm="AES256", IBMSSEKPCustomerRootKeyCrn=crn)
    return name


def port_answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Below the range that the system gives to outgoing connections: still free when a region is started again."""
    while port_answers(port := random.randint(20_000, 29_999)):
        pass
    return port


def alive(pid: int) -> bool:
    return state(Path(f"/proc/{pid}")) not in "ZX"


def state(task: Path) -> str:
    """The letter that says what a process or thread does; X if it's gone."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def eventually(condition: Callable[[], T], what: str, seconds: float = 30) -> T:
    """Waits for a condition; the bound is generous, for slow machines."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return result
