"""The drills that operators practise, each as an operator would do it: through `tke`.

Those of failover regions belong to the failover tests.
"""

from __future__ import annotations

import re
import subprocess
from typing import Any

import grpc
import pytest

from grpc_client import grep11_error
from region import BIN, clean_environment, keyed_bucket
from tke_desk import ALL_UNITS, EMPTY_PATTERN, SIGNERS, Desk, StoredKey, pattern_of, register_table, table, thresholds

OLD = pattern_of("11", "22")
NEW = pattern_of("11", "33")
BOTH = " ".join(SIGNERS)

CKM_AES_KEY_GEN, CKM_AES_ECB = 0x1080, 0x1081
CKM_EC_KEY_PAIR_GEN = 0x1040
CKA_ENCRYPT, CKA_DECRYPT, CKA_VALUE_LEN, CKA_EC_PARAMS = 0x104, 0x105, 0x161, 0x180
CKR_FUNCTION_FAILED, CKR_MECHANISM_INVALID = 0x6, 0x70
CKR_IBM_WKID_MISMATCH, CKR_IBM_WK_NOT_INITIALIZED = 0x80010001, 0x80010009

ANN = ("Enter the password for the signature key identified by:\r\nann", "pw-ann")
BEN = ("Enter the password for the signature key identified by:\r\nben", "pw-ben")
CONTINUE = ("Do you want to continue?\r\nAnswer [y/N]:", "y")


class CustomersKey:
    """A key that its owner keeps as a blob: nothing of it is stored with the instance."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        flags = {kind: {"AttributeTF": True} for kind in (CKA_ENCRYPT, CKA_DECRYPT)}
        key_gen, wanted = {"Mechanism": CKM_AES_KEY_GEN}, {**flags, CKA_VALUE_LEN: {"AttributeI": 32}}
        self.blob: bytes = self._call("GenerateKey", Mech=key_gen, Template=wanted).KeyBytes
        self.ciphered: bytes = self._call("EncryptSingle", **self._use(self.blob), Plain=b"sixteen bytes...").Ciphered

    def rewrapped(self) -> bytes:
        return self._call("RewrapKeyBlob", WrappedKeyBytes=self.blob).RewrappedKeyBytes

    def is_good(self, blob: bytes) -> bool:
        try:
            return self._call("DecryptSingle", **self._use(blob), Ciphered=self.ciphered).Plain == b"sixteen bytes..."
        except grpc.RpcError as error:
            assert grep11_error(error) == CKR_IBM_WKID_MISMATCH
            return False

    def _use(self, blob: bytes) -> dict[str, Any]:
        return {"Mech": {"Mechanism": CKM_AES_ECB}, "Key": {"KeyBlobs": [blob]}}

    def _call(self, name: str, **fields: Any) -> Any:
        client = self.desk.grep11()
        try:
            return getattr(client, name)(**fields)
        finally:
            client.close()


def init_token(desk: Desk, label: str) -> str:
    """A new PKCS #11 token, made by an application; its serial number."""
    before = {token["serial_number"] for token in desk.hsm("token", "list")}
    module = ["pkcs11-tool", "--module", str(BIN / "libhsm_pkcs11.so")]
    environment = {
        **clean_environment(),
        "HSM_GRPC_ENDPOINT": desk.endpoint,
        "HSM_API_KEY_FILE": str(desk.state / "api-key"),
    }
    # The slot that waits for a new token comes after those of the others.
    command = [*module, "--slot-index", str(len(before)), "--init-token", "--label", label, "--so-pin", "so-pin-1"]
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    (made,) = {token["serial_number"] for token in desk.hsm("token", "list")} - before
    return made


def fields(document: list[Any], *names: str) -> list[Any]:
    return [row[names[0]] if len(names) == 1 else tuple(row[name] for name in names) for row in document]


# --- rotation --------------------------------------------------------------------


