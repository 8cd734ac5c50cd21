"""Runs the fault campaign: injects faults of every kind into toy runs of every stage, resumes the runs, and compares
the outcomes.

Run:     python -m experiments.bench.faults --runs=208 --seed=0 --jobs=2
         ... --table --workdir=DIR      prints the table of an earlier or unfinished campaign
A trial has one of three verdicts.
"equal":        the run, resumed if the fault stopped it, ended bit-equal to an uninterrupted run of the same command
"clear error":  the run stopped with a message that names a file or flag; resumed after the fault was undone, it ended
                bit-equal
"silent":       anything else. For example, the outcome differed, a traceback was printed, or a committed step was
                repeated

A fault that hangs a verifier worker changes the outcome of a run, because some completions cannot be judged. Such a
trial is a "clear error" too, if the run ended with exit code 0 and metrics.jsonl counts these completions.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import tyro

from experiments.bench import fault_runs
from experiments.bench.fault_kinds import CLEAR, EQUAL, KINDS, SILENT, Found, Silent, Trial, start_pair
from experiments.bench.fault_runs import STAGES, Ended, Whole
from r1jax import jsonl

RESULTS = "faults.jsonl"
GUESSES = 40  # records of fine-tuning


@dataclasses.dataclass(frozen=True)
class Options:
    """Breaks toy runs in many ways, and checks that each resumes bit-equal or stops with a clear error."""

    runs: int = 208
    """Number of trials. Every kind of fault gets at least one trial."""
    seed: int = 0
    """Seed of the faults: kinds, stages, moments, files."""
    jobs: int = 2
    """Number of trials at the same time."""
    workdir: str = ""
    """Directory for the results (faults.jsonl) and the runs; default: a new one in the system's temporary directory."""
    stages: tuple[str, ...] = ()
    """Names of the stages to break; default: all. A kind of fault that none of these stages can have is tried in
    other stages."""
    kinds: tuple[str, ...] = ()
    """Names of the kinds of faults; default: all."""
    table: bool = False
    """Only print the table of the results in --workdir."""


def schedule(options: Options) -> list[tuple[str, int, str]]:
    """Returns the planned trials as (kind, number of the trial within its kind, stage's name), beginning with one trial
    of each kind.

    Raises ValueError if --stages names an unknown stage, or if --kinds names an unknown kind.
    """
    for flag, given, known in (("--stages", options.stages, STAGES), ("--kinds", options.kinds, KINDS)):
        if unknown := set(given) - set(known):
            raise ValueError(f"{flag}={' '.join(sorted(unknown))} is unknown: use {', '.join(known)}")
    kinds = {name: kind for name, kind in KINDS.items() if name in options.kinds or not options.kinds}
    total = sum(kind.share for kind in kinds.values())
    wanted = {name: kind.share * options.runs / total for name, kind in kinds.items()}
    counts = {name: max(1, int(number)) for name, number in wanted.items()}
    by_need = sorted(kinds, key=lambda name: counts[name] - wanted[name])
    for name in by_need[: max(0, options.runs - sum(counts.values()))]:
        counts[name] += 1
    first_kind = next(iter(kinds))
    counts[first_kind] = max(1, counts[first_kind] + options.runs - sum(counts.values()))
    trials = []
    for i, (name, kind) in enumerate(kinds.items()):
        stages = [stage for stage in kind.stages if stage in options.stages or not options.stages] or kind.stages
        trials += [(name, ordinal, stages[(ordinal + i) % len(stages)]) for ordinal in range(counts[name])]
    first, rest = [t for t in trials if t[1] == 0], [t for t in trials if t[1] > 0]
    random.Random(options.seed).shuffle(rest)
    return first + rest


