"""The storage service with two regions of the HSM: it goes on with the second, and comes home."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable

from region import LEASE_SECONDS, Region, eventually, keyed_bucket


def test_reads_go_on_without_the_home_region_and_come_back(new_region: Callable[..., Region]) -> None:
    home = new_region()
    client = home.s3()
    bucket = keyed_bucket(home.ibm_s3(), "kept", home.env["ROOT_KEY_CRN"])
    client.put_object(Bucket=bucket, Key="k", Body=b"kept")
    # A second region with the same keys, under a port of its own.
    home.down()
    other = Region(home.state.parent / "other")
    shutil.copytree(home.state, other.state, symlinks=True, ignore=shutil.ignore_patterns("*.port", "*.pid"))
    home.up()
    other.up()
    try:
        port = (other.state / "hsm.port").read_text().strip()
        home.restart_without_up("cos", "--hsm", f"http://127.0.0.1:{port}")

        def reads_without_a_lease() -> None:
            time.sleep(LEASE_SECONDS + 0.2)
            assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"

        reads_without_a_lease()
        home.signal("hsm", signal.SIGSTOP)
        reads_without_a_lease()
        home.signal("hsm", signal.SIGCONT)
        log = home.state / "cos.log"
        eventually(lambda: bool(re.search("is back", log.read_text())), "home is found again")
        other.kill("hsm")
        reads_without_a_lease()
    finally:
        other.down()