def test_1_rotation_by_key_files(desk: Desk) -> None:
    desk.initialise()
    region = desk.serve_with_storage()
    s3 = region.ibm_s3()
    bucket = keyed_bucket(s3, "ledger", region.env["ROOT_KEY_CRN"])
    s3.put_object(Bucket=bucket, Key="page", Body=b"before")
    customer = CustomersKey(desk)
    desk.add_parts("33")
    instance = desk.json("cryptounits")["service_instance"]
    units = ["1", "2", "3", "4"]
    new_register = f"\nNEW MASTER KEY REGISTER\nSERVICE INSTANCE: {instance}\n"
    current_register = f"\nCURRENT MASTER KEY REGISTER\nSERVICE INSTANCE: {instance}\n"

    printed = desk.at_terminal(
        "cryptounit-mk-load",
        ("Enter the KEYNUM values of the master key parts you wish to load.", "1 3"),
        ANN,
        ("Enter the password for key file 1", "11"),
        ("Enter the password for key file 3", "33"),
    )
    assert printed.endswith(new_register + register_table(units, "Full Uncommitted", NEW))
    printed = desk.at_terminal("cryptounit-mk-commit", ANN, BEN)
    assert printed.endswith(new_register + register_table(units, "Full Committed", NEW))
    assert desk.current_patterns() == [OLD] * 4
    rewrapped = customer.rewrapped()
    assert customer.is_good(customer.blob) and not customer.is_good(rewrapped)

    printed = desk.at_terminal("cryptounit-mk-rotate", CONTINUE, ANN)
    assert "KMS CRK rewrap successful, waiting on cryptounit-mk-setimm\n" in printed
    assert "OK\nMaster key rotation successful.\n" in printed
    assert new_register + register_table(units, "Empty", EMPTY_PATTERN) in printed
    assert current_register + register_table(units, "Valid", NEW) in printed
    assert desk.same()
    assert customer.is_good(rewrapped) and not customer.is_good(customer.blob)
    assert s3.get_object(Bucket=bucket, Key="page")["Body"].read() == b"before"
    s3.put_object(Bucket=bucket, Key="page", Body=b"after")
    assert s3.get_object(Bucket=bucket, Key="page")["Body"].read() == b"after"


def test_2_rotation_by_a_recovery_unit(desk: Desk) -> None:
    desk.initialise_by_recovery_unit()
    key, before = StoredKey(desk), desk.current_patterns()
    printed = desk.at_terminal(
        "auto-mk-rotate --delay 1", ("Press enter to continue or Ctrl-c to exit.", ""), ANN, BEN
    )
    lines = printed.splitlines()
    progress = [
        "Generating a random master key value....",
        *(f"Transferring the master key value to {unit} of 3 crypto units...." for unit in (1, 2, 3)),
        "Delaying 1 seconds to allow server to discover new master key values",
        "KMS CRK rewrap successful, waiting on cryptounit-mk-setimm",
        "Master key rotation successful.",
    ]
    assert [line for line in lines if line in progress] == progress
    after = desk.current_patterns()
    assert len(set(after)) == 1 and set(after).isdisjoint(before)
    assert desk.same() and key.unwraps()

    # Once more, slowly enough to see what goes on meanwhile: the units wait for the first of them.
    rotate_until_a_unit_fails(desk, 1)
    assert desk.current_patterns() == after and key.unwraps()
    assert "master key is being rotated" in desk.hsm_refused("root-key", "create", "--name", "meanwhile")
    assert "master key is being rotated" in desk.hsm_refused("root-key", "rotate", key.id)
    assert fields(desk.hsm("root-key", "list"), "id") == [key.id]
    desk.set_immediate()
    assert desk.same() and key.unwraps() and set(desk.current_patterns()).isdisjoint(after)
    desk.hsm("root-key", "create", "--name", "afterwards")


