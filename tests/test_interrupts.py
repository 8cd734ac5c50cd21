"""Ctrl-C while a command starts is never lost."""

import subprocess
import sys

START = """
import os, signal, sys
sys.argv[0] = "-m"  # as Python sets it while it imports the package of `python -m experiments.NAME`
import experiments
from r1jax import interrupts

def {name}():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass  # Python calls the handler between two instructions

{name}()
print("went on")
interrupts.raise_lost()
print("lost")
"""


END = """
import atexit, os, signal, sys
sys.argv = ["-m"]
import experiments
from r1jax import cli

@dataclasses.dataclass
class Command:
    steps: int = 1

def clean_up():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass
    print("cleaned up")

atexit.register(clean_up)
cli.main(Command, lambda command: print("complete"), None)
"""


def output(name: str) -> tuple[int, str]:
    ended = subprocess.run([sys.executable, "-c", START.format(name=name)], capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout


def test_ctrl_c_ends_a_command_that_starts():
    code, said = output("load")
    assert code != 0 and said == ""


def test_ctrl_c_in_jaxs_callback_of_the_garbage_collector_ends_it_soon_after():
    code, said = output("_xla_gc_callback")
    assert code != 0 and said == "went on\n"


def test_ctrl_c_while_python_exits_after_a_complete_command_changes_nothing():
    ended = subprocess.run(
        [sys.executable, "-c", f"import dataclasses{END}"], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "complete\ncleaned up\n", "")


def test_the_name_of_jaxs_callback_is_still_the_one_that_is_looked_for():
    import gc

    import jax  # noqa: F401

    from r1jax.interrupts import GC_CALLBACK

    assert GC_CALLBACK in [getattr(callback, "__name__", "") for callback in gc.callbacks]