class Once:
    """Makes two runs of each stage, an uninterrupted and an interrupted one, and keeps them for all trials.

    A run is made when a trial first asks for it.
    """

    def __init__(self, home: Path):
        self._home, self._made = home, {}
        self._locks = {name: threading.RLock() for name in STAGES}

    def whole(self, name: str) -> Whole:
        """Returns an uninterrupted run of a stage.

        The stage is run twice, and the second run, which compiles nothing, is returned.
        """
        with self._locks[name]:
            if name not in self._made:
                for attempt in range(2):
                    workdir = self._home / "whole" / f"{name}-{attempt}"
                    ended = self._run(name, workdir)
                    if ended.code:
                        raise RuntimeError(
                            f"the uninterrupted run of {name} ended with code {ended.code}: {ended.err[-3000:]}"
                        )
                self._made[name] = Whole(fault_runs.read_outcome(STAGES[name], workdir), ended, workdir)
            return self._made[name]

    def _run(self, name: str, workdir: Path) -> Ended:
        stage, told = STAGES[name], workdir.with_name(f"{workdir.name}-told")
        if stage.processes > 1:
            return max(
                (fault_runs.wait(run) for run in start_pair(stage, self._home, workdir, told)), key=lambda e: e.code
            )
        return fault_runs.wait(fault_runs.start(stage.module, fault_runs.command(stage, self._home, workdir), told))

    def midway(self, name: str) -> Path:
        """Returns the directory of an unfinished run, which SIGTERM stopped after its second checkpoint."""
        with self._locks[name]:
            path = self._home / "midway" / name
            if not path.exists():
                stop_midway(STAGES[name], self._home, path)
            return path


def stop_midway(stage: fault_runs.Stage, home: Path, workdir: Path) -> None:
    """Starts a run of a stage, and stops it with SIGTERM after its second checkpoint.

    Args:
        stage: the stage to run.
        home: the campaign's directory.
        workdir: the run's directory. An existing directory is replaced.
    """
    from r1jax.runs.checkpoint import is_committed

    for attempt in range(8):
        shutil.rmtree(workdir, ignore_errors=True)
        told = workdir.with_name(f"{workdir.name}-told-{attempt}")
        run = fault_runs.start(stage.module, fault_runs.command(stage, home, workdir, save_every=1), told)
        folder = workdir / "checkpoints"
        while fault_runs.is_alive(run):
            if sum(p.name.isdecimal() and is_committed(p) for p in folder.glob("*")) >= 2:
                fault_runs.send(run, signal.SIGTERM)
                break
            time.sleep(0.002)
        fault_runs.wait(run)
        if json.loads((workdir / "manifest.json").read_text())["status"] == "running":
            return
    raise RuntimeError(
        f"{workdir}: 8 runs ended before SIGTERM could stop them. Give the stage more steps in fault_runs.STAGES"
    )


def write_records(path: Path) -> None:
    """Writes the file of records on which the toy stage "fine-tuning" trains.

    The file has `GUESSES` records. The questions are of the task "compare" of `r1jax.nano`. Each record has the chain
    of thought "i guess ANSWER".
    """
    from r1jax.nano import corpus, tasks
    from r1jax.sft_data import records

    rng, found = random.Random(0), []
    for i in range(GUESSES):
        row = tasks.draw(rng, "corpus", "corpus", "compare")
        response = " " + corpus.response_r1(row, f"i guess {row['gold']}", row["gold"])
        found.append({"id": f"{i}", "response": response, "keep": True, "reason": "", "route": "made"} | row)
    records.write(path, found)


def attempt(home: Path, once: Once, seed: int, number: int, planned: tuple[str, int, str]) -> dict[str, Any]:
    """Makes one trial.

    Returns the trial's line of faults.jsonl. Keeps the trial's files only if the verdict is SILENT.

    Args:
        home: the campaign's directory.
        once: supplies the uninterrupted and the interrupted run of the stage.
        seed: the campaign's seed.
        number: number of the trial in the campaign, from 0.
        planned: the trial, as in `schedule`.
    """
    kind, ordinal, name = planned
    folder, begun = home / "trials" / f"{number:03d}", time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        whole = once.whole(name)
        begun = time.monotonic()
        rng = random.Random(f"{seed} {number}")
        trial = Trial(kind, ordinal, STAGES[name], name, home, folder, rng, whole, lambda: once.midway(name))
        found = KINDS[kind].attempt(trial)
    except Silent as error:
        found = Found(SILENT, "", str(error))
    except Exception:  # of the campaign itself, or of files that a run left in a state that cannot be read
        found = Found(SILENT, "", traceback.format_exc()[-2000:])
    if found.verdict != SILENT:
        shutil.rmtree(folder, ignore_errors=True)
    line = {"number": number, "kind": kind, "stage": name} | dataclasses.asdict(found)
    return line | {"seconds": round(time.monotonic() - begun, 1)}


