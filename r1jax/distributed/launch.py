"""Joins the processes of a run, and sets options of JAX and the system before the first use of a device."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os

import jax

log = logging.getLogger(__name__)


def keep_compilations() -> None:
    """Turns on JAX's compilation cache, by default in the user's cache folder, so that later runs start faster."""
    if not jax.config.jax_compilation_cache_dir:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "r1jax", "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


SHARED_UP_TO = 16_000_000  # parameters of a model that each CPU device may hold for itself


def share_cpu(mesh: str, size: int = 0) -> None:
    """Makes JAX show two CPU devices on a machine with several cores, if `mesh` is "auto".

    Call this function before using a device.

    Two devices, each with half of the rows, lose less time than one device that splits every small matrix product
    between two threads. A model of more than 16 million parameters gets one device: its products are worth splitting,
    and two devices would hold its parameters and moments twice. If the user has set the number of CPU devices, that
    number stays.

    Args:
        mesh: the value of --mesh.
        size: approximate number of the model's parameters.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    said = jax.config.jax_num_cpu_devices > 0 or "xla_force_host_platform_device_count" in flags
    if mesh == "auto" and size <= SHARED_UP_TO and not said and (os.cpu_count() or 1) > 1:
        with contextlib.suppress(RuntimeError):  # a notebook may have used JAX already
            jax.config.update("jax_num_cpu_devices", 2)
    # With asynchronous dispatch two programs can deadlock: each program holds one of XLA's threads and waits in a
    # collective for the other program.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_cpu_enable_async_dispatch", False)


M_MMAP_THRESHOLD = -3  # a parameter of mallopt(3)


def return_memory() -> None:
    """Makes glibc return freed buffers to the system if JAX shows more CPU devices than there are cores.

    By default, each device's thread keeps the memory that it freed. With nano's recipe on an 8x8 mesh, the process then
    held 13 GB, although only 1.5 GB were in use. This setting lowered the peak from 14 GB to 9 GB.
    """
    if jax.default_backend() == "cpu" and jax.local_device_count() > (os.cpu_count() or 1):
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 18)


# Seconds. The watchdog notices a lost process within 80 s, and says more than JAX does after its own time.
TIMEOUTS = dict(initialization_timeout=300, heartbeat_timeout_seconds=120, shutdown_timeout_seconds=60)
# The part of a GPU's memory that JAX takes. Its own default leaves a quarter unused.
FRACTION, MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION", 0.92
ALONE = "To run this process alone, type --processes=1"

_started = False


def start(coordinator: str | None = None, processes: int | None = None, process_id: int | None = None) -> None:
    """Joins this process to the other processes of the run.

    Call this function before using a device. A second call does nothing. The function also lets JAX take most of a
    GPU's memory, unless XLA_PYTHON_CLIENT_MEM_FRACTION sets the fraction.

    If no argument is given, JAX looks for a cluster (Cloud TPU, Slurm, Open MPI, Kubernetes with `jax[k8s]`). Without a
    cluster, or with `processes=1`, this process runs alone. It then starts no coordinator, because a coordinator would
    listen on every network interface.

    Args:
        coordinator: HOST:PORT of process 0, the value of --coordinator.
        processes: number of processes, the value of --processes.
        process_id: number of this process, from 0, the value of --process-id.

    Raises:
        ValueError: the flags are incomplete, a device was already used, or the cluster cannot be joined.
    """
    global _started
    flags = {"--coordinator": coordinator, "--processes": processes, "--process-id": process_id}
    missing = [flag for flag, value in flags.items() if value is None]
    explicit = len(missing) < len(flags)
    if explicit and missing and processes != 1:
        raise ValueError(
            "a run of several processes needs all of --coordinator=HOST:PORT (of process 0), --processes=N and "
            f"--process-id=0..N-1: add {' and '.join(missing)}. A run of one process needs none of these flags"
        )
    if _started or jax.distributed.is_initialized():
        return
    os.environ.setdefault(FRACTION, str(MEMORY))  # read when the first GPU is used
    try:
        if processes != 1:
            jax.config.update("jax_enable_preemption_service", False)  # `signals` asks all processes itself
            jax.distributed.initialize(coordinator, processes, process_id, **TIMEOUTS)
    except RuntimeError as err:
        if explicit or "must be called before" not in str(err):
            raise ValueError(f"could not join the other processes: {err}. {ALONE}") from err
        # A notebook has used JAX already, so this process can no longer join a cluster.
        log.warning("JAX is already in use, so this process runs alone")
    except ValueError as err:
        # JAX's message for "no cluster found"
        if "coordinator_address should be defined" not in str(err):
            raise ValueError(f"could not join the other processes: {err}. {ALONE}") from err
    except OSError as err:
        # Colab and some TPU machines look like a cluster, but no metadata server answers.
        if explicit:
            raise ValueError(f"could not join the other processes: {err}. {ALONE}") from err
        log.warning("no server describes the cluster of this machine, so this process runs alone (%s)", err)
    return_memory()
    _started = True