def test_3_a_rotation_interrupted_before_the_delay_is_begun_again(desk: Desk) -> None:
    desk.initialise_by_recovery_unit()
    key, before = StoredKey(desk), desk.current_patterns()
    child = desk.spawn("auto-mk-rotate --delay 30 --yes", "--password-file", str(desk.password_file(BOTH)))
    child.expect_exact("Transferring the master key value to 2 of 3 crypto units....")
    child.kill(9)
    child.wait()
    abandoned = {new for _, new, _, _ in desk.registers()} - {EMPTY_PATTERN}
    assert len(abandoned) == 1 and desk.current_patterns() == before and key.unwraps()

    desk.tke("auto-mk-rotate", "--delay", "0", "--yes", passwords=BOTH)
    after = set(desk.current_patterns())
    assert len(after) == 1 and after.isdisjoint({*before, *abandoned})
    assert desk.same() and key.unwraps()


def rotate_until_a_unit_fails(desk: Desk, unit: int) -> None:
    """`auto-mk-rotate`, while a unit loses its power in the middle and comes back."""
    flags = ("--password-file", str(desk.password_file(BOTH)))
    child = desk.spawn("auto-mk-rotate --delay 3 --yes", *flags)
    child.expect_exact("Delaying 3 seconds to allow server to discover new master key values")
    desk.power(unit, on=False)
    child.expect_exact("KMS CRK rewrap successful, waiting on cryptounit-mk-setimm")
    child.expect_exact("FAILED")
    child.wait()
    assert child.exitstatus == 1
    desk.power(unit, on=True)


def test_4_a_rotation_interrupted_after_the_delay_is_continued(desk: Desk) -> None:
    desk.initialise_by_recovery_unit()
    key, customer, before = StoredKey(desk), CustomersKey(desk), desk.current_patterns()
    rotate_until_a_unit_fails(desk, 1)
    pending = desk.registers()[0][1]
    assert desk.current_patterns() == before and key.unwraps()
    assert "master key" in desk.hsm_refused("root-key", "create", "--name", "late")
    # What a customer would keep is not made either: it would be lost.
    with pytest.raises(grpc.RpcError) as error:
        CustomersKey(desk)
    assert grep11_error(error.value) == CKR_FUNCTION_FAILED and "try again" in error.value.details()
    assert customer.is_good(customer.blob)
    assert fields(desk.hsm("root-key", "list"), "id") == [key.id]
    assert "cryptounit-mk-rotate" in desk.refused("auto-mk-rotate", "--delay", "0", "--yes", passwords=BOTH)

    desk.tke("cryptounit-mk-rotate", "--yes", passwords="pw-ann")
    assert desk.current_patterns() == [pending] * 4
    assert desk.same() and key.unwraps()
    desk.hsm("root-key", "create", "--name", "later")


def test_4_beginning_again_after_the_delay_makes_storage_unreadable(desk: Desk) -> None:
    desk.initialise_by_recovery_unit()
    key = StoredKey(desk)
    rotate_until_a_unit_fails(desk, 1)
    abandon = ("auto-mk-rotate", "--delay", "0", "--yes", "--abandon-reencryption")
    assert "1 of 1 stored keys could not be re-encrypted" in desk.refused(*abandon, passwords=BOTH)
    assert "CKR_IBM_WKID_MISMATCH" in key.refusal()
    desk.tke("cryptounit-mk-rotate", "--yes", "--without-damaged-keys", passwords="pw-ann")
    assert desk.same()
    assert "CKR_IBM_WKID_MISMATCH" in key.refusal()


def test_5_a_rotation_interrupted_while_it_finalizes(desk: Desk) -> None:
    desk.initialise_by_recovery_unit()
    key, before = StoredKey(desk), desk.current_patterns()
    rotate_until_a_unit_fails(desk, 2)
    pending = desk.registers()[1][1]
    finished = [number for number, current in enumerate(desk.current_patterns(), 1) if current == pending]
    assert finished and len(finished) < 4 and not desk.same() and key.unwraps()
    refused = desk.refused("cryptounit-mk-rotate", "--yes", passwords="pw-ann")
    assert "cryptounit-rm" in refused and "cryptounit-mk-setimm" in refused

    desk.tke("cryptounit-rm", "--units", " ".join(map(str, finished)))
    desk.set_immediate()
    desk.select(ALL_UNITS)
    assert desk.current_patterns() == [pending] * 4 and set(before).isdisjoint({pending})
    assert desk.same() and key.unwraps()


