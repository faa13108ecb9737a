"""scripts/up and scripts/down do what the README promises."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from region import ROOT, Region, alive, clean_environment, eventually, keyed_bucket, port_answers, run_script

VARIABLES = """
    S3_ENDPOINT AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_DEFAULT_REGION HSM_GRPC_ENDPOINT HSM_HTTP_ENDPOINT
    HSM_API_KEY HSM_API_KEY_FILE INSTANCE_ID INSTANCE_CRN ROOT_KEY_ID ROOT_KEY_CRN COS_INSTANCE_CRN PKCS11_MODULE
    HSM_STATE COS_STATE HSM_PID COS_PID
""".split()


def put_canary(region: Region, bucket: str) -> None:
    client = region.ibm_s3()
    keyed_bucket(client, bucket, region.env["ROOT_KEY_CRN"])
    client.put_object(Bucket=bucket, Key="key", Body=b"still here")


def canary(region: Region, bucket: str) -> bytes:
    return bytes(region.ibm_s3().get_object(Bucket=bucket, Key="key")["Body"].read())


def pids(region: Region) -> dict[str, int]:
    return {name: region.pid(name) for name in ("hsm", "cos")}


def stable(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if not name.endswith("_PID")}


def test_the_env_file_has_every_variable(region: Region) -> None:
    assert set(VARIABLES) <= region.env.keys()
    assert region.env_file.stat().st_mode & 0o777 == 0o600
    assert region.env["HSM_PID"] == str(region.pid("hsm")) and region.env["COS_PID"] == str(region.pid("cos"))
    assert Path(region.env["HSM_API_KEY_FILE"]).read_text().strip() == region.env["HSM_API_KEY"]
    assert region.env["ROOT_KEY_CRN"].endswith(f":{region.env['INSTANCE_ID']}:key:{region.env['ROOT_KEY_ID']}")
    assert Path(region.env["PKCS11_MODULE"]).is_file()


def test_the_env_file_exports_to_a_shell(region: Region) -> None:
    done = subprocess.run(
        ["bash", "-c", '. "$1" && printenv ' + " ".join(VARIABLES), "bash", region.env_file],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [region.env[name] for name in VARIABLES]


def test_started_again_everything_is_still_there(new_region: Callable[..., Region]) -> None:
    region = new_region()
    put_canary(region, "bucket")
    before = region.env
    for how in ("down", "kill"):
        if how == "down":
            region.down()
        else:
            region.kill("hsm", "cos")
        region.up()
        assert stable(region.env) == stable(before)  # ports, credentials and root key too
        assert canary(region, "bucket") == b"still here"


@pytest.mark.parametrize("dead, other", [("hsm", "cos"), ("cos", "hsm")])
def test_only_the_process_that_died_is_started(new_region: Callable[..., Region], dead: str, other: str) -> None:
    region = new_region()
    put_canary(region, "bucket")
    before, env = pids(region), region.env
    region.kill(dead)
    region.up()
    after = pids(region)
    assert after[other] == before[other] and after[dead] != before[dead]
    assert stable(region.env) == stable(env)
    assert canary(region, "bucket") == b"still here"
    region.up()  # nothing to do
    assert pids(region) == after


def test_two_states_run_side_by_side(new_region: Callable[..., Region]) -> None:
    one, two = new_region(), new_region()
    for name in ("S3_ENDPOINT", "HSM_GRPC_ENDPOINT", "INSTANCE_ID", "ROOT_KEY_CRN", "AWS_SECRET_ACCESS_KEY", "HSM_API_KEY"):
        assert one.env[name] != two.env[name]
    put_canary(one, "bucket")
    assert two.ibm_s3().list_buckets()["Buckets"] == []
    two.down()
    assert canary(one, "bucket") == b"still here"


def test_down_stops_and_can_be_repeated(new_region: Callable[..., Region], tmp_path: Path) -> None:
    region = new_region()
    running = pids(region)
    ports = [int((region.state / f"{name}.port").read_text()) for name in running]
    region.down()
    assert not any(alive(pid) for pid in running.values())
    assert not any(port_answers(port) for port in ports)
    assert not (region.state / "hsm" / "endpoint").exists(), "a clean stop"
    region.down()
    assert run_script("down", "--state", tmp_path / "never was").returncode == 0


def test_down_kills_what_does_not_listen(new_region: Callable[..., Region]) -> None:
    region = new_region()
    running = pids(region)
    region.signal("cos", signal.SIGSTOP)
    region.down()
    assert not any(alive(pid) for pid in running.values())


def test_reset_starts_afresh_only_when_told_so(new_region: Callable[..., Region]) -> None:
    region = new_region()
    put_canary(region, "bucket")
    before = region.env
    options = ["--detach", "--no-build", "--state", region.state, "--env", region.env_file]

    unasked = run_script("up", "--reset", *options)
    assert unasked.returncode == 2 and "--yes" in unasked.stderr
    assert canary(region, "bucket") == b"still here"

    assert run_script("up", "--reset", "--yes", *options).returncode == 0
    region.up()
    assert region.env["INSTANCE_ID"] != before["INSTANCE_ID"]
    assert region.env["AWS_SECRET_ACCESS_KEY"] != before["AWS_SECRET_ACCESS_KEY"]
    assert region.ibm_s3().list_buckets()["Buckets"] == []


def test_reset_deletes_nothing_of_somebody_else(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "hsm").write_text("mine")
    refused = run_script("up", "--reset", "--yes", "--detach", "--no-build", "--state", precious)
    assert refused.returncode == 1 and "nothing deleted" in refused.stderr
    assert (precious / "hsm").read_text() == "mine"


def test_a_directory_of_somebody_else_does_not_become_a_state(tmp_path: Path) -> None:
    """It was adopted, and a later --reset deleted what was called as ours are."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "env").write_text("mine")
    for options in ([], ["--reset", "--yes"]):
        refused = run_script("up", "--detach", "--no-build", "--state", precious, *options)
        assert refused.returncode == 1 and "is not a state of scripts/up" in refused.stderr
    assert [path.name for path in precious.iterdir()] == ["env"]


