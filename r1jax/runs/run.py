"""`Run` opens, resumes, logs, evaluates, saves, stops and finishes a run. Every training loop uses it like this:

with Run("r1_zero", options, fields) as run:
    run.claim(data)                                # an error if a resumed run began with other data
    policy, params = run.load_policy()             # an error if a resumed run began with other weights
    state = run.restore(fresh) or start(...)
    if run.is_complete(steps):
        return run.workdir
    run.begin(policy, steps)
    for batch in batches:
        ready = run.watch(batch)
        state, figures = update(learner, state, batch)
        run.log(figures, describe, ready)          # the line is written while the next step runs
        if run.due(eval_every):
            run.evaluate(lambda: ...)              # writes a line of eval.jsonl
        if run.due(save_every, at_stop=True):
            run.save(state)
        run.stop_if_asked()
    return run.finish()
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from r1jax import distributed, jsonl, report, storage
from r1jax.distributed.phases import pulse
from r1jax.distributed.signals import AGAIN, Stop, Stopped
from r1jax.distributed.watchdog import Watchdog, end_now, is_runtime_error, watch
from r1jax.model.feedforward import within
from r1jax.policy import Policy
from r1jax.recipes import RunOptions
from r1jax.runs import checkpoint, manifests
from r1jax.runs.health import Alarms, explain_memory
from r1jax.runs.logs import Logs
from r1jax.runs.policies import load_policy, same_weights, size_of, step_of, write_policy
from r1jax.runs.progress import Progress
from r1jax.runs.saver import Saver, remove
from r1jax.runs.step_logger import Describe, StepLogger
from r1jax.sharding import abstract, make_meshes

# Flags that a resumed run may change: paths, devices, intervals and tracking.
MAY_CHANGE = frozenset(
    {
        "mesh",
        "eval_every",
        "save_every",
        "workdir",
        "weights",
        "resume",
        "coordinator",
        "processes",
        "process_id",
        "watchdog",
        "track",
    }
)
OWED = "owes_evaluation"  # in the meta of a checkpoint
MAX_SKIPS = 3  # non-finite updates in a row that a run survives, unless its recipe has a number


def every(interval: int, before: int, after: int) -> bool:
    """Returns whether a multiple of `interval` lies in (before, after].

    Both bounds are steps. False if `interval` is 0.
    """
    return interval > 0 and after // interval > before // interval


class Run:
    """A context manager that does everything around a run's training loop, from reading flags to writing the report.

    Entering the context joins the processes, makes the mesh and checks the working directory. Call the methods in the
    order of the example at the top of this module. Every process makes the same calls; process 0 writes the files.

    Args:
        stage: name of the stage, for the manifest and the default working directory.
        options: flags of the run.
        fields: {name: value} of every field of the recipe and the options, for the manifest. A resumed run must have
            the same values. The field `rollout_mesh`, if there is one, says which devices sample rollouts.
        may_change: names of fields that a resumed run may change, in addition to `MAY_CHANGE`.
        defaults: values of fields that an older manifest may lack: see `manifests.defaults_of`.
        resume: whether to continue a run in the working directory; if None, the value of --resume.
        has_report: whether to write report.html with each checkpoint.

    Attributes:
        mesh: the mesh of the devices that train.
        rollout_mesh: the mesh of the devices that sample rollouts; it may be the same mesh.
        workdir: the directory to which the run writes.
        step: finished optimizer steps.
        steps: the step at which the run ends.
        before: the manifest of the run that is resumed; None for a new run.
        data: the manifest's entry `data`: what the run learns from.
        results: {"base": evaluation before training, "final": newest evaluation}. An evaluation is a line of
            eval.jsonl, or None if there is none yet.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used. The message says which one, and what to do.
        SystemExit: after Ctrl-C (code 130) or SIGTERM (code 75, which asks for another start). The checkpoint is on
            disk then.
        MemoryError: a device had too little memory. The message names the phase, and flags that lower the need.
        FloatingPointError: from `log`, `evaluate`, `save` and `finish`, after too many non-finite updates in a row.
    """

    mesh: Mesh
    rollout_mesh: Mesh
    workdir: Path
    step: int = 0
    steps: int = 0
    _watchdog: Watchdog | None = None

    def __init__(
        self,
        stage: str,
        options: RunOptions,
        fields: Mapping[str, Any],
        *,
        may_change: Collection[str] = frozenset(),
        defaults: Mapping[str, Any] = MappingProxyType({}),
        resume: bool | None = None,
        has_report: bool = True,
    ):
        self.stage, self.options, self.has_report, self._defaults = stage, options, has_report, defaults
        self._resume = options.resume if resume is None else resume
        self._fields, self._may_change = dict(fields), MAY_CHANGE | set(may_change)
        self._parent: dict[str, Any] | None = None
        self.data: dict[str, Any] = {}
        self._stop: int | None = None  # exit code with which to stop after this round; None until all have agreed
        self._keep: Callable[[], Any] | None = None  # see `begin`
        self._evaluating = False
        self._mark = 0  # the step of the last `stop_if_asked`
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Run:
        o = self.options
        size = size_of(o)
        distributed.share_cpu(o.mesh, size)
        distributed.start(o.coordinator, o.processes, o.process_id)
        distributed.keep_compilations()
        self._watchdog = self._open.enter_context(watch(o.watchdog))
        self.workdir = storage.path_of(o.workdir or new_workdir(self.stage), "--workdir")
        self.mesh, self.rollout_mesh = make_meshes(o.mesh, self._fields.get("rollout_mesh", ""), size=size)
        self.before = manifests.check_resume(self.workdir, self._fields, self._resume, self._may_change, self._defaults)
        self._last = checkpoint.latest(self.workdir / "checkpoints")
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if isinstance(error, Stop) and self._keep:
                self._keep()
                self._saver.wait()
            elif error is not None and self._keep and distributed.is_main():
                with contextlib.suppress(Exception):  # the error that ends the run says more
                    self._report()
            if self._watchdog and is_runtime_error(error) and (lost := self._watchdog.name_lost()):
                end_now(lost, AGAIN)
        finally:
            self._open.__exit__(kind, error, trace)
        if isinstance(error, Stop):
            raise self._stopped(error.code) from None
        if "RESOURCE_EXHAUSTED" in str(error):
            raise MemoryError(explain_memory(str(error), pulse().phase)) from error

    def enter(self, resource: contextlib.AbstractContextManager) -> Any:
        """Enters a context manager, such as a pool of verifiers. Returns the value that `with` would bind.

        The context manager is closed when the run is closed.
        """
        return self._open.enter_context(resource)

    # Before the loop

    def claim(self, data: Mapping[str, Any], what: str = "data") -> None:
        """Records the data that the run learns from, for the manifest.

        Args:
            data: the manifest's entry `data`: see `manifests.Manifest`.
            what: a noun for the data, such as "records", for the error.

        Raises:
            ValueError: the run is resumed and began with other data.
        """
        manifests.check_same(self.workdir, self.before, data, what)
        self.data = dict(data)

    def load_policy(self, *, frozen: bool = False, rewards: bool = False) -> tuple[Policy, dict]:
        """Loads the policy of --weights or --model. Returns (policy, parameters on the mesh).

        The arguments are those of `policies.load_policy`.

        Raises:
            ValueError: the weights cannot be used, or the run is resumed and began with other weights.
        """
        policy, params, parent = load_policy(self.options, self.mesh, frozen=frozen, rewards=rewards)
        parent |= step_of(self.options.weights)
        if self.before is not None and self.before.parent and same_weights(self.before.parent, parent, params):
            parent = self.before.parent
        self.claim_parent(parent)
        return policy, params

    def claim_parent(self, parent: dict[str, Any]) -> None:
        """Records {"path", "sha256"} of the weights that the run begins with, for the manifest.

        Raises:
            ValueError: the run is resumed and began with other weights.
        """
        manifests.check_parent(self.workdir, self.before, parent)
        self._parent = parent

    def restore(self, fresh: Callable[..., Any], *arguments: Any) -> Any | None:
        """Restores the state of the newest checkpoint onto the mesh; returns None if the run has no checkpoint yet.

        Args:
            fresh: a function `(*arguments) -> state` that makes a state of the same shapes. It is traced for the
                shapes, never run.

        Raises:
            ValueError: the checkpoint is damaged, or belongs to another model or optimizer.
        """
        if self._last is None:
            return None
        self.step = self._mark = self._last
        shapes = abstract(jax.eval_shape(fresh, *arguments), self.mesh)
        return checkpoint.restore(self.workdir, shapes, self._last)

    def restore_round(self, minibatches: int, steps: int, fresh: Callable[..., Any], *arguments: Any) -> Any | None:
        """Restores the newest checkpoint that lies between two rounds. Returns what `restore` returns.

        First removes newer checkpoints that lie in the middle of a round, because a run cannot resume there.

        Args:
            minibatches: optimizer steps of a round.
            steps: the step at which the run ends. Checkpoints of that step or later are never removed.
            fresh, arguments: see `restore`.
        """
        while self._last is not None and self._last % minibatches and self._last < steps:
            remove(self.workdir / "checkpoints", self._last)
            self._last = checkpoint.latest(self.workdir / "checkpoints")
        return self.restore(fresh, *arguments)

    def read_meta(self) -> dict[str, Any]:
        """Returns the JSON values that `save` stored as `meta` in the restored checkpoint; {} if there is none."""
        return {} if self._last is None else checkpoint.read_meta(self.workdir, self._last)

    def is_complete(self, steps: int) -> bool:
        """Returns True if nothing is left to do: a checkpoint has reached `steps`, and its policy was evaluated.

        In that case prints that the run is complete. Also marks the run as complete in the manifest, if a crash kept an
        earlier command from doing this.
        """
        if self._last is None or self._last < steps:
            return False
        self.results = dict(self.before.results)
        if self._last == steps and self.owes_evaluation:
            return False  # a signal ended the last evaluation
        self.steps = steps
        if self._last == steps and self.before.status != "complete" and distributed.is_main():
            manifest = dataclasses.replace(self.before, recipe=self._fields, status="complete")
            manifests.write(self.workdir, manifest)
            self._report()
        print(
            f"{self.workdir} is complete: {self._last} steps of --steps={steps}. Raise --steps to go on; {self.shown}"
        )
        return True

    @property
    def shown(self) -> str:
        """A phrase that tells the user where the results are."""
        return f"the report is {self.workdir / 'report.html'}" if self.has_report else f"see {self.workdir}"

    def begin(
        self,
        policy: Policy,
        steps: int,
        *,
        max_skips: int = MAX_SKIPS,
        shown: Sequence[str] = ("loss",),
        alarms: Alarms | None = None,
        detail: str = "",
        keep: Callable[[], Any],
    ) -> None:
        """Writes the manifest and the policy, and opens logs, checkpoints, signals and progress.

        Args:
            policy: the policy, whose model config and tokenizer are written beside the checkpoints.
            steps: the step at which the run ends.
            max_skips: number of non-finite updates in a row that the run survives.
            shown: names of the metrics that the progress bar shows.
            alarms: the warnings to check after each step; if None, no warnings.
            detail: text to add to the first line on screen.
            keep: a function that calls `save` with the state after the last step. The run calls this function after a
                signal (Ctrl-C or SIGTERM) between two steps, such as while a round is sampled.
        """
        self.steps, self._keep = steps, keep
        self.write_manifest()
        if distributed.is_main():
            write_policy(self.workdir, policy)
        last = -1 if self._last is None else self._last
        evaluated = last - 1 if self.owes_evaluation else last  # a line that a killed run wrote is written again
        self.logs = Logs(self.workdir, last, evaluated, self.options, self._fields)
        self._open.callback(self.logs.close)
        self._saver = self._open.enter_context(Saver(self.workdir / "checkpoints"))
        self._progress = self._open.enter_context(Progress(steps, self.step))
        self._log = StepLogger(
            self.workdir,
            self.logs,
            self._progress,
            max_skips=max_skips,
            shown=shown,
            alarms=alarms,
            warnings=read_warnings(self.workdir, alarms) if alarms else (),
        )
        self._open.callback(self._log.close)
        device = self.mesh.devices.flat[0].device_kind
        apart = "" if self.rollout_mesh is self.mesh else f", rollouts on {dict(self.rollout_mesh.shape)}"
        self.say(
            f"{self.workdir}: {self.stage}, {steps} steps on {self.mesh.devices.size} x {device}, "
            f"mesh {dict(self.mesh.shape)}{apart}{detail and f', {detail}'}"
        )
        self._open.enter_context(within(policy.cfg, self.mesh))

    def write_manifest(self) -> None:
        """Writes the manifest with status "running". A run without optimizer steps calls this in place of `begin`."""
        self._manifest = manifests.Manifest(
            self.stage, self._fields, self.options.seed, manifests.versions(), self._parent, self.data
        )
        if self.before is not None and self._last is not None:
            self._manifest = dataclasses.replace(self.before, recipe=self._fields, status="running")
        self.results = dict(self._manifest.results)
        self._stopping = self._open.enter_context(distributed.stop_requests())
        if distributed.is_main():
            storage.make_folder(self.workdir)
            manifests.write(self.workdir, self._manifest)

    # In the loop

    def say(self, *texts: str) -> None:
        """Prints texts above the progress bar, each on a line of its own."""
        for text in texts:
            self._progress.say(text)

    def watch(self, batch: Any) -> Future[float]:
        """Starts to wait, in the background, until the device has `batch` and has finished the previous step.

        Returns a future of the time at which this happens. Call this method before the update, and pass its result to
        the method `log` after the update.
        """
        return self._log.watch(batch)

    def log(
        self, figures: Mapping[str, jax.Array], describe: Describe, ready: Future[float], batch: Sequence[Any] = ()
    ) -> None:
        """Counts and logs a step that was dispatched. The line in metrics.jsonl is written while the next step runs.

        Args:
            figures: {name: scalar} of the update's metrics, still on the device.
            describe: a function `(figures, times) -> line` that makes the line from the fetched metrics and the step's
                `Times`.
            ready: from `watch`.
            batch: the micro-batches of the step, which are saved if the update is not finite.
        """
        self.step += 1
        self._log.enter(self.step, figures, describe, ready, batch)

    def due(self, interval: int, *, at_stop: bool = False) -> bool:
        """Returns whether an action that happens every `interval` steps, such as saving, is due.

        The action is due if the run passed a multiple of `interval` since the last `stop_if_asked`, or if the run's
        last step is done.

        Args:
            at_stop: whether the action is also due if the user has asked to stop (Ctrl-C or SIGTERM).
        """
        if self._stop is None:
            self._stop = self._stopping()
        return every(interval, self._mark, self.step) or self.step >= self.steps or bool(at_stop and self._stop)

    @property
    def owes_evaluation(self) -> bool:
        """Whether the policy is to be evaluated before the next step.

        True if the policy was never evaluated, or if a signal interrupted its evaluation at the step of the restored
        checkpoint.
        """
        if self.step == 0 and self.results["base"] is None:
            return True
        evaluated = (self.results["final"] or {}).get("step") == self.step
        return bool(self.read_meta().get(OWED)) and not evaluated

    def evaluate(self, measure: Callable[[], dict], shown: Sequence[str] = ()) -> dict:
        """Evaluates the policy, and writes the result as a line of eval.jsonl and into the manifest. Returns the line.

        Args:
            measure: a function that evaluates the policy and returns the line, {name: value}, without "step".
            shown: names in the line whose values are printed; by default all floats.
        """
        self._log.settle()
        self.say(f"step {self.step}: evaluating")
        self._evaluating = True
        line = {"step": self.step} | measure()
        self._evaluating = False
        self.logs.write("eval", line)
        self.results["final" if self.step else "base"] = line
        names = shown or [name for name, value in line.items() if isinstance(value, float)]
        figures = ", ".join(f"{name} {line[name]:.3f}" for name in names if line.get(name) is not None)
        self.say(f"step {self.step}: held-out {figures}")
        return line

    def save(self, state: Any, meta: Mapping[str, Any] | None = None) -> None:
        """Writes manifest and report, and starts writing a checkpoint of `state`. `state` may be donated afterwards.

        Args:
            state: a pytree of arrays. After a resume, `restore` returns it.
            meta: JSON values to store beside the state. After a resume, `read_meta` returns them.
        """
        distributed.beat("saving a checkpoint")
        self._log.settle()
        self.logs.sync()
        if distributed.is_main():  # before the checkpoint, so that a run that resumes from it finds its results
            manifests.write(
                self.workdir,
                dataclasses.replace(self._manifest, results=self.results, warnings=self._log.warnings),
            )
        self._saver.save(self.step, state, dict(meta or {}) | ({OWED: True} if self._evaluating else {}))
        if distributed.is_main():
            self._report()

    def write_samples(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Appends lines to samples.jsonl."""
        for line in lines:
            self.logs.write("samples", line)

    def stop_if_asked(self) -> None:
        """Ends the run early if a signal (Ctrl-C or SIGTERM) came before the last step.

        In that case waits until the checkpoint is on disk, then raises SystemExit. Otherwise only records the current
        step, from which `due` then counts. Call this method at the end of each pass through the training loop.
        """
        stop, self._stop, self._mark = self._stop, None, self.step
        if stop and self.step < self.steps:
            self._saver.wait()
            raise self._stopped(stop)

    def _stopped(self, code: int) -> Stopped:
        """Returns the exception that ends the process after a signal."""
        if self._keep is None:
            return Stopped(code, "stopped; run the same command again to continue")
        go_on = f"continue with --workdir={self.workdir} --resume=True and the same flags"
        return Stopped(code, f"stopped at step {self.step}; {go_on}")

    # After the loop

    def finish(self) -> Path:
        """Marks the run as complete once its last checkpoint is on disk. Returns the working directory."""
        self._log.settle()
        self._saver.wait()
        self._manifest = dataclasses.replace(self._manifest, warnings=self._log.warnings)
        self.complete(self.results)
        if distributed.is_main():
            self._report()
            self.say(self.shown)
        return self.workdir

    def complete(self, results: Mapping[str, Any]) -> None:
        """Marks the run as complete in the manifest. A run without optimizer steps calls this in place of `finish`.

        Args:
            results: the manifest's entry `results`: see `manifests.Manifest`.
        """
        if distributed.is_main():
            manifests.write(self.workdir, dataclasses.replace(self._manifest, results=dict(results), status="complete"))

    def _report(self) -> None:
        if self.has_report:
            report.write(self.workdir)


def read_warnings(workdir: Path, alarms: Alarms) -> list[dict]:
    """Returns {"step", "text"} of each warning that a run gave before it was resumed, computed from metrics.jsonl.

    Passes all steps in metrics.jsonl to `alarms`, so that `alarms` continues as if the run had not been interrupted.
    """
    path = workdir / "metrics.jsonl"
    lines = jsonl.read(path) if distributed.is_main() and path.exists() else []
    return [{"step": line["step"], "text": text} for line in lines for text in alarms.check(line)]


def new_workdir(stage: str) -> str:
    """Returns runs/STAGE-TIME, the default directory of a new run. The time is UTC, the same for all processes."""
    now = int(time.time())
    if jax.process_count() > 1:
        now = int(multihost_utils.broadcast_one_to_all(np.int32(now)))
    return f"runs/{stage}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"
