"""Starts the runs of the fault campaign (`faults`) as real processes, watches their phases, and compares outcomes.

A run is one execution of a stage. A stage is a command of `experiments` at toy size. A phase is what a run is doing,
such as "sampling".

Each run is a process of its own, which can be killed, or be given a limit on file sizes. Runs are forked from a server
process that has imported everything heavy, and all runs share one cache of compiled programs. So a run takes seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1jax import interrupts, jsonl

DEADLINE_S = 400.0  # a run that takes longer hangs
DAY_S = 86_400.0
LOCK = threading.Lock()  # of multiprocessing's bookkeeping, which several threads must not change at once
FORKS = multiprocessing.get_context("forkserver")
RL = dict(
    steps=4,
    questions_per_round=2,
    group_size=4,
    max_tokens=16,
    eval_problems=4,
    row_length=320,
    batch_rows=2,
    save_every=1,
    eval_every=2,
    log_samples=4,
    mesh="1x1",
)
TUNING = dict(
    epochs=0.0,
    steps=4,
    warmup_steps=0,
    row_length=320,
    batch_rows=2,
    held_out_problems=0,
    max_tokens=8,
    eval_problems=2,
    eval_every=2,
    save_every=1,
    log_samples=2,
    mesh="1x1",
    prompts="nano:compare",
    eval_prompts="nano:compare",
    records="{home}/records.jsonl",
)
REWARD = dict(
    epochs=1, items=44, held_out_items=8, batch_items=12, batch_rows=4, warmup_steps=0, save_every=1, mesh="1x1"
)
SAMPLING = dict(samples=2, max_tokens=16, wave_rows=4, mesh="1x1")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage: a command of `experiments`, with flags for toy size.

    Attributes:
        module: name of the command's module in experiments.
        flags: name -> value of the command's flags.
        results: name of the results file, for a stage that trains nothing; "" for a stage that trains.
        rounds: number of optimizer steps between two places where a run can resume.
        processes: number of processes of a run.
    """

    module: str
    flags: dict[str, Any]
    results: str = ""
    rounds: int = 1
    processes: int = 1

    @property
    def trains(self) -> bool:
        return not self.results


STAGES = {
    "r1_zero": Stage("r1_zero", RL),
    "r1_zero, 2 minibatches": Stage("r1_zero", RL | dict(minibatches=2, steps=8, save_every=2), rounds=2),
    "r1_zero, LoRA": Stage("r1_zero", RL | dict(lora_rank=2)),
    "r1_zero, carry-over": Stage("r1_zero", RL | dict(carry_over=1)),
    "r1_zero, ahead": Stage("r1_zero", RL | dict(ahead=1, tis_cap=2.0)),
    "fine-tuning": Stage("distill", TUNING),
    "reward model": Stage("train_reward_model", REWARD),
    "generate": Stage("generate", SAMPLING | dict(count=8), "records.jsonl"),
    "evaluate": Stage("evaluate", SAMPLING | dict(problems=8), "results.json"),
    "two processes": Stage("r1_zero", RL | dict(mesh="2x1"), processes=2),
}
PRELOAD = [
    "experiments.bench.fault_runs",
    *sorted({f"experiments.{stage.module}" for stage in STAGES.values()}),
    "orbax.checkpoint.v1",
    "sentencepiece",
    "r1jax.runs.run",
    "r1jax.tokenizers.sentencepiece",
]


@dataclasses.dataclass(frozen=True)
class Order:
    """The command that a child process runs, and the faults that are injected.

    Attributes:
        module, arguments: name of the stage's module, and the arguments of its command line.
        told: path of the output files without their suffix. Standard output has the suffix .out, standard error has
            .err, and the list of the run's phases (what it does, such as "sampling") has .marks.
        file_bytes: largest size of a file that the process can write. 0 means no limit.
        clock_jump: a pair (call, seconds), the arguments of `jump_clock`. None means that the clock does not jump.
    """

    module: str
    arguments: list[str]
    told: str
    file_bytes: int = 0
    clock_jump: tuple[int, float] | None = None


