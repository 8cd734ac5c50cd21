"""Defines the kinds of faults that the fault campaign (the module `faults`) injects into runs.

The function of each kind injects a fault into a toy run, resumes the run, and judges the result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.bench import fault_runs
from experiments.bench.fault_runs import DAY_S, Ended, Live, Stage, Whole
from r1jax import jsonl
from r1jax.distributed.signals import AGAIN, LEFT

EQUAL, CLEAR, SILENT = "equal", "clear error", "silent"
NAMES = re.compile(r"--[a-z]|/\w")  # a flag or a path
LIMITS = (1 << 14, 1 << 25)  # bytes of a file, or of a file system, that is full
ROOMY = "1g"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One fault in one run, and what is needed to inject and judge it.

    Attributes:
        kind: a key of `KINDS`.
        ordinal: index of the trial among the trials of its kind, from 0.
        stage: the stage (a command at toy size) that is run.
        name: the stage's name, a key of `fault_runs.STAGES`.
        campaign: the directory of the campaign. One command of the module `faults` plans all trials of a campaign.
        home: an existing, empty directory for this trial alone.
        rng: the random numbers that determine the fault.
        whole: an uninterrupted run of the same command.
        midway: a function that returns the directory of an interrupted run of the same command. SIGTERM stopped this
            run after its second checkpoint. All trials of a stage share this run, and each trial works on a copy of its
            directory.
    """

    kind: str
    ordinal: int
    stage: Stage
    name: str
    campaign: Path
    home: Path
    rng: random.Random
    whole: Whole
    midway: Callable[[], Path]

    @property
    def workdir(self) -> Path:
        return self.home / "run"

    def start(self, tag: str, *, resume: bool = False, workdir: Path | None = None, **faults: Any) -> Live:
        """Starts the command of this trial.

        `tag` names the files that receive the output. `faults` are the fields of `fault_runs.Order` that describe
        faults, such as `file_bytes`.
        """
        changed = {"resume": True} if resume and self.stage.trains else {}
        arguments = fault_runs.command(self.stage, self.campaign, workdir or self.workdir, **changed)
        return fault_runs.start(self.stage.module, arguments, self.home / tag, **faults)


@dataclasses.dataclass
class Found:
    """The result of a trial.

    Attributes:
        verdict: EQUAL (the run ended as if there had been no fault), CLEAR (it said what was wrong) or SILENT
            (neither). The docstring of `faults` defines them.
        where: what the fault hit, such as a phase of the run or a file.
        detail: the run's error, or how the run ended.
    """

    verdict: str
    where: str = ""
    detail: str = ""


class Silent(Exception):
    """Raised if a run failed in a way that a user would not notice or could not understand."""


def is_clear(ended: Ended) -> bool:
    """Returns whether a run stopped with an error that names a flag or a path, and without a traceback."""
    said = [line for line in ended.err.splitlines() if "error:" in line]
    return ended.code not in (0, 124) and "Traceback" not in ended.err and bool(said) and bool(NAMES.search(said[-1]))


def finish(trial: Trial, tag: str = "resumed", workdir: Path | None = None) -> None:
    """Resumes a run, and checks how it ends.

    Raises Silent unless the run continues from the newest checkpoint and ends like the uninterrupted run.

    Args:
        tag: name of the files that receive the output; the message of Silent begins with it.
        workdir: the run's directory. None means `trial.workdir`.
    """
    workdir = workdir or trial.workdir
    step, lines = fault_runs.committed(trial.stage, workdir)
    begun = (workdir / "manifest.json").exists()
    ended = fault_runs.wait(trial.start(tag, resume=begun, workdir=workdir))
    compare(trial, ended, tag, workdir)
    if step is not None and fault_runs.hash_lines(workdir, step) != lines:
        raise Silent(f"{tag}: step {step} was committed, but the resumed run repeated it")