def test_a_master_key_that_somebody_else_has_put_there_is_not_set(desk: Desk) -> None:
    desk.initialise()
    desk.add_parts("33", "44")
    desk.load("11", "33")
    child = desk.spawn("cryptounit-mk-setimm")
    child.expect_exact(CONTINUE[0])
    # Another operator, while this one hesitates.
    desk.load("11", "44")
    child.sendline(CONTINUE[1])
    child.expect_exact(ANN[0])
    child.sendline(ANN[1])
    child.expect_exact("somebody else is at work")
    child.wait()
    assert child.exitstatus == 1
    assert desk.current_patterns() == [OLD] * 4


def test_a_customers_key_is_not_rewrapped_while_the_units_disagree(desk: Desk) -> None:
    desk.initialise()
    customer = CustomersKey(desk)
    desk.add_parts("33", "44")
    desk.load("11", "33")
    desk.select("2")
    desk.load("11", "44")
    for _ in range(4):
        with pytest.raises(grpc.RpcError) as error:
            customer.rewrapped()
        assert grep11_error(error.value) == CKR_IBM_WK_NOT_INITIALIZED
    desk.load("11", "33")
    assert not customer.is_good(customer.rewrapped()) and customer.is_good(customer.blob)


# --- lost and replaced units -----------------------------------------------------------


def test_6_a_unit_fails(desk: Desk) -> None:
    desk.initialise()
    key = StoredKey(desk)
    desk.power(2, on=False)
    assert all(key.unwraps() for _ in range(10))
    StoredKey(desk)
    assert "crypto unit 2" in desk.refused("cryptounit-compare").lower()
    assert "crypto unit 2" in desk.refused("cryptounit-mk-rotate", "--yes", passwords="pw-ann").lower()
    desk.power(1, on=False)
    assert "CKR_IBM_WK_NOT_INITIALIZED" in key.refusal()
    desk.power(2, on=True)
    assert key.unwraps()


def test_7_a_failed_unit_is_replaced(desk: Desk) -> None:
    desk.initialise()
    key = StoredKey(desk)
    gone = desk.hsm("unit", "list")[1]
    desk.hsm("unit", "remove", gone["hsm_id"])
    (added,) = desk.hsm("unit", "add", "--type", "operational")
    assert added["serial_number"] != gone["serial_number"]
    listed = desk.json("cryptounits")["crypto_units"]
    assert fields(listed, "type", "selected")[:2] == [("OPERATIONAL", True), ("OPERATIONAL", False)]
    desk.select(ALL_UNITS)
    assert not desk.same() and key.unwraps()

    desk.select("2")
    assert desk.tke("cryptounit-admins").count("No crypto unit administrators") == 1
    desk.restore(2, source=3)
    assert desk.same() and key.unwraps()
    desk.power(1, on=False)
    assert key.unwraps()


def test_7_a_unit_is_damaged_on_the_disk_and_replaced(desk: Desk) -> None:
    desk.initialise()
    key, before = StoredKey(desk), desk.json("cryptounits")["crypto_units"]
    listed = desk.hsm("unit", "list")
    desk.stop()
    state = desk.state / "units" / "00" / "state"
    sealed = bytearray(state.read_bytes())
    sealed[60] ^= 1
    state.write_bytes(sealed)
    desk.serve()
    assert desk.hsm("unit", "list") == [{**listed[0], "state": "damaged"}, *listed[1:]]
    assert desk.json("cryptounits")["crypto_units"] == before
    refused = desk.refused("cryptounit-compare")
    assert "crypto unit 1 is damaged" in refused and "Crypto unit: 1" in refused
    assert all(key.unwraps() for _ in range(10))

    desk.hsm("unit", "remove", listed[0]["serial_number"])
    desk.hsm("unit", "add", "--type", "operational")
    desk.restore(2, source=3)
    assert desk.same() and key.unwraps()


