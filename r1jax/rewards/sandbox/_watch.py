"""Watches a sandboxed job: writes its input, reads its output, adds up its resource use, and ends it at a limit."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

SCAN_S = 0.05
MAX_GRACE = 2  # most extra time, in multiples of wall_s, for a run that waited for a core
FILES_BYTES = 128 << 20


class Outcome(NamedTuple):
    """The result of a sandboxed job.

    Attributes:
        status: "exited", or the limit that was reached, which is "time" (CPU), "wall", "memory", "output" or
            "processes".
        code: the exit status; 128 + n if signal n killed the job; -1 if a limit ended the job.
        stdout, stderr: up to `Limits.output_bytes` bytes each, and one byte more if that limit was reached.
        files: contents of the files to fetch, None for a missing file; [] if a limit ended the job.
        ms: elapsed time from the start of the job to its end, in milliseconds.
    """

    status: str
    code: int
    stdout: bytes
    stderr: bytes
    files: list[bytes | None]
    ms: float


def watch(
    process: subprocess.Popen,
    channel: socket.socket,
    stdin: bytes,
    limits: Limits,
    by_line: bool,
    fetched: int,
    end: Callable[[], None],
) -> Outcome:
    """Watches a job until its main process ends or a limit is reached, and returns the outcome.

    Does not wait for other processes of the job, which may hold the job's pipes open. Calls `end`, which kills them.

    Args:
        process: the process that contains the sandbox; its pipes are the job's standard streams.
        channel: the socket over which `_inside.fetch` sends files.
        stdin: the bytes of standard input.
        by_line: True only for a job that calls a function several times and writes one line for each call. The limit on
            elapsed time then holds for each line, not for the whole job. The limits on CPU time and output are left
            to `_inside`, which applies them to each call.
        fetched: how many files the job sends at its end.
        end: called at the end; kills all processes of the sandbox.
    """
    begun = since = time.monotonic()
    out, err, files = bytearray(), bytearray(), bytearray()
    sinks = {process.stdout.fileno(): out, process.stderr.fileno(): err}
    caps = {process.stdout.fileno(): limits.output_bytes, process.stderr.fileno(): limits.output_bytes}
    if by_line:  # one line for each call, each under the limit
        caps[process.stdout.fileno()] = FILES_BYTES
    if fetched:
        sinks[channel.fileno()], caps[channel.fileno()] = files, FILES_BYTES
    poll = select.poll()
    for fd in sinks:
        os.set_blocking(fd, False)
        poll.register(fd, select.POLLIN)
    feed, to_write = process.stdin.fileno(), memoryview(stdin)
    os.set_blocking(feed, False)
    if to_write:
        poll.register(feed, select.POLLOUT)
    else:
        process.stdin.close()
    ended = _exit_fd(process)
    if ended is not None:
        poll.register(ended, select.POLLIN)
    scan_at = begun + SCAN_S
    status, grace = "exited", 0.0
    try:
        while True:
            now = time.monotonic()
            if now - since > limits.wall_s + grace:
                grace = min(starved(process.pid), MAX_GRACE * limits.wall_s)
                if now - since > limits.wall_s + grace:
                    status = "wall"
                    break
            if now >= scan_at:
                status = _over(process.pid, limits, by_line) or status
                if status != "exited":
                    break
                done = time.monotonic()
                scan_at = done + max(SCAN_S, 20 * (done - now))  # at most a twentieth of a core
            wait = min(scan_at, since + limits.wall_s + grace) - now
            ready = poll.poll(max(1.0, 1e3 * (wait if ended is not None else min(wait, 0.005))))
            over = False
            for fd, _ in ready:
                if fd == feed:
                    to_write = _write(feed, to_write)
                    if not to_write:
                        poll.unregister(feed)
                        process.stdin.close()
                elif fd in sinks:
                    size = len(out)
                    if not _read(fd, sinks[fd], caps[fd]):
                        poll.unregister(fd)
                    over |= len(sinks[fd]) > caps[fd]
                    if by_line and out.find(b"\n", size) >= 0:
                        since = time.monotonic()
            if over:
                status = "output"
                break
            if process.poll() is not None:
                for fd, sink in sinks.items():  # output written just before it ended
                    while len(sink) <= caps[fd] and _read(fd, sink, caps[fd]):
                        pass
                status = "output" if any(len(sink) > caps[fd] for fd, sink in sinks.items()) else "exited"
                break
    finally:
        if ended is not None:
            os.close(ended)
        end()
    ms = (time.monotonic() - begun) * 1e3
    if status == "exited" and process.returncode == 128 + signal.SIGXCPU:  # over the CPU limit before the scan saw it
        status = "time"
    code = process.returncode if status == "exited" else -1
    code = 128 - code if status == "exited" and code < 0 else code
    found = _split(bytes(files), fetched) if status == "exited" else []
    return Outcome(status, code, bytes(out), bytes(err), found, ms)


def usage(root: int) -> tuple[float, int, dict[int, float]]:
    """Returns (CPU seconds, number of threads, {process id: resident MiB}) of all descendants of the process `root`.

    An orphan is a process whose parent has ended. In the isolation tiers A to C, orphans are included, because the
    first process of the pid namespace, or the subreaper, adopts them.
    """
    rows: dict[int, tuple[int, int, float]] = {}
    children: dict[int, list[int]] = {}
    page = os.sysconf("SC_PAGE_SIZE") / 2**20
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            rows[int(name)] = sum(map(int, fields[11:15])), int(fields[17]), int(fields[21]) * page
            children.setdefault(int(fields[1]), []).append(int(name))
    found, open_ = [], [root]
    while open_:
        below = children.get(open_.pop(), [])
        found += below
        open_ += below
    cpu = sum(rows[pid][0] for pid in found) / os.sysconf("SC_CLK_TCK")
    return cpu, sum(rows[pid][1] for pid in found), {pid: rows[pid][2] for pid in found}


def starved(root: int) -> float:
    """Returns the longest time, in seconds, that a descendant of the process `root` was ready to run but had no core.

    Time in which a process sleeps does not count.
    """
    longest = 0
    for pid in usage(root)[2]:
        try:
            with open(f"/proc/{pid}/schedstat") as file:
                longest = max(longest, int(file.read().split()[1]))
        except (OSError, IndexError):
            continue
    return longest / 1e9


def _over(root: int, limits: Limits, by_line: bool) -> str | None:
    """Returns the limit ("time", "processes" or "memory") that the descendants of `root` exceed together, or None."""
    cpu, threads, resident = usage(root)
    if cpu > limits.time_s and not by_line:
        return "time"
    if threads > limits.processes + 8:
        return "processes"
    if sum(resident.values()) > limits.memory_mb and _proportional(resident) > limits.memory_mb:
        return "memory"
    return None


def _proportional(resident: dict[int, float]) -> float:
    """Returns the memory of some processes in MiB, with pages that they share counted once.

    Args:
        resident: {process id: resident MiB}, as from `usage`; used where the kernel does not tell the shared pages.
    """
    total = 0.0
    for pid, otherwise in resident.items():
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += next((int(line.split()[1]) / 1024 for line in file if line.startswith("Pss:")), 0.0)
        except ProcessLookupError:
            continue
        except OSError:
            total += otherwise
    return total


def _exit_fd(process: subprocess.Popen) -> int | None:
    try:
        return os.pidfd_open(process.pid)
    except (OSError, AttributeError):
        return None


def _read(fd: int, sink: bytearray, cap: int) -> bool:
    """Appends the bytes that wait in `fd` to `sink`, up to `cap` + 1 in all. Returns False if it appended none."""
    try:
        data = os.read(fd, min(1 << 16, cap + 1 - len(sink)) or 1)
    except BlockingIOError:
        return False
    except OSError:
        data = b""
    sink += data
    return bool(data)


def _write(fd: int, data: memoryview) -> memoryview:
    """Writes as much of the data as the pipe accepts. Returns the rest; empty if nobody reads the pipe any more."""
    try:
        return data[os.write(fd, data[:65536]) :]
    except BlockingIOError:
        return data
    except OSError:  # the reader is gone
        return data[:0]


def _split(data: bytes, count: int) -> list[bytes | None]:
    """Splits the bytes that `_inside.fetch` sent into the contents of `count` files; None for a missing file."""
    files: list[bytes | None] = []
    at = 0
    for _ in range(count):
        head = data[at : at + 8]
        size = int.from_bytes(head, "big") if len(head) == 8 else 2**64 - 1
        at += 8
        if size == 2**64 - 1 or at + size > len(data):
            files.append(None)
            continue
        files.append(data[at : at + size])
        at += size
    return files


class Limits(NamedTuple):
    """Limits on the resources of one test of a program, or of one compilation of a proof.

    Attributes:
        time_s: CPU time, seconds.
        wall_s: elapsed time, seconds.
        memory_mb: resident memory of all processes together, MiB.
        output_bytes: bytes of standard output; the same limit holds for standard error.
        processes: number of processes and threads together.
        file_mb: size of each file and of all files together, MiB.
    """

    time_s: float = 5.0
    wall_s: float = 10.0
    memory_mb: int = 512
    output_bytes: int = 1 << 20
    processes: int = 64
    file_mb: int = 16

    @classmethod
    def of(cls, given: Mapping) -> Limits:
        """Returns the limits of a task, given as {name: number}. Limits that the task leaves out have their default.

        If `time_s` is given without `wall_s`, then `wall_s` is twice `time_s`.

        Raises:
            ValueError: a name is unknown, or a value is not a positive number.
        """
        for key, value in given.items():
            if key not in cls._fields:
                raise ValueError(f"limits has the unknown key {key!r}; use {', '.join(cls._fields)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
                raise ValueError(f"limits[{key!r}] is {value!r}; it must be a positive number")
        wanted = dict(given)
        if "time_s" in wanted:
            wanted.setdefault("wall_s", 2 * wanted["time_s"])
        return cls(
            **{key: value if key in ("time_s", "wall_s") else max(1, int(value)) for key, value in wanted.items()}
        )
