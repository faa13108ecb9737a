"""A failover region, as an operator sets one up and uses it: through `hsm-emulator failover` and `tke`."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ibm_boto3
import ibm_botocore.config
import pytest
from ibm_botocore.exceptions import ClientError

from grpc_client import Kms
from region import BIN, clean_environment, eventually, free_port, port_answers
from tke_desk import SIGNERS, Desk, thresholds

BOTH = " ".join(SIGNERS)


class FailoverRegion:
    """The other region of a desk's instance, as a process of its own."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.state, self.flags = directory / "us-east", flags
        self.port = free_port()
        self._server: subprocess.Popen[bytes] | None = None

    def join(self, invitation: Path) -> None:
        command = [BIN / "hsm-emulator", "failover", "join", "--state", self.state, "--invitation", invitation]
        subprocess.run(command, check=True, capture_output=True, timeout=60, env=clean_environment())

    def serve(self) -> FailoverRegion:
        command = [BIN / "hsm-emulator", "serve", "--state", self.state, "--listen", "127.0.0.1:0"]
        pairing = ["--pair-listen", f"127.0.0.1:{self.port}", *self.flags]
        self._server = subprocess.Popen([*command, *pairing], env=clean_environment(), stderr=subprocess.DEVNULL)
        endpoint = self.state / "endpoint"
        eventually(lambda: endpoint.exists() and endpoint.read_text().strip(), "the endpoint is known")
        eventually(lambda: port_answers(int(endpoint.read_text().strip().rpartition(":")[2])), "it listens")
        return self

    def kms(self) -> Kms:
        return Kms((self.state / "endpoint").read_text().strip(), (self.state / "api-key").read_text())

    def status(self) -> Any:
        return failover_status(self.state)

    def kill(self) -> None:
        if self._server:
            self._server.send_signal(signal.SIGKILL)
            self._server.wait()
            (self.state / "endpoint").unlink(missing_ok=True)
        self._server = None


def failover_status(state: Path) -> Any:
    command = [BIN / "hsm-emulator", "failover", "status", "--state", state, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment())
    assert done.stdout, done.stderr
    status = json.loads(done.stdout)
    status["green"] = all(check["passed"] for check in status["checks"])
    assert done.returncode == (0 if status["green"] else 1)
    return status


def red(state: Path) -> dict[str, str]:
    return {check["name"]: check["detail"] for check in failover_status(state)["checks"] if not check["passed"]}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Desk, FailoverRegion]]:
    """An instance with administrators and a master key, and a failover region without units."""
    desk = Desk(tmp_path).serve("--pair-listen", f"127.0.0.1:{free_port()}")
    administrators = ["--administrators", "2", "--name", "ann", "--name", "ben"]
    desk.tke("auto-init", *administrators, *thresholds(2, 2)[1:], "--yes", passwords=BOTH)
    invitation = tmp_path / "invitation"
    desk.hsm("failover", "invite", "--out", str(invitation))
    assert oct(invitation.stat().st_mode & 0o777) == "0o600"
    failover = FailoverRegion(tmp_path)
    failover.join(invitation)
    failover.serve()
    eventually(lambda: failover.status()["here"]["bond"] == "joined", "the regions are joined")
    yield desk, failover
    failover.kill()
    desk.stop()


def initialise_failover_units(desk: Desk) -> None:
    """Assigns two, and gives them what the operational ones have."""
    desk.tke("failover-enable", "--units", "2", "--yes")
    initialise_new_units(desk)


def initialise_new_units(desk: Desk) -> None:
    """Like the operational ones, with the master key of a recovery unit. All are selected then."""
    units = desk.json("cryptounits")["crypto_units"]
    new = " ".join(str(unit["crypto_unit_num"]) for unit in units if unit["type"] == "FAILOVER")
    source = next(str(unit["crypto_unit_num"]) for unit in units if unit["type"] == "RECOVERY")
    desk.select(new)
    desk.install("ann", "ben")
    desk.set_thresholds(2, 2, BOTH)
    desk.tke("auto-mk-recover", "--source", source, "--units", new, passwords=BOTH)
    desk.tke("cryptounit-add", "--units", " ".join(str(unit["crypto_unit_num"]) for unit in units))