def test_a_damaged_unit_that_may_hold_the_only_master_key_stays(desk: Desk) -> None:
    desk.initialise()
    StoredKey(desk)
    desk.select("2 3 4")
    desk.tke("cryptounit-mk-clrcur", "--yes", passwords="pw-ann")
    desk.stop()
    state = desk.state / "units" / "00" / "state"
    sealed = bytearray(state.read_bytes())
    sealed[60] ^= 1
    state.write_bytes(sealed)
    desk.serve()
    damaged = desk.hsm("unit", "list")[0]
    assert damaged["state"] == "damaged"
    assert "no other crypto unit holds" in desk.hsm_refused("unit", "remove", damaged["hsm_id"])
    assert state.exists()


def test_11_a_unit_is_zeroized_by_mistake(desk: Desk) -> None:
    desk.initialise()
    key = StoredKey(desk)
    desk.select("2")
    printed = desk.at_terminal(
        "cryptounit-zeroize",
        ("Are you sure you want to zeroize the selected crypto units?\r\nAnswer [y/N]:", "y"),
        ANN,
    )
    assert "OK\nThe selected crypto units have been zeroized.\n" in printed
    assert register_table(["2"], "Empty", EMPTY_PATTERN) in printed
    assert key.unwraps()

    desk.select(ALL_UNITS)
    instance = desk.json("cryptounits")["service_instance"]
    printed = desk.at_terminal("cryptounit-compare")
    star = r"\n\* Indicates a recovery crypto unit[^\n]*\n"
    sections = [
        table(
            ["CRYPTO UNIT NUM", "SIGNATURE THRESHOLD", "REVOCATION THRESHOLD"],
            [["1", "2", "2"], ["2", "0", "0"], ["3*", "2", "2"], ["4*", "2", "2"]],
        ),
        "==> Crypto units with a signature threshold of 0 are in IMPRINT MODE. <==\n",
        "No administrators",
        f"\nNEW MASTER KEY REGISTER\nSERVICE INSTANCE: {instance}\n"
        + register_table(["1", "2", "3*", "4*"], "Empty", EMPTY_PATTERN),
        "".join(
            [
                f"{'CRYPTO UNIT NUM':<15}   {'STATUS':<6}   {'VERIFICATION PATTERN':<32}   \n",
                f"{'1':<15}   {'Valid':<6}   {OLD[:32]}   \n{'':<15}   {'':<6}   {OLD[32:]}   \n",
                f"{'2':<15}   {'Empty':<6}   {'0' * 32}   \n{'':<15}   {'':<6}   {'0' * 32}   \n",
                f"{'3*':<15}   {'Valid':<6}   {OLD[:32]}   \n{'':<15}   {'':<6}   {OLD[32:]}   \n",
            ]
        ),
        "\nCONTROL POINTS\n",
    ]
    places = [printed.find(section) for section in sections]
    assert -1 not in places and places == sorted(places), printed
    assert len(re.findall(star, printed)) == 4
    assert printed.endswith("==> WARNING: Crypto units are configured differently. <==\n")

    desk.restore(2, source=4)
    assert desk.same() and key.unwraps()


def test_12_all_units_are_zeroized_and_the_key_files_are_kept(desk: Desk) -> None:
    desk.initialise()
    region = desk.serve_with_storage()
    s3 = region.ibm_s3()
    bucket = keyed_bucket(s3, "ledger", region.env["ROOT_KEY_CRN"])
    s3.put_object(Bucket=bucket, Key="page", Body=b"kept")
    key = StoredKey(desk)
    desk.tke("cryptounit-zeroize", "--yes", passwords="pw-ann")
    assert desk.current_patterns() == [EMPTY_PATTERN] * 4
    assert "CKR_IBM_WK_NOT_INITIALIZED" in key.refusal()

    desk.install("ann", "ben")
    desk.set_thresholds(2, 2, BOTH)
    desk.load("22", "11")
    desk.set_immediate()
    assert desk.current_patterns() == [OLD] * 4
    assert desk.same() and key.unwraps()
    assert s3.get_object(Bucket=bucket, Key="page")["Body"].read() == b"kept"


