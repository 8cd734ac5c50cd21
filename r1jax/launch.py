"""Joining the processes of a run, and leaving it at a safe point when told to."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils


def keep_compilations() -> None:
    """Compiled programs are kept below the user's cache folder, or where JAX was told: a second run starts at once."""
    if not jax.config.jax_compilation_cache_dir:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "r1jax", "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def share_cpu(mesh: str) -> None:
    """With `--mesh=auto`, shows JAX two CPU devices on a machine of several cores. Before any use of a device.

    One thread for each half of the rows wastes less than two threads inside every small product. Whoever has said how
    many CPU devices there are is obeyed.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    said = jax.config.jax_num_cpu_devices > 0 or "xla_force_host_platform_device_count" in flags
    if mesh == "auto" and not said and (os.cpu_count() or 1) > 1:
        with contextlib.suppress(RuntimeError):  # a notebook that has touched JAX before us
            jax.config.update("jax_num_cpu_devices", 2)
    # Two programs in flight can each hold one of XLA's threads and wait for the other in a collective for ever.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_cpu_enable_async_dispatch", False)


M_MMAP_THRESHOLD = -3  # of mallopt(3)


def return_memory() -> None:
    """Has glibc give buffers back once they are freed, where JAX shows more CPU devices than there are cores.

    Each device's thread keeps what it freed otherwise: nano's recipe on a mesh of 8x8 held 13 GB, of which 1.5 GB were
    in use, and had a peak of 14 GB in place of 9.
    """
    if jax.default_backend() == "cpu" and jax.local_device_count() > (os.cpu_count() or 1):
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 18)


ALONE = "To run this process alone, type --processes=1"

log = logging.getLogger(__name__)
_started = False


def start(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins this process to its run, before any use of a device. A second call does nothing.

    With flags, these are obeyed. Without, JAX finds the cluster (Cloud TPU, Slurm, Open MPI,
    Kubernetes with `jax[k8s]`). Otherwise, or with `processes=1`, this process runs alone and
    starts no coordinator: that would listen on every network interface of a laptop, and notice
    SIGTERM a second later than `stop_requests` does.

    Raises:
        ValueError: incomplete flags, flags after the first use of a device, or a cluster that
            cannot be joined.
    """
    global _started
    flags = {"--coordinator": coordinator, "--processes": processes, "--process-id": process_id}
    missing = [flag for flag, value in flags.items() if value is None]
    explicit = len(missing) < len(flags)
    if explicit and missing and processes != 1:
        raise ValueError(
            f"{' and '.join(missing)} missing: several processes need all of "
            f"--coordinator=HOST:PORT (of process 0), --processes=N and --process-id=0..N-1; "
            f"one process needs none"
        )
    if _started or jax.distributed.is_initialized():
        return
    try:
        if processes != 1:
            jax.distributed.initialize(coordinator, processes, process_id)
    except RuntimeError as err:
        if explicit or "must be called before" not in str(err):
            raise ValueError(f"could not join the other processes: {err}. {ALONE}") from err
        # A notebook that has touched JAX before us; joining a cluster is no longer possible.
        log.warning("JAX is already in use, so this process runs alone")
    except ValueError as err:
        # JAX's words for "no cluster here"
        if "coordinator_address should be defined" not in str(err):
            raise ValueError(f"could not join the other processes: {err}. {ALONE}") from err
    return_memory()
    _started = True


def is_main() -> bool:
    """Whether this process writes the files."""
    return jax.process_index() == 0


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """`stopping()`, to be called once a round: True once Ctrl-C or SIGTERM asked to save and leave.

    Of several processes all get True in the same round, whichever was told. A second Ctrl-C stops
    at once. Outside the main thread, where Python takes no signals, both keep their usual meaning.
    """
    asked = threading.Event()
    alone = jax.process_count() == 1
    round_ = 0

    def stopping() -> bool:
        nonlocal round_
        # Not the optimizer step: JAX has all processes agree on one number, the highest so far
        # plus one, and a count by sixteens would step over it.
        round_ += 1
        return asked.is_set() if alone else multihost_utils.reached_preemption_sync_point(round_)

    def ask(number: int, _: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        # os.write: print could be the very thing this signal has interrupted.
        os.write(2, b"\nstopping after this round; Ctrl-C again stops at once and loses it\n")
        if not alone:
            os.kill(os.getpid(), signal.SIGTERM)  # to JAX, which tells the others

    caught = [signal.SIGINT, signal.SIGTERM] if alone else [signal.SIGINT]
    if threading.current_thread() is not threading.main_thread():
        caught = []
    before = {number: signal.signal(number, ask) for number in caught}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
