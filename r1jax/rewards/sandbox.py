"""A place where a model's program may run. It returns values, never verdicts; expected values and secrets stay out.

Tiers, the best that works here is taken (`probe`), and below the minimum nothing runs:

    A  bubblewrap: own user, pid, network, mount, ipc and uts namespaces, a read-only /usr, small tmpfs, seccomp
    B  the same by unshare(2), where bubblewrap is absent
    C  containers that forbid namespaces, as root: another user for every run, seccomp that denies every change to a
       file system, Landlock over what may be read (where the kernel has it), all of that user's processes killed
    D  nothing but limits: taken only where the caller asks for `minimum="D"`

Started sandboxes wait in reserve for the thread that runs programs: the start of one overlaps with the run before.
"""

from __future__ import annotations

import functools
import marshal
import math
import os
import platform
import re
import shutil
from collections.abc import Mapping
from typing import NamedTuple

from r1jax.rewards._box import Unavailable, binds, interpreter, open_to_all, packages, symlinks, take
from r1jax.rewards._watch import Outcome, watch

__all__ = ["Limits", "Outcome", "Tier", "Unavailable", "probe", "require", "run"]

TIERS = "ABCD"


class Tier(NamedTuple):
    """How programs are isolated on this machine.

    Attributes:
        letter: A to D.
        how: in words.
        better: why each better tier does not work here, one line each.
    """

    letter: str
    how: str
    better: tuple[str, ...] = ()