def test_13_all_units_are_zeroized_and_nothing_is_kept(desk: Desk) -> None:
    desk.initialise_by_recovery_unit()
    key, token = StoredKey(desk), init_token(desk, "orders")
    desk.select(ALL_UNITS)
    lost = desk.current_patterns()[0]
    desk.tke("cryptounit-zeroize", "--yes", passwords="pw-ann")
    assert "CKR_IBM_WK_NOT_INITIALIZED" in key.refusal()
    assert "master key" in desk.hsm_refused("root-key", "create", "--name", "more")
    for file in desk.files.iterdir():
        file.unlink()
    desk.initialise_by_recovery_unit()
    assert desk.same() and lost not in desk.current_patterns()
    # Only the removal of what was stored is left.
    assert f"(verification pattern {lost})" in key.refusal()
    assert lost in desk.hsm_refused("root-key", "create", "--name", "more")
    with pytest.raises(subprocess.CalledProcessError):
        init_token(desk, "payments")
    assert desk.hsm("root-key", "delete", key.id)["state"] == "destroyed"
    assert lost in desk.hsm_refused("root-key", "create", "--name", "more")
    (listed,) = desk.hsm("token", "list")
    assert (listed["serial_number"], listed["label"]) == (token, "orders")
    assert "--yes" in desk.hsm_refused("token", "delete", token)
    assert len(desk.hsm("token", "list")) == 1
    assert desk.hsm("token", "delete", token, "--yes") == {"serial_number": token, "objects": 0}
    assert "no token" in desk.hsm_refused("token", "delete", token, "--yes")
    assert desk.hsm("token", "list") == []
    assert StoredKey(desk).unwraps()
    assert init_token(desk, "payments") != token
    deletions = [event for event in desk.events() if event["action"] == "hs-crypto.tke-token-support.delete"]
    assert [event["outcome"] for event in deletions] == ["pending", "success", "pending", "failure"]


def test_14_the_current_register_of_a_unit_is_cleared(desk: Desk) -> None:
    desk.initialise()
    key = StoredKey(desk)
    desk.select("1")
    desk.tke("cryptounit-mk-clrcur", "--yes", passwords="pw-ann")
    desk.select(ALL_UNITS)
    assert [state for _, _, state, _ in desk.registers()] == ["Empty", "Valid", "Valid", "Valid"]
    assert fields(desk.json("cryptounit-thrhlds")["signature_thresholds"], "signature_threshold") == [2] * 4
    assert not desk.same() and key.unwraps()
    desk.tke("auto-mk-recover", "--source", "3", "--units", "1", passwords=BOTH)
    assert desk.same() and key.unwraps()


def test_15_a_unit_has_another_master_key(desk: Desk) -> None:
    desk.initialise()
    key = StoredKey(desk)
    desk.add_parts("33")
    desk.select("2")
    desk.load("11", "33")
    desk.set_immediate()
    desk.select(ALL_UNITS)
    assert desk.current_patterns() == [OLD, NEW, OLD, OLD]
    assert not desk.same()
    # It takes no part; alone, it is of no use.
    assert all(key.unwraps() for _ in range(10))
    desk.power(1, on=False)
    assert "CKR_IBM_WK_NOT_INITIALIZED" in key.refusal()
    desk.power(1, on=True)
    desk.select("2")
    desk.load("11", "22")
    desk.set_immediate()
    desk.select(ALL_UNITS)
    assert desk.same()
    desk.power(1, on=False)
    assert key.unwraps()


def test_16_the_master_key_is_replaced_without_a_rotation(desk: Desk) -> None:
    desk.initialise()
    key = StoredKey(desk)
    desk.add_parts("33")
    desk.load("11", "33")
    printed = desk.at_terminal("cryptounit-mk-setimm", CONTINUE, ANN)
    assert "Warning!" in printed
    assert desk.current_patterns() == [NEW] * 4 and desk.same()
    assert "CKR_IBM_WK_NOT_INITIALIZED" in key.refusal()
    assert "master key" in desk.hsm_refused("root-key", "create", "--name", "more")
    desk.load("11", "22")
    desk.set_immediate()
    assert desk.current_patterns() == [OLD] * 4 and key.unwraps()


