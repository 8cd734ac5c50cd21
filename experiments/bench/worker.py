"""A side of a benchmark in a process of its own, which repeats when it is told to.

The child sets its threads up before it imports anything, so it runs under any interpreter, ours or a peer's: it needs
no package but the standard library.
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
    """The parent's end. Use as a context manager.

    Attributes:
        info: what the side said once it was ready; {"missing": reason} where a package is not installed.

    Raises:
        RuntimeError: the process died for another reason; with the end of what it wrote.
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
            function: "module:function"; called with `arguments`, it returns (repeat, info) or speaks for itself.
            threads: CPU threads the process may use at once.
            devices: CPU devices that JAX shows; 0 leaves it alone.
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
        """One repeat: its "wall" and "cpu" seconds, and what else the side tells."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        said = self._process.stdout.readline()
        if not said:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(
                f"a side of the benchmark ended with {self._process.returncode}: {self._errors.read()[-2000:]}"
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
    """Repeats of each side that is not missing, in turn."""
    there = {name: side for name, side in sides.items() if not side.missing}
    said: dict[str, list[dict[str, Any]]] = {name: [] for name in there}
    for _ in range(repeats):
        for name, side in there.items():
            said[name].append(side.repeat())
    return said


def narrow(threads: int) -> None:
    """Shows this process so many cores, before a library counts them."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])


def roam() -> None:
    """Lets all threads of this process run on any core: their number is settled, and a busy core would hold them up."""
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # a thread that has ended meanwhile
            os.sched_setaffinity(int(task), range(os.cpu_count() or 1))


def tell(message: dict[str, Any]) -> None:
    """A line to the parent."""
    _out.write(json.dumps(message) + "\n")
    _out.flush()


def told() -> bool:
    """Waits for the parent; False when it is done with us."""
    return bool(sys.stdin.readline())


def serve(repeat: Callable[[], dict[str, Any]], info: dict[str, Any]) -> None:
    """Repeats until the parent leaves."""
    tell(info)
    while told():
        wall, cpu = time.perf_counter(), time.process_time()
        said = repeat()
        tell({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, **said})


def main() -> None:
    module, function = sys.argv[1].split(":")
    narrow(int(sys.argv[2]))
    try:
        made = getattr(importlib.import_module(module), function)(**json.loads(sys.argv[3]))
    except ImportError as error:
        tell({"missing": str(error)})
        return
    if made:
        roam()
        serve(*made)


if __name__ == "__main__":
    _out = os.fdopen(os.dup(1), "w")  # what libraries print goes to stderr
    os.dup2(2, 1)
    sys.modules["experiments.bench.worker"] = sys.modules["__main__"]
    main()