def test_22_failover_units_are_assigned_initialised_and_checked(pair: tuple[Desk, FailoverRegion]) -> None:
    desk, failover = pair
    assert "Failover crypto units assigned" in red(desk.state)
    printed = desk.at_terminal(
        "failover-enable",
        ("Enter the total number of failover crypto units, 2:", "2"),
        ("Answer [y/N]:", "y"),
    )
    assert "Maximum of failover crypto units:      2\n" in printed
    assert "Backup region: us-east\nFailover crypto units assigned: 2\n" in printed
    rows = [line.split()[1:3] for line in printed.splitlines() if "[us-east]" in line]
    assert rows == [["false", "FAILOVER"], ["false", "FAILOVER"]]
    assert {"Left imprint mode", "Administrators", "Thresholds", "Current master key"} <= set(red(desk.state))
    assert "[us-east]" in red(desk.state)["Current master key"]
    again = desk.refused("failover-enable", "--units", "2", "--yes")
    assert "Not all crypto units" in again

    initialise_new_units(desk)
    eventually(lambda: failover_status(desk.state)["green"], "all checks are green")
    assert failover_status(failover.state)["green"], "the same from the other side"
    assert "as many failover crypto units as it may have" in desk.refused("failover-enable", "--units", "2", "--yes")
    # One of them differs: the row names it.
    desk.power(6, on=False)
    assert "[us-east]" in red(desk.state)["In service"]
    desk.power(6, on=True)
    assert failover_status(desk.state)["green"]


def test_8_keys_outlive_the_home_region(pair: tuple[Desk, FailoverRegion]) -> None:
    desk, failover = pair
    initialise_failover_units(desk)
    eventually(lambda: failover_status(desk.state)["green"], "all checks are green")
    key = desk.hsm("root-key", "create", "--name", "orders")["id"]
    wrapped = desk.kms().Wrap(key=key, plaintext=b"7" * 32).ciphertext
    assert failover.kms().Unwrap(key=key, ciphertext=wrapped).plaintext == b"7" * 32
    desk.kill()
    assert failover.kms().Unwrap(key=key, ciphertext=wrapped).plaintext == b"7" * 32
    with pytest.raises(grpc.RpcError) as refused:
        failover.kms().CreateRootKey(name="too early")
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE and "failover promote" in refused.value.details()
    promote = [BIN / "hsm-emulator", "failover", "promote", "--state", failover.state]
    eventually(lambda: subprocess.run(promote, capture_output=True, timeout=60).returncode == 0, "promoted")
    new = failover.kms().CreateRootKey(name="in the failover region")
    assert new.crn.startswith("crn:v1:bluemix:public:hs-crypto:us-south:"), "the instance stays what it is"
    desk.serve(*desk.flags)
    eventually(lambda: failover_status(desk.state)["here"]["bond"] == "joined", "the home region follows")
    assert desk.kms().Unwrap(key=key, ciphertext=wrapped).plaintext == b"7" * 32
    assert desk.kms().GetRootKey(key=new.id).name == "in the failover region"


def test_9_without_a_master_key_there_the_loss_of_the_home_region_is_an_outage(pair: tuple[Desk, FailoverRegion]) -> None:
    desk, failover = pair
    key = desk.hsm("root-key", "create", "--name", "orders")["id"]
    wrapped = desk.kms().Wrap(key=key, plaintext=b"7" * 32).ciphertext
    desk.tke("failover-enable", "--units", "2", "--yes")
    assert "Current master key" in red(desk.state)
    desk.kill()
    with pytest.raises(grpc.RpcError) as refused:
        failover.kms().Unwrap(key=key, ciphertext=wrapped)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE and "master key" in refused.value.details()
    assert "Current master key" in red(failover.state)
    # The keys are there, though, and the home region's return is enough.
    assert failover.kms().GetRootKey(key=key).name == "orders"
    desk.serve(*desk.flags)
    assert desk.kms().Unwrap(key=key, ciphertext=wrapped).plaintext == b"7" * 32


def test_the_master_key_is_rotated_in_both_regions(pair: tuple[Desk, FailoverRegion]) -> None:
    desk, failover = pair
    initialise_failover_units(desk)
    eventually(lambda: failover_status(desk.state)["green"], "all checks are green")
    key = desk.hsm("root-key", "create", "--name", "orders")["id"]
    wrapped = desk.kms().Wrap(key=key, plaintext=b"7" * 32).ciphertext
    before = {unit["verification_pattern"] for unit in desk.json("cryptounit-mk")["current_master_key_register"]}
    desk.tke("auto-mk-rotate", "--delay", "0", "--yes", passwords=BOTH)
    after = {unit["verification_pattern"] for unit in desk.json("cryptounit-mk")["current_master_key_register"]}
    assert len(before) == len(after) == 1 and before != after
    eventually(lambda: failover_status(desk.state)["green"], "all checks are green again")
    for kms in (desk.kms(), failover.kms()):
        assert kms.Unwrap(key=key, ciphertext=wrapped).plaintext == b"7" * 32
    new = desk.hsm("root-key", "create", "--name", "after")["id"]
    assert failover.kms().GetRootKey(key=new).name == "after"


