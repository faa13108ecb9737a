"""An instance is initialised by key files at a terminal, as its operator would, and the printed tables are right."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tke_desk import Desk, register_table

# SHA-256(0x01 || 0x11 * 32), and the same for 0x22 * 32 and for both combined; the last four bytes are zero.
PART_1 = ("c2ad0a997751e04066912fa490a9976d", "6135d221c0df197dfb8c8a7a00000000")
PART_2 = ("5c1b924542fecd099a9568826bce5018", "476b3c2a29944c9c7ff6e47f00000000")
MASTER_KEY = "40910b8c96ef4c8fcc342a1c45a4135f7a9376fa4b34890991d4e27d00000000"
EMPTY = "0" * 64

Tke = Callable[..., str]


@pytest.fixture
def tke(desk: Desk) -> Tke:
    """Runs `tke` at a terminal: pairs of an expected question and the answer to it. Gives what it prints."""
    return desk.at_terminal


def register(status: str, pattern: str) -> str:
    """The table of a master key register, the same for two crypto units."""
    return register_table(["1", "2"], status, pattern)


def test_initialisation_by_key_files(tke: Tke) -> None:
    printed = tke("cryptounit-add", ("Enter a list of CRYPTO UNIT NUM to add, separated by spaces:", "1 2"))
    for label in ("API endpoint:     http", "Region:           us-south\n", "Account:          "):
        assert label in printed
    instance = re.search(r"SERVICE INSTANCE: (\S{36})\n", printed)
    assert instance
    heading = f"SERVICE INSTANCE: {instance[1]}\n"
    assert re.search(r"\n1                 true       OPERATIONAL   \[us-south\]\.\[AZ1-\S+ +\n", printed)
    assert re.search(r"\n3                 false      RECOVERY      \[us-south\]\.\[AZ3-\S+ +\n", printed)

    assert "No files containing a signature key were found." in tke("sigkeys")
    printed = tke(
        "sigkey-add",
        ("Enter an administrator name to be associated with the signature key:", "john smith"),
        ("Enter a password to protect the signature key:", "secret password"),
        ("Re-enter the password to confirm:", "secret password"),
    )
    assert "secret" not in printed
    identifier = re.search(r"\n1        john smith    ([0-9a-f]{30}\.\.\.)   \n", printed)
    assert identifier and "No KEYNUM are selected as current signature keys." in printed
    signer = ("Enter the password for the signature key identified by:\r\njohn smith", "secret password")

    printed = tke(
        "sigkey-sel",
        ("Enter the KEYNUM values to select as current signature keys, separated by spaces:", "1"),
        ("Enter the password for KEYNUM 1:", "secret password"),
    )
    assert "OK\nKEYNUM 1 has been made the current signature key.\n" in printed
    assert f"No crypto unit administrators for service instance {instance[1]}\n" in tke("cryptounit-admins")

    printed = tke(
        "cryptounit-admin-add",
        ("Enter the KEYNUM of the administrator signature key you wish to load:", "1"),
        ("Enter the password for the administrator signature key file:", "secret password"),
    )
    assert "OK\nThe crypto unit administrator was added to the selected crypto units.\n" in printed

    printed = tke(
        "cryptounit-thrhld-set",
        ("Enter the new signature threshold value:", "1"),
        ("Enter the new revocation signature threshold value:", "1"),
        signer,
    )
    assert (
        f"\nSIGNATURE THRESHOLDS\n{heading}"
        "CRYPTO UNIT NUM   SIGNATURE THRESHOLD   REVOCATION THRESHOLD   \n"
        "1                 1                     1                      \n"
        "2                 1                     1                      \n"
        "\n==> Crypto units with a signature threshold of 0 are in IMPRINT MODE. <==\n"
    ) in printed

    assert "No files containing an EP11 master key part were found." in tke("mks")
    for description, value in (("first", "11" * 32), ("second", "22" * 32)):
        printed = tke(
            "mk-add --value",
            ("Enter the key part value:", value),
            ("Enter a description for the key part:", description),
            ("Enter a password to protect the key part:", description),
            ("Re-enter the password to confirm:", description),
        )
        assert value not in printed
    assert printed.endswith(
        f"KEYNUM   DESCRIPTION   {'VERIFICATION PATTERN':<32}   \n"
        f"1        first         {PART_1[0]}   \n                       {PART_1[1]}   \n"
        f"2        second        {PART_2[0]}   \n                       {PART_2[1]}   \n"
    )

    printed = tke(
        "cryptounit-mk-load",
        ("Enter the KEYNUM values of the master key parts you wish to load.", "1 2"),
        signer,
        ("Enter the password for key file 1", "first"),
        ("Enter the password for key file 2", "second"),
    )
    assert printed.endswith(f"\nNEW MASTER KEY REGISTER\n{heading}{register('Full Uncommitted', MASTER_KEY)}")
    printed = tke("cryptounit-mk-commit", signer)
    assert printed.endswith(f"\nNEW MASTER KEY REGISTER\n{heading}{register('Full Committed', MASTER_KEY)}")
    printed = tke("cryptounit-mk-setimm", ("Do you want to continue?\r\nAnswer [y/N]:", "y"), signer)
    assert "OK\nSet immediate completed successfully in the selected crypto units.\n" in printed
    assert printed.endswith(
        f"\nNEW MASTER KEY REGISTER\n{heading}{register('Empty', EMPTY)}\n"
        f"\nCURRENT MASTER KEY REGISTER\n{heading}{register('Valid', MASTER_KEY)}"
    )

    printed = tke("cryptounit-compare")
    assert (
        f"\nCRYPTO UNIT ADMINISTRATORS\n{heading}"
        f"CRYPTO UNIT NUM   ADMIN NAME   {'SUBJECT KEY IDENTIFIER':<33}   \n"
        f"1                 john smith   {identifier[1]}   \n"
        f"2                 john smith   {identifier[1]}   \n"
    ) in printed
    assert (
        f"\nCONTROL POINTS\n{heading}"
        "CRYPTO UNIT NUM   XCP_CPB_ALG_EC_25519   XCP_CPB_BTC   XCP_CPB_ECDSA_OTHER   \n"
        "1                 Set                    Set           Set                   \n"
        "2                 Set                    Set           Set                   \n"
        "\n==> All crypto units are configured the same. <==\n"
    ) in printed
