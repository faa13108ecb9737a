"""Processes are killed while they write to a token of the embedded library: what was acknowledged is there, what was
not is there as a whole or not at all. KILLS=1000 is the long form. KILL_SEED repeats the moments of the kills, not what
the processes have done by then."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pkcs11_token import LIBRARY, embedded, run

KILLS = int(os.environ.get("KILLS", "60"))
SEED = int(os.environ.get("KILL_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
WRITERS = 4
# A process that has not got as far as it should has failed.
START_SECONDS = 60
ABSENT = "absent"

Stress = Callable[[str], Path]


class Killed:
    """Runs programs for a random time, and kills them."""

    def __init__(self, test: str, program: Path, environment: dict[str, str], seconds: float) -> None:
        self.program, self.environment, self.seconds = program, environment, seconds
        self.dice = random.Random(f"{SEED} {test}")

    def run(self, *arguments: list[str], after: int) -> list[list[str]]:
        """What each of them wrote; all run at the same time. The time begins when a process has acknowledged so many
        changes; with 0 it begins with the process, and whether it comes to do anything depends on the machine."""
        moments = [self.dice.uniform(0, self.seconds) for _ in arguments]
        with self._started(arguments) as processes, ThreadPoolExecutor(len(processes)) as pool:
            return list(pool.map(lambda process, moment: self._kill(process, moment, after), processes, moments))

    def _kill(self, process: subprocess.Popen[str], moment: float, after: int) -> list[str]:
        assert process.stdout
        lines: list[str] = []
        limit = threading.Timer(START_SECONDS, process.kill)
        limit.start()
        try:
            while lines.count("ok") < after:
                line = process.stdout.readline()
                assert line, f"seed {SEED}: a writer has failed, or taken {START_SECONDS} seconds: {lines}"
                lines.append(line.rstrip("\n"))
        finally:
            limit.cancel()
        time.sleep(moment)
        ended = process.poll() is not None
        process.kill()
        # Not by communicate(), which leaves out what readline() has read ahead.
        lines += process.stdout.read().splitlines()
        assert not ended, f"seed {SEED}: a writer has failed: {lines}"
        return lines

    @contextmanager
    def _started(self, arguments: tuple[list[str], ...]) -> Iterator[list[subprocess.Popen[str]]]:
        with ExitStack() as running:
            processes: list[subprocess.Popen[str]] = []
            for own in arguments:
                command = [self.program, own[0], LIBRARY, *own[1:]]
                process = subprocess.Popen(
                    command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
                processes.append(running.enter_context(process))
                running.callback(process.kill)
            yield processes


@dataclass
class Place:
    """What is in a place of a writer's: what was acknowledged last, or what was tried since."""

    acknowledged: str = ABSENT
    tried: list[str] = field(default_factory=list)


def follow(lines: list[str]) -> tuple[dict[str, Place], int]:
    """A writer's places, and how many changes were acknowledged."""
    places: dict[str, Place] = {}
    acknowledged = 0
    for line in lines:
        if line == "ok":
            place.acknowledged, place.tried = place.tried[0], []
            acknowledged += 1
            continue
        _, name, state = line.split(" ", 2)
        place = places.setdefault(name, Place())
        place.tried = [state]
    return places, acknowledged