def test_units_out_of_reach_are_listed_and_block_a_rotation(pair: tuple[Desk, FailoverRegion]) -> None:
    desk, failover = pair
    initialise_failover_units(desk)
    failover.kill()
    states = {unit["type"]: unit["state"] for unit in desk.hsm("unit", "list")}
    assert states["failover"] == "unreachable"
    desk.refused("auto-mk-rotate", "--delay", "0", "--yes", passwords=BOTH)
    failover.serve()
    eventually(lambda: failover_status(desk.state)["green"], "all checks are green again")
    desk.tke("auto-mk-rotate", "--delay", "0", "--yes", passwords=BOTH)


class Storage:
    """A storage service that knows both regions, home first."""

    def __init__(self, directory: Path, desk: Desk, failover: FailoverRegion) -> None:
        self.state = directory / "cos"
        states = [desk.state, failover.state]
        endpoints = ",".join((state / "endpoint").read_text().strip() for state in states)
        keys = ",".join(str(state / "api-key") for state in states)
        command = [BIN / "cos-service", "serve", "--state", self.state, "--listen", "127.0.0.1:0", "--lease", "1s"]
        self._server = subprocess.Popen(
            [*command, "--hsm", endpoints, "--hsm-api-key-file", keys], env=clean_environment(), stderr=subprocess.DEVNULL
        )
        endpoint = self.state / "endpoint"
        eventually(lambda: endpoint.exists() and endpoint.read_text().strip(), "the endpoint is known")

    def client(self, attempts: int = 1) -> Any:
        credentials = json.loads((self.state / "credentials.json").read_text())
        return ibm_boto3.client(
            "s3",
            endpoint_url=(self.state / "endpoint").read_text().strip(),
            aws_access_key_id=credentials["access_key_id"],
            aws_secret_access_key=credentials["secret_access_key"],
            region_name="us-south",
            config=ibm_botocore.config.Config(retries={"max_attempts": attempts - 1, "mode": "legacy"}),
        )

    def stop(self) -> None:
        self._server.terminate()
        self._server.wait()


def cross_region_bucket(client: Any, name: str, crn: str, location: str) -> None:
    client.create_bucket(
        Bucket=name,
        CreateBucketConfiguration={"LocationConstraint": location},
        IBMSSEKPEncryptionAlgorithm="AES256",
        IBMSSEKPCustomerRootKeyCrn=crn,
    )


def test_24_cross_region_buckets_need_failover_and_outlive_the_home_region(
    pair: tuple[Desk, FailoverRegion], tmp_path: Path
) -> None:
    desk, failover = pair
    storage = Storage(tmp_path, desk, failover)
    try:
        client, crn = storage.client(), desk.hsm("root-key", "create", "--name", "orders")["crn"]
        with pytest.raises(ClientError) as refused:
            cross_region_bucket(client, "everywhere", crn, "us-standard")
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
        assert refused.value.response["Error"]["Code"] == "InternalError"
        with pytest.raises(ClientError) as refused:
            cross_region_bucket(client, "europe", crn, "eu-standard")
        assert refused.value.response["Error"]["Code"] == "InvalidRequest"
        cross_region_bucket(client, "at-home", crn, "us-south-standard")
        assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["at-home"], "nothing is left behind"

        initialise_failover_units(desk)
        eventually(lambda: failover_status(desk.state)["green"], "all checks are green")
        cross_region_bucket(client, "everywhere", crn, "us-standard")
        client.put_object(Bucket="everywhere", Key="order", Body=b"seven")
        desk.kill()
        time.sleep(1.5)  # The lease of the bucket key is over.
        assert client.get_object(Bucket="everywhere", Key="order")["Body"].read() == b"seven"
        client.put_object(Bucket="everywhere", Key="another", Body=b"eight")
        assert client.get_object(Bucket="everywhere", Key="another")["Body"].read() == b"eight"
    finally:
        storage.stop()
