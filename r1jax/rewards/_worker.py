"""Runs a worker process of `isolate.Pool`: reads lists of jobs (kind of question, text, example), writes verdicts.

Input and output are lines of JSON. Each kind of question has a verifier. The worker imports a verifier when it
starts, or when it reads the first list with a job of the verifier's kind. The worker never imports jax, and never
executes the text of a job itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import time

from r1jax.rewards.kinds import KINDS, Verifier, function
from r1jax.rewards.verdict import Verdict

LONGEST_LIFE_S = 3600  # CPU seconds, after which a worker is replaced and its job repeated
PR_SET_PDEATHSIG = 1


def main(memory_mb: int, item_s: float, kinds: list[str]) -> None:
    """Reads one list of jobs per line of standard input, judges the jobs and writes the verdicts to standard output.

    Ends when standard input closes.

    Args:
        memory_mb: limit on the address space, MiB.
        item_s: CPU seconds for one job, unless its kind of question has its own limit. After that time the signal
            SIGPROF ends the process.
        kinds: kinds of questions, such as "math", whose verifiers are imported before the first job.
    """
    _confine(memory_mb)
    out = sys.stdout.fileno()
    judges = {kind: _load(kind) for kind in kinds}
    seconds = {name: kind.limits.cpu_s for name, kind in KINDS.items() if kind.limits}
    for line in sys.stdin.buffer:
        jobs = json.loads(line)
        for kind, _, _ in jobs:
            if kind not in judges:
                judges[kind] = _load(kind)
        _write(out, "started")  # the imports above do not count against the first job's deadline
        for kind, text, example in jobs:
            # CPU time, so that a loaded machine changes no verdict; the kernel ends even a call into C
            signal.setitimer(signal.ITIMER_PROF, seconds.get(kind, item_s))
            _write(out, _judge(judges[kind], text, example))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(out, _rss_mb())


def _judge(verify, text: str, example: dict) -> tuple:
    start = time.perf_counter()
    try:
        verdict = verify(text, example)
    except Exception as error:  # a defect of ours: the row gets no reward, and training counts it
        verdict = Verdict(None, "error", f"{type(error).__name__}: {error}"[:300])
    return verdict._replace(ms=round((time.perf_counter() - start) * 1e3, 3))


def _load(kind: str) -> Verifier:
    """Imports and returns the verifier of a kind of question, such as "math".

    If the verifier's module has a function `warm`, calls it, so that it imports what the verifier needs. If the import
    fails, returns a function that gives the verdict "error".
    """
    try:
        verify = function(KINDS[kind].verifier)
        getattr(sys.modules[verify.__module__], "warm", lambda: None)()
        return verify
    except (ImportError, AttributeError, KeyError, ValueError) as error:
        verdict = Verdict(None, "error", f"no verifier {kind!r}: {error}"[:300])
        return lambda text, example: verdict


def _rss_mb() -> int:
    """Returns the resident memory of this process now, in MiB; 0 if it is unknown.

    Not `ru_maxrss`, which is a peak and in a child process starts at the parent's peak.
    """
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize() >> 20
    except OSError:
        return 0


def _confine(memory_mb: int) -> None:
    if sys.platform == "linux":  # leaves no orphan, even if the parent is killed during an endless call
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limits = {
        resource.RLIMIT_CORE: (0, True),
        resource.RLIMIT_CPU: (LONGEST_LIFE_S, True),
        # soft limit: this code is ours, and a sandbox started from here sets the limit of its own task
        resource.RLIMIT_AS: (memory_mb << 20, False),
    }
    for name, (value, for_children) in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS refuses RLIMIT_AS
            resource.setrlimit(name, (value, value if for_children else hard))
    sys.setrecursionlimit(3000)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)  # lengths are bounded before any int is built


def _write(out: int, message: object) -> None:
    data = json.dumps(message).encode() + b"\n"
    try:
        while data:
            data = data[os.write(out, data) :]
    except BrokenPipeError:  # the parent is gone
        os._exit(0)