def compare(trial: Trial, ended: Ended, tag: str, workdir: Path | None = None) -> None:
    """Raises Silent unless a run ended with exit code 0, and its outcome equals that of the uninterrupted run.

    `fault_runs.read_outcome` returns the outcome of a run.

    Args:
        tag: how the run was started, such as "resumed"; the message of Silent begins with it.
        workdir: the run's directory. None means `trial.workdir`.
    """
    if ended.code != 0:
        raise Silent(f"{tag}: exit code {ended.code}: {ended.err[-1500:]}")
    here, there = fault_runs.read_outcome(trial.stage, workdir or trial.workdir), trial.whole.outcome
    if other := [name for name in there if there[name] != here.get(name)]:
        raise Silent(f"{tag}: {', '.join(other)} differ from those of the uninterrupted run")


def check_signal(ended: Ended, number: int, begun: bool) -> str:
    """Returns a description of how a run ended after a signal. Raises Silent if the exit code or the output is wrong.

    Args:
        begun: whether the run had written its manifest before the signal came. A run that has written its manifest
            handles signals itself.
    """
    usual = {signal.SIGTERM: (-signal.SIGTERM,), signal.SIGINT: (-signal.SIGINT, 1)}[number]
    asked = AGAIN if number == signal.SIGTERM else LEFT
    if ended.code in (0, asked):
        if "Traceback" in ended.err:
            raise Silent(f"exit code {ended.code} with a traceback: {ended.err[-1500:]}")
        return f"exit code {ended.code}"
    if ended.code in usual and not begun:
        return f"exit code {ended.code}, before the run began"
    raise Silent(
        f"exit code {ended.code} after signal {number}; a run that handles the signal ends with 0 or {asked}: "
        f"{ended.err[-1500:]}"
    )


def interrupt(trial: Trial, number: int) -> Found:
    """Sends a signal to a run at a random time, then resumes the run.

    If the signal is SIGKILL, the resumed run sometimes gets a SIGKILL too, and is then resumed again.
    """
    where = []
    for attempt in range(1 if number != signal.SIGKILL or trial.rng.random() < 0.75 else 2):
        run = trial.start(f"broken-{attempt}", resume=(trial.workdir / "manifest.json").exists())
        where.append(fault_runs.await_moment(run, *fault_runs.choose_moment(trial.rng, trial.whole.ended)))
        begun = any(phase == "begun" for _, phase in fault_runs.marks(run))
        fault_runs.send(run, number)
        ended = fault_runs.wait(run)
        said = f"exit code {ended.code}"
        if number != signal.SIGKILL:
            said = check_signal(ended, number, begun)
    finish(trial)
    return Found(EQUAL, ", then ".join(where), said)


def fill_disk(trial: Trial) -> Found:
    """Runs the command with a random limit on file sizes. A write beyond the limit fails, as on a full disk."""
    size = draw_size(trial.rng)
    ended = fault_runs.wait(trial.start("broken", file_bytes=size))
    return expect_error(trial, ended, f"files of {size} bytes at most", lambda: None)


def fill_file_system(trial: Trial) -> Found:
    """Runs the command on an in-memory file system of random size, which can become full.

    If this process cannot mount a file system, `fill_disk` makes the trial instead.
    """
    size = draw_size(trial.rng)
    with mounted(trial.home / "disk", f"size={size}") as disk:
        if disk is None:
            return fill_disk(trial)
        ended = fault_runs.wait(trial.start("broken", workdir=disk / "run"))
        return expect_error(trial, ended, f"{size} bytes", lambda: remount(disk, f"size={ROOMY}"), disk / "run")


def draw_size(rng: random.Random) -> int:
    return int(LIMITS[0] * (LIMITS[1] / LIMITS[0]) ** rng.random())


