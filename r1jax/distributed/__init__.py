"""Connects the processes of a run.

`launch` joins them, `exchange` passes values between them, over devices or over a `store`, `signals` stops all of them
together, and `watchdog` notices when one is lost.
"""

from r1jax.distributed.exchange import (
    agree,
    gather_arrays,
    gather_bytes,
    gather_json,
    gather_numbers,
    gather_rows,
    is_main,
    wait_for_all,
)
from r1jax.distributed.launch import keep_compilations, return_memory, share_cpu, start
from r1jax.distributed.phases import beat
from r1jax.distributed.signals import stop_requests, stop_together

__all__ = [
    "agree",
    "beat",
    "gather_arrays",
    "gather_bytes",
    "gather_json",
    "gather_numbers",
    "gather_rows",
    "is_main",
    "keep_compilations",
    "return_memory",
    "share_cpu",
    "start",
    "stop_requests",
    "stop_together",
    "wait_for_all",
]