@dataclasses.dataclass
class Live:
    """A run in progress.

    Attributes:
        process: the process of the run.
        told: path of the run's output files without their suffix, as in `Order`.
        begun: time of the run's start, in seconds of `time.monotonic`.
    """

    process: Any
    told: str
    begun: float


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: exit code; −n after signal n, and 124 if the run took too long and was killed.
        err: standard error.
        seconds: duration of the run, in seconds.
        marks: the phases that the run entered, as [(seconds since the run's start, phase)].
    """

    code: int
    err: str
    seconds: float
    marks: list[tuple[float, str]]


@dataclasses.dataclass(frozen=True)
class Whole:
    """An uninterrupted run: its outcome (`read_outcome`), how it ended, and its directory."""

    outcome: dict[str, Any]
    ended: Ended
    workdir: Path


def prepare(cache: Path) -> None:
    """Sets the environment and the imports of the fork server, which all runs inherit.

    Call this function before JAX initialises its devices.
    """
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    import jax

    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_platforms", "cpu")
    FORKS.set_forkserver_preload(PRELOAD)


# In the child


def live(order: Order) -> None:
    """Runs the command of `order` as if a shell had started the command. Then ends this process; never returns.

    Called in a process that the fork server made.
    """
    os.setsid()
    interrupts.remember()  # as `python -m experiments.NAME` does
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{order.told}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115 - for the process's life
    sys.argv = [order.module, *order.arguments]
    code = 1
    try:
        mark_phases(os.open(f"{order.told}.marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
        if order.file_bytes:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (order.file_bytes, order.file_bytes))
        if order.clock_jump:
            jump_clock(*order.clock_jump)
        importlib.import_module(f"experiments.{order.module}").main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1 if left.code else 0
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            threading._shutdown()
            atexit._run_exitfuncs()
        os._exit(code)


def mark_phases(file: int) -> None:
    """Makes this process write a line "seconds phase" whenever it enters another phase, such as "sampling".

    Args:
        file: the file descriptor to write to. The seconds count from this call.
    """
    from r1jax import report
    from r1jax.distributed import phases
    from r1jax.runs.run import Run
    from r1jax.runs.saver import Saver

    begun = time.monotonic()

    def mark(phase: str) -> None:
        os.write(file, f"{time.monotonic() - begun:.3f} {phase}\n".encode())

    def watch() -> None:
        last = ""
        while True:
            if (now := phases.pulse().phase) != last:
                mark(last := now)
            time.sleep(0.004)

    def marked(call: Any, before: str = "", after: str = "") -> Any:
        def inner(*args: Any, **kwargs: Any) -> Any:
            if before:
                mark(before)
            value = call(*args, **kwargs)
            if after:
                mark(after)
            return value

        return inner

    Saver._finish = marked(Saver._finish, "asynchronous save", "saved")
    Run.write_manifest = marked(Run.write_manifest, "", "begun")
    report.write = marked(report.write, "report", "reported")
    threading.Thread(target=watch, daemon=True).start()


def jump_clock(call: int, seconds: float) -> None:
    """Adds `seconds` to the result of every call of time.time, beginning with call number `call`.

    Calls are numbered from 1.
    """
    honest, calls = time.time, [0]

    def jumping() -> float:
        calls[0] += 1
        return honest() + (seconds if calls[0] >= call else 0.0)

    time.time = jumping


# In the campaign


def command(stage: Stage, home: Path, workdir: Path, **changed: Any) -> list[str]:
    """Returns the arguments of a stage's command line.

    Args:
        home: the campaign's directory, which holds records.jsonl.
        workdir: the value of --workdir.
        changed: flags to add to the stage's flags, or to replace them.
    """
    flags = stage.flags | {"workdir": workdir} | changed
    return [f"--{name.replace('_', '-')}={str(value).format(home=home)}" for name, value in flags.items()]


def start(module: str, arguments: list[str], told: Path, **faults: Any) -> Live:
    """Starts the command of a stage in a new process.

    Args:
        module, arguments, told: as in `Order`.
        faults: the other fields of `Order`, which describe faults.
    """
    told.parent.mkdir(parents=True, exist_ok=True)
    process = FORKS.Process(target=live, args=(Order(module, arguments, str(told), **faults),))
    with LOCK:
        process.start()
    return Live(process, str(told), time.monotonic())


def is_alive(run: Live) -> bool:
    with LOCK:
        return run.process.exitcode is None


def wait(run: Live, deadline: float = DEADLINE_S) -> Ended:
    """Waits until a run ends. Kills a run that takes longer than `deadline` seconds; its exit code is then 124."""
    hung = False
    while is_alive(run):
        if time.monotonic() - run.begun > deadline:
            hung = True
            end(run)
        time.sleep(0.02)
    with LOCK:
        code = 124 if hung else run.process.exitcode
    err = Path(f"{run.told}.err")
    text = err.read_text(encoding="utf-8", errors="replace") if err.exists() else ""
    return Ended(code, text, time.monotonic() - run.begun, marks(run))


def send(run: Live, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(run.process.pid, number)


def end(run: Live) -> None:
    """Kills a run with kill -9."""
    send(run, signal.SIGKILL)


def marks(run: Live) -> list[tuple[float, str]]:
    """Returns the phases that a run has entered so far: [(seconds since its start, phase)]."""
    path = Path(f"{run.told}.marks")
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(second), phase) for second, _, phase in (line.partition(" ") for line in lines)]


def choose_moment(rng: random.Random, whole: Ended, after: str = "") -> tuple[int, float]:
    """Returns a random moment of a run as (index of the current phase, seconds since this phase began).

    Half of the moments are uniform in time. In the other half, all phases are equally likely.

    Args:
        whole: an uninterrupted run of the same command.
        after: name of a phase; the moment lies after the phase began. "" allows any moment.
    """
    times = [time for time, _ in whole.marks] + [whole.seconds]
    first = next((i for i, (_, phase) in enumerate(whole.marks) if phase == after), 0)
    if rng.random() < 0.5:
        at = rng.uniform(times[first], times[-1])
        index = max(i for i in range(first, len(times)) if times[i] <= at)
        return min(index, len(times) - 2), at - times[index]
    names = sorted({phase for _, phase in whole.marks[first:]})
    name = rng.choice(names)
    index = rng.choice([i for i in range(first, len(whole.marks)) if whole.marks[i][1] == name])
    return index, rng.uniform(0.0, times[index + 1] - times[index])


def await_moment(run: Live, index: int, delay: float) -> str:
    """Waits until a run has entered the phase `index`, counted from 0, and then for `delay` seconds more.

    Returns the phase that the run is in after this wait.
    """
    while is_alive(run) and len(marks(run)) <= index and time.monotonic() - run.begun < DEADLINE_S:
        time.sleep(0.004)
    time.sleep(delay)
    entered = marks(run)
    return entered[-1][1] if entered else "before the command"


def read_outcome(stage: Stage, workdir: Path) -> dict[str, Any]:
    """Returns what every run of the same command must reproduce exactly, {name: value}.

    For a stage that trains, these are the logs without speeds, the hash of the parameters, the step of the last
    checkpoint, and parts of the manifest. For a stage that trains nothing, these are the results file and parts of the
    manifest.
    """
    from r1jax.runs import checkpoint, manifests

    manifest = json.loads((workdir / "manifest.json").read_text())
    kept = {name: manifests.without_paths(manifest[name]) for name in ("results", "status", "parent", "data")}
    if not stage.trains:
        text = (workdir / stage.results).read_text(encoding="utf-8")
        same = manifests.without_paths(json.loads(text)) if text.startswith("{\n") else text
        return kept | {stage.results: same}
    for name in ("metrics", "eval", "samples"):
        path = workdir / f"{name}.jsonl"
        kept[name] = [without_speed(line) for line in jsonl.read(path)] if path.exists() else []
    last = checkpoint.latest(workdir / "checkpoints")
    return kept | {"warnings": manifest["warnings"], "last": last, "params": checkpoint.sha256(workdir)}


def without_speed(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if not key.startswith("perf/")}


def committed(stage: Stage, workdir: Path) -> tuple[int | None, str]:
    """Returns the step at which an interrupted run can resume, and a hash of metrics.jsonl up to this step.

    The step belongs to the newest committed checkpoint whose step is a multiple of `stage.rounds`. Returns (None, "")
    if there is no such checkpoint. The hash covers the times in the lines of metrics.jsonl. So the hash changes if a
    resumed run repeats a step.
    """
    from r1jax.runs import checkpoint

    folder = workdir / "checkpoints"
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdecimal() and checkpoint.is_committed(p)]
    step = max((s for s in steps if s % stage.rounds == 0), default=None)
    return step, "" if step is None else hash_lines(workdir, step)


def hash_lines(workdir: Path, step: int) -> str:
    """Returns the SHA-256 of the lines of metrics.jsonl up to `step`, including the times in the lines."""
    path = workdir / "metrics.jsonl"
    lines = [line for line in jsonl.read(path) if line["step"] <= step] if path.exists() else []
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()