def forbid_writing(trial: Trial) -> Found:
    """Runs the command while a directory is read-only.

    The read-only directory is the parent of a new run's working directory, the parent of a resumed run's working
    directory, or the checkpoint directory of a resumed run.
    """
    what = ("a new run", "a resumed run", "its checkpoints")[trial.ordinal % 3 if trial.stage.trains else 0]
    home = trial.home / "disk"
    with mounted(home, f"size={ROOMY}") as disk:
        disk = disk or home
        workdir = disk / "run"
        if what != "a new run":
            shutil.copytree(trial.midway(), workdir)
        closed = workdir / "checkpoints" if what == "its checkpoints" else disk

        def release() -> None:
            if os.path.ismount(closed):
                remount(closed, "rw")
            closed.chmod(0o755)

        with contextlib.ExitStack() as stack:
            if os.geteuid():
                closed.chmod(0o555)
            elif closed == disk:
                remount(disk, "ro")
            else:
                system("mount", "--bind", str(closed), str(closed))
                stack.callback(subprocess.run, ["umount", str(closed)], capture_output=True)
                system("mount", "-o", "remount,bind,ro", str(closed))
                release = functools.partial(system, "umount", str(closed))
            ended = fault_runs.wait(trial.start("broken", resume=what != "a new run", workdir=workdir))
            return expect_error(trial, ended, what, release, workdir)


def expect_error(
    trial: Trial, ended: Ended, where: str, undo: Callable[[], object], workdir: Path | None = None
) -> Found:
    """Judges a run that met a fault.

    The verdict is EQUAL if the run ended like the uninterrupted run. The verdict is CLEAR if two things hold: the run
    stopped with a clear error (`is_clear`), and after the fault was undone, the resumed run passed `finish`. Otherwise
    this function raises Silent.

    Args:
        ended: how the run with the fault ended.
        where: what the fault hit, as in `Found`.
        undo: a function that undoes the fault.
        workdir: the run's directory. None means `trial.workdir`.
    """
    if ended.code == 0:
        undo()
        compare(trial, ended, "with the fault", workdir)
        return Found(EQUAL, where)
    if not is_clear(ended):
        raise Silent(
            f"exit code {ended.code} without a clear error, which names a flag or a path and has no traceback: "
            f"{ended.err[-1500:]}"
        )
    undo()
    finish(trial, workdir=workdir)
    return Found(CLEAR, where, last_error(ended))


def last_error(ended: Ended) -> str:
    return [line for line in ended.err.splitlines() if "error:" in line][-1][:400]


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[Path | None]:
    """Mounts an in-memory file system at `path` for a `with` block.

    Yields `path`. Yields None instead if this process is not root, or if the mount fails.
    """
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]).returncode:
        yield None
        return
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)


def remount(path: Path, options: str) -> None:
    system("mount", "-o", f"remount,{options}", str(path))


def system(*command: str) -> None:
    subprocess.run(command, check=True)


def damage(trial: Trial, how: str) -> Found:
    """Damages one file of an interrupted run, then resumes the run.

    The damaged file is a file of the newest checkpoint, or manifest.json or model.json. The last two are only
    truncated or emptied.

    Args:
        how: "truncated", "empty" or "flipped", as in `spoil`; or "missing", which deletes the file.
    """
    shutil.copytree(trial.midway(), trial.workdir)
    newest = newest_checkpoint(trial.workdir)
    files = sorted(p for p in newest.rglob("*") if p.is_file())
    if how in ("truncated", "empty"):
        files += [trial.workdir / "manifest.json", trial.workdir / "model.json"]
    path = files[trial.ordinal % len(files)]
    before, relative = path.read_bytes(), str(path.relative_to(trial.workdir))
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(spoil(before, how, trial.rng))
    ended = fault_runs.wait(trial.start("broken", resume=True))

    def undo() -> None:
        if newest in path.parents:
            shutil.move(newest, trial.home / "removed")
        else:
            path.write_bytes(before)

    if ended.code == 0:
        compare(trial, ended, f"with {relative} {how}")
        return Found(EQUAL, relative)
    return expect_error(trial, ended, relative, undo)


def spoil(data: bytes, how: str, rng: random.Random) -> bytes:
    """Returns a damaged copy of `data`.

    If `how` is "truncated", the copy is cut off at a random place. If `how` is "empty", the copy has no content.
    Otherwise one bit is flipped.
    """
    if how == "empty" or not data:
        return b""
    at = rng.randrange(len(data))
    if how == "truncated":
        return data[:at]
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def newest_checkpoint(workdir: Path) -> Path:
    return max((p for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))