def test_an_instance_does_not_move_away_from_a_running_storage_service(new_region: Callable[..., Region]) -> None:
    region = new_region()
    region.kill("hsm")
    other = int((region.state / "hsm.port").read_text()) + 1
    refused = run_script("up", "--detach", "--no-build", "--state", region.state, "--hsm-port", str(other))
    assert refused.returncode == 1 and "scripts/down first" in refused.stderr
    region.up()


def test_a_state_may_have_a_space_in_its_name(tmp_path: Path) -> None:
    directory = tmp_path / "a state PORT"
    directory.mkdir()
    region = Region(directory)
    done = run_script("up", "--detach", "--no-build", "--state", region.state, "--env", region.env_file)
    try:
        assert done.returncode == 0, done.stderr
        sourced = subprocess.run(
            ["bash", "-c", '. "$1" && printf %s "$HSM_STATE"', "bash", region.env_file], capture_output=True, text=True
        )
        assert sourced.stdout == str(region.state / "hsm")
    finally:
        region.down()


def test_a_port_that_is_taken_is_named(new_region: Callable[..., Region]) -> None:
    region = new_region()
    region.down()
    port = int((region.state / "cos.port").read_text())
    with socket.create_server(("127.0.0.1", port)):
        refused = run_script("up", "--detach", "--no-build", "--state", region.state)
    assert refused.returncode == 1
    assert f"port {port} of the storage service is in use" in refused.stderr
    assert run_script("down", "--state", region.state).stderr.strip().startswith("nothing is running")


def test_a_failed_start_shows_the_log(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "layout").write_text("1\n")
    (tmp_path / "state" / "cos").write_text("a file in the way of the directory")
    refused = run_script("up", "--detach", "--no-build", "--state", tmp_path / "state")
    assert refused.returncode == 1
    assert "cos.log:" in refused.stderr and "the storage service stopped while starting" in refused.stderr
    shown = refused.stderr.partition("cos.log:\n")[2].splitlines()
    assert shown[0].startswith("    ") and len(shown[0].strip()) > 10
    # What had been started for it was stopped.
    assert "nothing is running" in run_script("down", "--state", tmp_path / "state").stderr


@pytest.mark.parametrize("arguments", [["--bogus"], ["--state"], ["--state", ""]])
@pytest.mark.parametrize("script", ["up", "down"])
def test_wrong_arguments_are_refused(script: str, arguments: list[str]) -> None:
    refused = run_script(script, *arguments)
    assert refused.returncode == 2
    assert f"scripts/{script} --help" in refused.stderr


@pytest.mark.parametrize("script", ["up", "down", "test", "bench"])
def test_help_has_examples(script: str) -> None:
    shown = run_script(script, "--help")
    assert shown.returncode == 0
    assert f"Usage: scripts/{script}" in shown.stdout and "Examples:" in shown.stdout
    assert "\x1b" not in shown.stdout


class Foreground:
    """scripts/up as a person runs it."""

    def __init__(self, state: Path) -> None:
        self.process = subprocess.Popen(
            [ROOT / "scripts" / "up", "--no-build", "--state", state],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=clean_environment(),
            # As from a terminal, even if these tests run in the background, where SIGINT is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        eventually(lambda: "Ctrl-C stops everything" in self.output or self.process.poll() is not None, "up is ready")

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line

    def end(self) -> int:
        code = self.process.wait(60)
        self._reader.join(60)
        assert self.process.stdout
        self.process.stdout.close()
        return code


@contextmanager
def foreground(state: Path) -> Iterator[Foreground]:
    up = Foreground(state)
    try:
        yield up
    finally:
        up.process.kill()
        run_script("down", "--state", state)
        up.end()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_everything(tmp_path: Path, stop: signal.Signals) -> None:
    region = Region(tmp_path)
    with foreground(region.state) as up:
        running = pids(region)
        assert all(alive(pid) for pid in running.values()), up.output
        up.process.send_signal(stop)
        assert up.end() == 0
        assert not any(alive(pid) for pid in running.values())
        assert not (region.state / "hsm" / "endpoint").exists(), "a clean stop"
        assert "\x1b" not in up.output


def test_the_death_of_a_process_is_told(tmp_path: Path) -> None:
    region = Region(tmp_path)
    with foreground(region.state) as up:
        running = pids(region)
        os.kill(running["cos"], signal.SIGKILL)
        assert up.end() == 1
        assert "cos has died" in up.output
        assert not alive(running["hsm"])


def test_down_ends_a_foreground_up(tmp_path: Path) -> None:
    region = Region(tmp_path)
    with foreground(region.state) as up:
        region.down()
        assert up.end() == 0
        assert "stopped by scripts/down" in up.output


def test_the_block_to_paste_works_as_pasted(tmp_path: Path) -> None:
    with foreground(tmp_path / "state") as up:
        block = up.output.partition("read it back:\n")[2].partition("Ctrl-C")[0]
        assert "create_bucket" in block
        for _ in range(2):  # also for somebody who pastes it twice
            done = subprocess.run(["bash", "-ec", block], capture_output=True, text=True, env=clean_environment())
            assert done.returncode == 0, done.stderr
            assert re.search(r"^read back: .*\d\d:\d\d:\d\d", done.stdout, re.MULTILINE), done.stdout