def test_objects(stress: Stress, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    environment = embedded(tmp_path)
    program = stress("objects")
    run(program, "make", LIBRARY, environment=environment)
    killed = Killed("objects", program, environment, 0.3)
    acknowledged = unacknowledged = 0
    for cycle in range(0, KILLS, WRITERS):
        names = [f"writer-{cycle + number}" for number in range(WRITERS)]
        writers = [["write", name, str(cycle + number)] for number, name in enumerate(names)]
        # Every fourth time some may be killed at their start.
        written = killed.run(*writers, after=0 if cycle // WRITERS % 4 == 3 else 2)
        found: dict[tuple[str, str], str] = {}
        for line in run(program, "read", LIBRARY, environment=environment).splitlines():
            name, place, state = line.split(" ", 2)
            assert (name, place) not in found, f"seed {SEED}: twice {line}"
            found[name, place] = state
        for name, lines in zip(names, written, strict=True):
            places, count = follow(lines)
            acknowledged += count
            for number, place in places.items():
                state = found.pop((name, number), ABSENT)
                allowed = [place.acknowledged, *place.tried]
                assert state in allowed, f"seed {SEED}: {name} {number} is {state}, not one of {allowed}"
                unacknowledged += bool(place.tried)
        assert not found, f"seed {SEED}: nobody wrote {found}"
    print(f"{acknowledged} changes acknowledged, {unacknowledged} killed in the midst")
    assert acknowledged >= KILLS, "too little was written between the kills"
    assert unacknowledged > KILLS / 10, "the kills hit nobody"


ACTIONS = {"C_SetPIN": ["set-pin", "user"], "C_SetPIN-SO": ["set-pin", "so"], "C_InitPIN": ["init-pin", "user"]}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS.keys())
def test_pins(stress: Stress, tmp_path: Path, action: list[str]) -> None:
    """The PIN is the old or the new one."""
    environment = embedded(tmp_path)
    program = stress("pins_killed")
    run(program, "make", LIBRARY, environment=environment)
    killed = Killed(" ".join(action), program, environment, 0.4)
    pin = changes = 0
    for turn in range(max(KILLS // 20, 3)):
        [lines] = killed.run([*action, str(pin)], after=0 if turn % 3 == 2 else 1)
        changes += lines.count("ok")
        numbers = [int(line) for line in lines if line != "ok"]
        if lines and lines[-1] != "ok":
            acknowledged, tried = numbers[-1] - 1, [numbers[-1]]
        else:
            acknowledged, tried = numbers[-1] if numbers else pin, []
        codes = {}
        for number in [acknowledged, *tried]:
            codes[number] = run(program, "try", LIBRARY, action[1], str(number), environment=environment).strip()
        right = [number for number, code in codes.items() if code == "CKR_OK"]
        assert len(right) == 1, f"seed {SEED}: {codes}, {lines}"
        assert set(codes.values()) <= {"CKR_OK", "CKR_PIN_INCORRECT"}, f"seed {SEED}: {codes}, {lines}"
        pin = right[0]
    print(f"{changes} changes")
    assert changes, "the processes were killed before they did anything"


def test_tokens_that_are_initialized_again(stress: Stress, tmp_path: Path) -> None:
    """The old token with what was on it, or the new one, empty and without the user's PIN."""
    environment = embedded(tmp_path)
    program = stress("pins_killed")
    run(program, "make", LIBRARY, environment=environment)
    killed = Killed("init-token", program, environment, 0.5)
    number = changes = 0
    for turn in range(max(KILLS // 20, 3)):
        [lines] = killed.run(["init-token", "user", str(number)], after=0 if turn % 3 == 2 else 1)
        changes += lines.count("ok")
        tokens, label, objects, has_pin = map(int, run(program, "look", LIBRARY, environment=environment).split())
        assert tokens == 1
        begun = [int(line) for line in lines if line.isdecimal()]
        if not lines:
            assert label == number, f"seed {SEED}: {label} instead of {number}, before the first change"
        elif lines[-1].isdecimal():
            # In the midst of C_InitToken: the one before is whole, unless the process before was killed on its way.
            assert label in (begun[-1] - 1, begun[-1]), f"seed {SEED}: {label}, {lines}"
            if label == begun[-1] - 1 and len(begun) > 1:
                assert (objects, has_pin) == (20, 1), f"seed {SEED}: {objects} objects, {has_pin}, {lines}"
            elif label == begun[-1]:
                assert (objects, has_pin) == (0, 0), f"seed {SEED}: {objects} objects, {has_pin}, {lines}"
        else:
            assert label == begun[-1], f"seed {SEED}: {label}, {lines}"
            if lines[-1] == "filled":
                assert (objects, has_pin) == (20, 1), f"seed {SEED}: {objects} objects, {has_pin}, {lines}"
        assert run(program, "try", LIBRARY, "so", "0", environment=environment).strip() == "CKR_OK"
        number = label
    print(f"{changes} changes")
    assert changes, "the processes were killed before they did anything"


def test_new_tokens(stress: Stress, tmp_path: Path) -> None:
    environment = embedded(tmp_path)
    program = stress("pins_killed")
    run(program, "make", LIBRARY, environment=environment)
    killed = Killed("new-tokens", program, environment, 0.1)
    tokens = 1
    for turn in range(min(max(KILLS // 20, 3), 50)):
        [lines] = killed.run(["new-tokens"], after=0 if turn % 3 == 2 else 1)
        made = lines.count("ok")
        now = int(run(program, "look", LIBRARY, environment=environment).split()[0])
        begun = len(lines) - made
        assert tokens + made <= now <= tokens + begun, f"seed {SEED}: {tokens} tokens became {now}: {lines}"
        tokens = now
    print(f"{tokens} tokens")
    assert tokens > 1, "the processes were killed before they did anything"