def forget_checksums(trial: Trial) -> Found:
    """Removes the checksums of the newest checkpoint, then resumes the run.

    A crash can leave a committed checkpoint without checksums.
    """
    shutil.copytree(trial.midway(), trial.workdir)
    for path in newest_checkpoint(trial.workdir).glob("checksums_*.json"):
        path.unlink()
    finish(trial)
    return Found(EQUAL, "checksums_0.json")


def leave_stale_files(trial: Trial) -> Found:
    """Adds files that a crash can leave behind, then resumes the run.

    The files hold half-written lines, an uncommitted checkpoint, or locks of dead processes.
    """
    shutil.copytree(trial.midway(), trial.workdir)
    newest, run = newest_checkpoint(trial.workdir), trial.workdir
    after = str(int(newest.name) + 1)
    (run / ".manifest.json.tmp").write_text('{"stage": "r1_')
    (run / ".lock").write_text("4194305\n")  # no process has this number
    (run / "checkpoints" / ".lock").write_text("4194305\n")
    (run / "metrics.jsonl.part").write_bytes((run / "metrics.jsonl").read_bytes()[:77])
    for name in ("metrics", "eval", "samples"):
        if (run / f"{name}.jsonl").exists():
            with open(run / f"{name}.jsonl", "ab") as file:
                file.write(b'{"step": 3, "rewa')
    shutil.copytree(newest, run / "checkpoints" / f"{after}.orbax-checkpoint-tmp-{trial.rng.randrange(99)}")
    shutil.copytree(newest, run / "checkpoints" / after)
    (run / "checkpoints" / after / "commit_success.txt").unlink()
    finish(trial)
    return Found(EQUAL, "after a checkpoint")


