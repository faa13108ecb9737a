"""Wrong PINs are counted, whoever brings them and whatever becomes of him: never more comparisons than the limit."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pkcs11_token import LIBRARY, run

# Wrong PINs in a row at which a PIN is locked; the last one is answered by CKR_PIN_LOCKED.
LIMIT = 10
PROCESSES = 8
CYCLES = 4

Stress = Callable[[str], Path]


def test_wrong_pins(stress: Stress, backend: dict[str, str]) -> None:
    """All at the same time, each on a token of its own: to know that a PIN is locked takes half a second."""
    program = stress("pins")
    # As many as a server lets wait.
    one_process_at_once(program, {**backend, "GUESSERS": "64"}, "user", "alone")
    cases = [one_process_one_by_one, one_process_at_once, many_processes, killed_processes]
    # A server counts them as the embedded library does; there, one PIN is enough to see that it's asked.
    users = ["user", "so"] if "HSM_PKCS11_STATE" in backend else ["user"]
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(case, program, backend, user) for case in cases for user in users]
    for case in running:
        case.result()


def one_process_one_by_one(program: Path, environment: dict[str, str], user: str) -> None:
    run(program, "flags", LIBRARY, f"flags {user}", user, environment=environment)


def one_process_at_once(program: Path, environment: dict[str, str], user: str, label: str = "threads") -> None:
    print(run(program, "threads", LIBRARY, f"{label} {user}", user, environment=environment))


def guess(program: Path, environment: dict[str, str], label: str, user: str) -> subprocess.Popen[str]:
    command = [program, "guess", LIBRARY, label, user]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def many_processes(program: Path, environment: dict[str, str], user: str) -> None:
    label = f"processes {user}"
    run(program, "make", LIBRARY, label, user, environment=environment)
    processes = [guess(program, environment, label, user) for _ in range(PROCESSES)]
    codes = Counter(line for process in processes for line in process.communicate(timeout=60)[0].splitlines())
    print(codes)
    del codes["try"]
    assert codes == {"CKR_PIN_INCORRECT": LIMIT - 1, "CKR_PIN_LOCKED": PROCESSES}
    run(program, "locked", LIBRARY, label, user, environment=environment)


def killed_processes(program: Path, environment: dict[str, str], user: str) -> None:
    """An attempt counts as soon as it can come to a comparison, and nothing else counts."""
    label = f"killed {user}"
    run(program, "make", LIBRARY, label, user, environment=environment)
    codes: Counter[str] = Counter()
    for cycle in range(CYCLES + 1):
        processes = [guess(program, environment, label, user) for _ in range(2)]
        for process in processes:
            assert process.stdout
            output = ""
            if cycle < CYCLES:
                output = process.stdout.readline()
                time.sleep(random.uniform(0, 0.05))
                process.kill()
            # The last ones come to their end, within a minute.
            with process:
                codes += Counter((output + process.stdout.read()).splitlines())
    killed = codes["try"] - codes["CKR_PIN_INCORRECT"] - codes["CKR_PIN_LOCKED"]
    print(codes, f"{killed} killed in the midst")
    assert killed > 0, "the kills hit nobody"
    assert codes["CKR_PIN_INCORRECT"] <= LIMIT - 1
    assert codes["CKR_PIN_INCORRECT"] + killed >= LIMIT - 1, "locked too early"
    assert set(codes) <= {"try", "CKR_PIN_INCORRECT", "CKR_PIN_LOCKED"} and codes["CKR_PIN_LOCKED"] >= 2
    run(program, "locked", LIBRARY, label, user, environment=environment)
