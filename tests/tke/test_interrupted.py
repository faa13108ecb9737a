"""`tke` is killed at random moments of rotations; the last line that it printed decides what to do next."""

from __future__ import annotations

import os
import random
import time

from tke_desk import ALL_UNITS, EMPTY_PATTERN, SIGNERS, Desk, StoredKey

KILLS = max(1, int(os.environ.get("KILLS", "100")) // 8)
BOTH = " ".join(SIGNERS)


def rotate(desk: Desk, lines: int, then: float) -> str:
    """`auto-mk-rotate`, killed so many seconds after it has printed so many lines; what it has printed by then."""
    log = desk.directory / "log"
    with log.open("w") as output:
        process = desk.start("auto-mk-rotate", "--delay", "0", "--yes", passwords=BOTH, stdout=output)
    while process.poll() is None and log.read_text().count("\n") < lines:
        time.sleep(0.001)
    time.sleep(then)
    process.kill()
    process.wait()
    return log.read_text()


def continue_rotation(desk: Desk, printed: str) -> str:
    """The failure table: what was printed last says what is right."""
    if "Master key rotation successful." in printed:
        return "nothing"
    registers = desk.registers()
    current = {pattern for *_, pattern in registers}
    if len(current) > 1:
        finished = [str(number) for number, (_, new, _, _) in enumerate(registers, 1) if new == EMPTY_PATTERN]
        desk.tke("cryptounit-rm", "--units", " ".join(finished))
        desk.set_immediate()
        desk.select(ALL_UNITS)
        return "setimm on the rest"
    if "KMS CRK rewrap successful" in printed:
        if any(new != EMPTY_PATTERN for _, new, _, _ in registers):
            desk.set_immediate()
            return "setimm"
        return "nothing"
    if "Delaying" in printed:
        desk.tke("cryptounit-mk-rotate", "--yes", passwords="pw-ann")
        return "mk-rotate"
    desk.tke("auto-mk-rotate", "--delay", "0", "--yes", passwords=BOTH)
    return "auto-mk-rotate"


def test_after_each_kill_the_documented_step_finishes_the_rotation(desk: Desk) -> None:
    seed = int(os.environ.get("KILL_SEED", random.randrange(2**32)))
    print(f"seed {seed}")
    moments = random.Random(seed)
    desk.initialise_by_recovery_unit()
    keys = [StoredKey(desk) for _ in range(3)]
    printed = desk.tke("auto-mk-rotate", "--delay", "0", "--yes", passwords=BOTH).splitlines()
    first = printed.index("Generating a random master key value....")
    last = printed.index("KMS CRK rewrap successful, waiting on cryptounit-mk-setimm") + 1

    steps: dict[str, int] = {}
    for kill in range(KILLS):
        before = set(desk.current_patterns())
        said = rotate(desk, moments.randint(first, last), moments.uniform(0, 0.1))
        assert all(key.unwraps() for key in keys), f"seed {seed}, kill {kill}"
        step = continue_rotation(desk, said)
        steps[step] = steps.get(step, 0) + 1
        after = set(desk.current_patterns())
        assert len(after) == 1 and after.isdisjoint(before), f"seed {seed}, kill {kill}, {step}"
        assert desk.same() and all(key.unwraps() for key in keys), f"seed {seed}, kill {kill}, {step}"
    print(f"{KILLS} kills, then: {steps}")
    desk.hsm("root-key", "create", "--name", "later")