class Limits(NamedTuple):
    """What one test may use.

    Attributes:
        time_s: CPU time, seconds. wall_s: elapsed time, seconds.
        memory_mb: resident memory of all its processes together, MiB.
        output_bytes: of standard output, and as much of standard error.
        processes: processes and threads. file_mb: of each file and of all files together, MiB.
    """

    time_s: float = 5.0
    wall_s: float = 10.0
    memory_mb: int = 512
    output_bytes: int = 1 << 20
    processes: int = 64
    file_mb: int = 16

    @classmethod
    def of(cls, given: Mapping) -> Limits:
        """Limits from a row of a data set; `wall_s` is twice `time_s` where only that is given.

        Raises:
            ValueError: an unknown key, or a value that is not a positive number.
        """
        for key, value in given.items():
            if key not in cls._fields:
                raise ValueError(f"limits has {key!r}; known are {', '.join(cls._fields)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
                raise ValueError(f"limits[{key!r}] is {value!r}; it must be a positive number")
        wanted = dict(given)
        if "time_s" in wanted:
            wanted.setdefault("wall_s", 2 * wanted["time_s"])
        return cls(
            **{key: value if key in ("time_s", "wall_s") else max(1, int(value)) for key, value in wanted.items()}
        )


def probe() -> Tier:
    """The best tier that works on this machine, tested by a program that tries the walls; once for each PATH."""
    return _probe(os.environ.get("PATH", os.defpath))


def require(minimum: str) -> Tier:
    """The tier of this machine, D only where that is the minimum.

    Raises:
        ValueError: `minimum` is no tier.
        Unavailable: this machine cannot isolate that well.
    """
    if len(minimum) != 1 or minimum not in TIERS:
        raise ValueError(f"minimum={minimum!r} must be one of {', '.join(TIERS)} (D: no isolation)")
    tier = probe()
    if tier.letter > minimum:
        why = "; ".join(tier.better)
        raise Unavailable(
            f"this machine isolates programs at tier {tier.letter} ({tier.how}), the minimum is {minimum}: {why}. "
            "Install bubblewrap, or allow user namespaces, or in a container run as root"
        )
    return tier


def run(
    job: Mapping, limits: Limits, *, tier: Tier, stdin: bytes = b"", by_line: bool = False, show: tuple[str, ...] = ()
) -> Outcome:
    """What a job did: a program, calls of a function, or a command (see `_inside.work`).

    Args:
        job: its kind, and what belongs to it. "program": source. "calls": source, entry, inputs, and may_die, how
            many calls may end their process. "command": argv, env, files by name, and the names to fetch.
        by_line: the wall limit holds from each line of output to the next, not for the whole.
        show: further paths the job may read.
    Raises:
        Unavailable: the sandbox did not start.
    """
    root = os.getuid() == 0
    letter = "B" if tier.letter == "A" and root and not all(map(open_to_all, show)) else tier.letter
    box = take(letter, limits.file_mb, show)
    try:
        box.wait_ready()
        old_kernel = tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (5, 14)
        passed = {
            "file_mb": limits.file_mb, "output_bytes": limits.output_bytes,
            # calls are limited one by one inside, other jobs as a sum by `watch`, which shall be first
            "cpu_s": math.ceil(limits.time_s) + (not by_line),
            # room for reserved but unused memory, such as big thread stacks; `watch` counts what is used
            "address_mb": max(2048, 4 * limits.memory_mb),
            # before Linux 5.14 the count took in every process of the user who started the sandbox
            "processes": 0 if old_kernel and not root else limits.processes + 1,
        }  # fmt: skip
        box.send(marshal.dumps({**job, "limits": passed, "path": packages()}))
        return watch(box.process, box.channel, stdin, limits, by_line, len(job.get("fetch", ())), box.end)
    finally:
        box.end()


@functools.cache
def _probe(path: str) -> Tier:
    better = []
    for letter, how in (
        ("A", "bubblewrap, seccomp"),
        ("B", "own namespaces, seccomp"),
        ("C", "another user, seccomp, read-only"),
    ):
        problem = _try(letter)
        if problem is None:
            return Tier(letter, how, tuple(better))
        better.append(f"{letter}: {problem}")
    return Tier("D", "no isolation, limits only", tuple(better))


WALLS = """
import os, sys
def held():
    bad = []
    def must_fail(name, f):
        try:
            f()
        except OSError:
            return
        bad.append(name)
    if os.getuid() == 0 or os.geteuid() == 0:
        bad.append("still root")
    import ctypes, socket
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000) == 0:
        bad.append("user namespaces")
    must_fail("sockets", socket.socket)
    for place in PLACES:
        must_fail("writes to " + place, lambda: open(place + "/r1jax_probe", "w"))
    if TIER in "AB":
        if os.getppid() > 9:
            bad.append("processes of the host")
        if not set(os.listdir("/")) <= SEEN:
            bad.append("files of the host")
    return bad
"""


def _try(letter: str) -> str | None:
    """Why a tier does not work here; None if it does."""
    if letter == "A" and shutil.which("bwrap") is None:
        return "bubblewrap is not installed (no bwrap on PATH)"
    if letter == "C" and os.getuid():
        return "only root can run programs as another user"
    if platform.system() != "Linux":
        return f"needs Linux, this is {platform.system()}"
    if letter in "AC" and os.getuid() == 0 and not open_to_all(interpreter(letter)):
        return f"another user runs programs there, and cannot read the interpreter {interpreter(letter)}"
    tops = {path.split("/")[1] for path in (*binds(letter), *symlinks())} | {"tmp", "dev", "proc"}
    places = ["/", "/usr", "/etc", "/dev"] + (["/tmp", "/var/tmp", "/dev/shm"] if letter == "C" else [])
    source = f"TIER, PLACES, SEEN = {letter!r}, {places!r}, {tops!r}\n{WALLS}"
    job = {"kind": "calls", "source": source, "entry": "held", "inputs": [[]], "may_die": 1}
    try:
        outcome = run(job, Limits(wall_s=30.0), tier=Tier(letter, ""))
    except Unavailable as problem:
        return str(problem)
    if outcome.stdout == b"=[]\n":
        return None
    return f"its walls do not hold: {outcome.status}, {outcome.stdout[:200]!r} {outcome.stderr[-200:]!r}"