# --- administrators and thresholds --------------------------------------------------------


def test_17_thresholds_are_raised_and_lowered(desk: Desk) -> None:
    desk.initialise(threshold=1)
    printed = desk.at_terminal(
        "cryptounit-thrhld-set",
        ("Enter the new signature threshold value:", "2"),
        ("Enter the new revocation signature threshold value:", "2"),
        ANN,
    )
    rows = [[str(unit), "2", "2"] for unit in range(1, 5)]
    assert table(["CRYPTO UNIT NUM", "SIGNATURE THRESHOLD", "REVOCATION THRESHOLD"], rows) in printed
    desk.add_parts("33")
    desk.tke("cryptounit-mk-load", "--keynum", "1 3", passwords="pw-ann 11 33")
    desk.at_terminal("cryptounit-mk-commit", ANN, BEN)
    refused = desk.refused(*thresholds(1, 1), passwords="pw-ann")
    assert "Enter the password for the signature key identified by:\nben" in refused
    desk.tke("sigkey-sel", "--keynum", "1", passwords="pw-ann")
    assert "needs 2 signature(s)" in desk.refused(*thresholds(1, 1), passwords="pw-ann")
    desk.tke("sigkey-sel", "--keynum", "1 2", passwords=BOTH)
    desk.set_thresholds(1, 1, BOTH)


def test_18_a_threshold_above_the_administrators_is_refused(desk: Desk) -> None:
    desk.initialise()
    refused = desk.refused(*thresholds(3, 2), passwords=BOTH)
    assert refused.startswith("FAILED\nError reported by EP11 crypto module.\n")
    assert "Return code: 209\nReason code: 57\nError message: " in refused
    shown = desk.json("cryptounit-thrhlds")["signature_thresholds"]
    assert fields(shown, "signature_threshold", "revocation_threshold") == [(2, 2)] * 4
    assert desk.same()


def test_19_an_administrator_at_the_threshold_cannot_be_removed(desk: Desk) -> None:
    desk.initialise()
    ben = desk.json("sigkeys")["signature_keys"][1]["subject_key_identifier"]
    refused = desk.refused("cryptounit-admin-rm", "--ski", ben, passwords=BOTH)
    assert "Return code: 209\nReason code: 66" in refused
    desk.set_thresholds(1, 1, BOTH)
    desk.tke("cryptounit-admin-rm", "--ski", ben, passwords="pw-ann")
    assert fields(desk.json("cryptounit-admins")["crypto_unit_administrators"], "admin_name") == ["ann"] * 4


def test_20_without_the_signature_keys_nothing_can_be_done(desk: Desk) -> None:
    desk.initialise()
    key = StoredKey(desk)
    desk.tke("sigkey-rm", "--keynum", "2", "--yes")
    assert "needs 2 signature(s), but only 1 of" in desk.refused(*thresholds(1, 1), passwords="pw-ann")
    desk.tke("sigkey-rm", "--keynum", "1", "--yes")
    desk.tke("sigkey-add", "--name", "eve", passwords="pw-eve")
    desk.tke("sigkey-sel", "--keynum", "1", passwords="pw-eve")
    assert "needs 1 signature(s), but only 0 of" in desk.refused("cryptounit-zeroize", "--yes", passwords="pw-eve")
    assert desk.current_patterns() == [OLD] * 4 and key.unwraps()


def test_21_an_operational_unit_is_added(desk: Desk) -> None:
    desk.initialise()
    key = StoredKey(desk)
    desk.hsm("unit", "add", "--type", "operational")
    assert "as many crypto units" in desk.hsm_refused("unit", "add", "--type", "operational")
    listed = desk.json("cryptounits")["crypto_units"]
    assert fields(listed, "crypto_unit_num", "selected")[2] == (3, False)
    desk.select("1 2 3 4 5")
    assert not desk.same() and key.unwraps()

    desk.select("3")
    desk.install("ann", "ben")
    desk.set_thresholds(2, 2, BOTH)
    desk.load("11", "22")
    desk.set_immediate()
    desk.select("1 2 3 4 5")
    assert desk.same()
    for unit in (1, 2):
        desk.power(unit, on=False)
    assert key.unwraps()