def worker_pids(run: Live) -> list[int]:
    """Returns the process ids of a run's verifier workers."""
    found: list[int] = []
    for path in Path(f"/proc/{run.process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in path.read_text().split()]
    return found


def hit_workers(trial: Trial, number: int) -> Found:
    """Sends a signal to verifier workers at random moments. SIGKILL kills a worker, and SIGSTOP makes it hang."""
    run, hits = trial.start("broken"), 0
    while fault_runs.is_alive(run) and hits < (3 if number == signal.SIGKILL else 1):
        if pids := worker_pids(run):
            time.sleep(trial.rng.uniform(0.0, 0.5))
            with contextlib.suppress(ProcessLookupError):
                os.kill(trial.rng.choice(pids), number)
                hits += 1
        time.sleep(0.004)
    ended = fault_runs.wait(run)
    try:
        compare(trial, ended, "with the fault")
    except Silent:
        rows = [line["rows/invalid"] for line in jsonl.read(trial.workdir / "metrics.jsonl")]
        if number == signal.SIGSTOP and ended.code == 0 and max(rows) > 0:
            return Found(CLEAR, f"{hits} workers", f"rows without a verdict are in metrics.jsonl: {rows}")
        raise
    return Found(EQUAL, f"{hits} workers")


def jump(trial: Trial) -> Found:
    """Runs the command with a clock that jumps by a day, forward or back, at a random moment."""
    seconds, call = trial.rng.choice([-DAY_S, DAY_S]), trial.rng.randrange(1, 60)
    ended = fault_runs.wait(trial.start("broken", clock_jump=(call, seconds)))
    compare(trial, ended, f"with a clock that jumps by {seconds:g} s")
    return Found(EQUAL, f"call {call} of time.time, {seconds:+g} s")


def start_pair(stage: Stage, campaign: Path, workdir: Path, told: Path, **changed: Any) -> list[Live]:
    """Starts the two processes of a run. Returns both, process 0 first.

    Args:
        campaign: the campaign's directory, which holds records.jsonl.
        workdir: the run's directory.
        told: beginning of the paths of the output files. Each path continues with the index of the process ("-0" or
            "-1") and a suffix such as ".out" (see `fault_runs.Order`).
        changed: flags to add to the stage's flags, or to replace them.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = {"coordinator": f"127.0.0.1:{port}", "processes": stage.processes}
    commands = [
        fault_runs.command(stage, campaign, workdir, **where, process_id=i, **changed) for i in range(stage.processes)
    ]
    return [
        fault_runs.start(stage.module, command, told.with_name(f"{told.name}-{i}"))
        for i, command in enumerate(commands)
    ]


def lose_process(trial: Trial) -> Found:
    """Kills one of a run's two processes, then resumes the run.

    The other process must end with exit code 0, or report the loss and end with exit code `AGAIN`.
    """
    pair, victim = start_pair(trial.stage, trial.campaign, trial.workdir, trial.home / "broken"), trial.ordinal % 2
    where = fault_runs.await_moment(pair[0], *fault_runs.choose_moment(trial.rng, trial.whole.ended, "begun"))
    fault_runs.end(pair[victim])
    left = [fault_runs.wait(run) for run in pair][1 - victim]
    if left.code != 0 and not (left.code == AGAIN and f"process {victim}" in left.err and "lost" in left.err):
        raise Silent(
            f"process {victim} was killed, and process {1 - victim} ended with exit code {left.code}. It must end with "
            f"0, or with {AGAIN} and a report of the loss: {left.err[-1500:]}"
        )
    step, lines = fault_runs.committed(trial.stage, trial.workdir)
    for ended in [
        fault_runs.wait(run)
        for run in start_pair(trial.stage, trial.campaign, trial.workdir, trial.home / "resumed", resume=True)
    ]:
        compare(trial, ended, "resumed")
    if step is not None and fault_runs.hash_lines(trial.workdir, step) != lines:
        raise Silent(f"step {step} was committed, but the resumed run repeated it")
    return Found(EQUAL, f"process {victim}: {where}", last_error(left) if left.code else "")


ALL = [name for name, stage in fault_runs.STAGES.items() if stage.processes == 1]
TRAINING = [name for name in ALL if fault_runs.STAGES[name].trains]
ONLINE = [name for name in TRAINING if name.startswith("r1_zero")]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        share: number of trials of this kind in a campaign of 208 trials. Other campaigns keep the proportions.
        stages: names of the stages in which the fault can occur.
        attempt: the function that makes a trial. It injects the fault, resumes the run and judges the result.
    """

    share: int
    stages: list[str]
    attempt: Callable[[Trial], Found]


KINDS = {
    "kill -9": Kind(62, ALL, functools.partial(interrupt, number=signal.SIGKILL)),
    "SIGTERM": Kind(20, ALL, functools.partial(interrupt, number=signal.SIGTERM)),
    "SIGINT": Kind(20, ALL, functools.partial(interrupt, number=signal.SIGINT)),
    "file size limit": Kind(12, ALL, fill_disk),
    "full file system": Kind(10, ALL, fill_file_system),
    "read-only directory": Kind(8, ALL, forbid_writing),
    "truncated file": Kind(13, TRAINING, functools.partial(damage, how="truncated")),
    "empty file": Kind(13, TRAINING, functools.partial(damage, how="empty")),
    "bit-flipped file": Kind(11, TRAINING, functools.partial(damage, how="flipped")),
    "missing file": Kind(10, TRAINING, functools.partial(damage, how="missing")),
    "missing checksums": Kind(4, TRAINING, forget_checksums),
    "stale files and locks": Kind(6, TRAINING, leave_stale_files),
    "verifier worker killed": Kind(6, ONLINE, functools.partial(hit_workers, number=signal.SIGKILL)),
    "verifier worker stopped": Kind(3, ONLINE, functools.partial(hit_workers, number=signal.SIGSTOP)),
    "clock jumps": Kind(7, ALL, jump),
    "one of two processes killed": Kind(3, ["two processes"], lose_process),
}
