"""Runs one side of a benchmark in a child process that repeats its work when the parent asks.

A side is r1jax, or a peer: a library that r1jax is compared with.

The child sets its number of threads before it imports a library. This module needs only the standard library, so it
runs under any interpreter, r1jax's or a peer's.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Side:
    """A context manager: the parent's handle of the child process that runs one side of a benchmark.

    Attributes:
        info: what the side reported when it was ready; {"missing": reason} if a package is not installed.

    Raises:
        RuntimeError: the process ended for a reason other than a missing package. The message holds the end of its
            stderr.
    """

    def __init__(
        self,
        python: str,
        function: str,
        *,
        threads: int = 1,
        devices: int = 0,
        env: dict | None = None,
        **arguments: Any,
    ):
        """
        Args:
            python: the interpreter that runs the side.
            function: "module:function". Called with `arguments`, the function returns (repeat, info), or None if it
                talks to the parent itself.
            threads: CPU threads the process may use at once.
            devices: CPU devices that JAX shows; 0 keeps the default.
        """
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__)
        fixed = {
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": str(threads),
        }
        setting = {**os.environ, **fixed, "JAX_PLATFORMS": "cpu", **(env or {})}
        setting.pop("XLA_FLAGS", None)
        if devices:
            setting["JAX_NUM_CPU_DEVICES"] = str(devices)
        command = [os.path.expanduser(python), "-m", __name__, function, str(threads), json.dumps(arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors, "text": True}
        self._process = subprocess.Popen(command, cwd=ROOT, env=setting, **pipes)
        self.info: dict[str, Any] = self._read()

    @property
    def missing(self) -> bool:
        return "missing" in self.info

    def repeat(self) -> dict[str, Any]:
        """Makes the child process do its work once.

        Returns the "wall" and "cpu" seconds that it took, and whatever else the side reports.
        """
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        said = self._process.stdout.readline()
        if not said:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(
                f"the benchmark's process for {self._process.args[3]}, run by {self._process.args[0]}, ended with exit "
                f"status {self._process.returncode} before it reported. The end of its stderr: "
                f"{self._errors.read()[-2000:]}"
            )
        return json.loads(said)

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def take_turns(sides: dict[str, Side], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Runs the sides in turn, `repeats` times each. Leaves out sides whose package is not installed.

    Returns {name of the side: the reports of its repeats}.
    """
    there = {name: side for name, side in sides.items() if not side.missing}
    said: dict[str, list[dict[str, Any]]] = {name: [] for name in there}
    for _ in range(repeats):
        for name, side in there.items():
            said[name].append(side.repeat())
    return said


def narrow(threads: int) -> None:
    """Restricts this process to `threads` cores. Call this function before a library counts the cores."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])


def roam() -> None:
    """Lets all threads of this process run on any core.

    Call this function once all libraries have started their threads. A thread that is bound to a busy core would be
    delayed.
    """
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # a thread that has ended meanwhile
            os.sched_setaffinity(int(task), range(os.cpu_count() or 1))


def send_line(message: dict[str, Any]) -> None:
    """Sends a JSON line to the parent."""
    _out.write(json.dumps(message) + "\n")
    _out.flush()


def wait_for_parent() -> bool:
    """Waits for a line from the parent. Returns False if the parent has closed the pipe and wants no more repeats."""
    return bool(sys.stdin.readline())


def serve(repeat: Callable[[], dict[str, Any]], info: dict[str, Any]) -> None:
    """Sends `info` to the parent, then calls `repeat()` for each line from the parent, until the pipe closes.

    After each call, the times and the result of `repeat()` are sent to the parent.
    """
    send_line(info)
    while wait_for_parent():
        wall, cpu = time.perf_counter(), time.process_time()
        said = repeat()
        send_line({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, **said})


def main() -> None:
    """Calls the function that the command-line arguments name, and passes its result (repeat, info) to `serve`.

    If the function returns None, it has talked to the parent itself. If an import fails, sends {"missing": reason}.
    """
    module, function = sys.argv[1].split(":")
    narrow(int(sys.argv[2]))
    try:
        made = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[3]))
    except ImportError as error:
        send_line({"missing": str(error)})
        return
    if made:
        roam()
        serve(*made)


if __name__ == "__main__":
    _out = os.fdopen(os.dup(1), "w")  # whatever libraries print goes to stderr
    os.dup2(2, 1)
    sys.modules["experiments.bench.worker"] = sys.modules["__main__"]
    main()