def test_23_an_administrator_is_installed_in_some_units_only(desk: Desk) -> None:
    desk.initialise()
    desk.select("1 2")
    desk.tke("sigkey-add", "--name", "cleo", passwords="pw-cleo")
    desk.install("cleo", signers=BOTH)
    desk.select(ALL_UNITS)
    assert not desk.same()
    desk.add_parts("33")
    desk.load("11", "33")
    desk.tke("sigkey-sel", "--keynum", "1 3", passwords="pw-ann pw-cleo")
    for command in (["cryptounit-mk-rotate"], ["auto-mk-rotate"], ["auto-mk-recover", "--source", "3", "--units", "1 2"]):
        refused = desk.refused(*command, "--yes", passwords="pw-ann pw-cleo")
        assert "must be administrators of all crypto units" in refused, command
    assert desk.current_patterns() == [OLD] * 4


def test_a_control_point_enables_what_a_firmware_update_has_brought(desk: Desk) -> None:
    desk.initialise()
    (added,) = desk.hsm("unit", "add", "--type", "operational", "--old-firmware")
    desk.select("3")
    desk.install("ann", "ben")
    desk.set_thresholds(2, 2, BOTH)
    desk.load("11", "22")
    desk.set_immediate()
    desk.select("1 2 3 4 5")
    assert not desk.same()
    for unit in (1, 2):
        desk.power(unit, on=False)

    grep11 = desk.grep11()
    ed25519 = {CKA_EC_PARAMS: {"AttributeB": bytes.fromhex("06032b6570")}}
    generate = lambda: grep11.GenerateKeyPair(Mech={"Mechanism": CKM_EC_KEY_PAIR_GEN}, PubKeyTemplate=ed25519)  # noqa: E731
    with pytest.raises(grpc.RpcError) as error:
        generate()
    assert grep11_error(error.value) == CKR_MECHANISM_INVALID and "cryptounit-cp 55" in error.value.details()
    desk.select("3")
    printed = desk.at_terminal("cryptounit-cp-eddsa", ANN, BEN)
    points = ["XCP_CPB_ALG_EC_25519", "XCP_CPB_BTC", "XCP_CPB_ECDSA_OTHER"]
    assert table(["CRYPTO UNIT NUM", *points], [["3", "Set", "Not Set", "Not Set"]]) in printed
    generate()
    grep11.close()

    desk.tke("cryptounit-cp-btc", passwords=BOTH)
    desk.tke("cryptounit-cp", "67", passwords=BOTH)
    for unit in (1, 2):
        desk.power(unit, on=True)
    desk.select("1 2 3 4 5")
    assert desk.same()


# --- the workstation ----------------------------------------------------------------------


def test_25_without_authorization_nothing_happens(desk: Desk) -> None:
    desk.initialise()
    before = desk.registers()
    other = desk.directory / "expired"
    other.write_text("an API key that is no longer good, as long as one")
    refused = desk.refused("cryptounit-mk-clrcur", "--yes", "--api-key-file", str(other), passwords="pw-ann")
    assert "Status code: 401\nMessage: Unauthorized\n" in refused
    assert desk.registers() == before
    desk.tke("cryptounit-compare")


def test_26_the_selection_belongs_to_the_workstation(desk: Desk) -> None:
    desk.initialise()
    first, desk.files = desk.files, desk.directory / "other files"
    desk.files.mkdir()
    assert not any(fields(desk.json("cryptounits")["crypto_units"], "selected"))
    assert "No crypto units are selected." in desk.refused("cryptounit-compare")
    desk.files = first
    assert all(fields(desk.json("cryptounits")["crypto_units"], "selected"))