def run(options: Options) -> list[dict[str, Any]]:
    """Runs the campaign. Returns the lines of faults.jsonl. Ctrl-C ends the campaign; the lines so far stay on disk.

    Raises ValueError if --workdir holds the results of another campaign, if --stages names an unknown stage, or if
    --kinds names an unknown kind.
    """
    planned, found, begun = schedule(options), [], time.monotonic()
    home = Path(options.workdir or tempfile.mkdtemp(prefix="faults-")).absolute()
    home.mkdir(parents=True, exist_ok=True)
    if (home / RESULTS).exists():
        raise ValueError(f"--workdir={home} holds results already: print them with --table, or name another directory")
    for name in ("whole", "midway", "trials"):
        shutil.rmtree(home / name, ignore_errors=True)
    fault_runs.prepare(home / "compiled")
    write_records(home / "records.jsonl")
    once = Once(home)
    print(f"{len(planned)} runs, results in {home / RESULTS}", flush=True)
    pool = concurrent.futures.ThreadPoolExecutor(options.jobs)
    try:
        with jsonl.JsonLines(home / RESULTS) as file:
            waiting = [pool.submit(attempt, home, once, options.seed, i, trial) for i, trial in enumerate(planned)]
            for done in concurrent.futures.as_completed(waiting):
                found.append(done.result())
                file.write(found[-1])
                show_progress(found, len(planned), time.monotonic() - begun)
    except KeyboardInterrupt:
        print("\nstopped; these are the results so far", file=sys.stderr)
        pool.shutdown(wait=False, cancel_futures=True)
        kill_runs()
    pool.shutdown()
    return found


def kill_runs() -> None:
    """Kills the runs that are in progress."""
    import multiprocessing

    for process in multiprocessing.active_children():
        process.kill()


def show_progress(found: list[dict[str, Any]], total: int, seconds: float) -> None:
    last = found[-1]
    left = seconds / len(found) * (total - len(found)) / 60
    silent = sum(line["verdict"] == SILENT for line in found)
    print(
        f"{len(found)}/{total}, {silent} silent, {left:.0f} minutes left: {last['kind']}, {last['stage']}, "
        f"{last['where']}: {last['verdict']} after {last['seconds']:.0f} s",
        flush=True,
    )
    if last["verdict"] == SILENT:
        print(f"    {last['detail']}", flush=True)


def format_table(lines: list[dict[str, Any]]) -> str:
    """Returns a Markdown table with the number of trials and of each verdict for every kind of fault."""
    counts = Counter((line["kind"], line["verdict"]) for line in lines)
    rows = [
        [kind, *(str(counts[kind, verdict]) for verdict in (EQUAL, CLEAR, SILENT))]
        for kind in KINDS
        if any(line["kind"] == kind for line in lines)
    ]
    rows.append(["all", *(str(sum(line["verdict"] == v for line in lines)) for v in (EQUAL, CLEAR, SILENT))])
    text = ["| kind | runs | resumed equal | clear error, then equal | silent |", "|---|---|---|---|---|"]
    return "\n".join(text + [f"| {kind} | {sum(map(int, n))} | {' | '.join(n)} |" for kind, *n in rows])


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.table:
        print(format_table(jsonl.read(Path(options.workdir) / RESULTS)))
        return
    try:
        lines = run(options)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"\n{format_table(lines)}")
    sys.stdout.flush()
    os._exit(any(line["verdict"] == SILENT for line in lines))


if __name__ == "__main__":
    main()
