"""Process 1 of a sandbox, which takes one job, and the candidate it starts. Stands alone: it is sent there.

A job holds a program, inputs and limits, never an expected value: what leaves is values, and the parent judges them.
The candidate may do what it likes to this code in its own process; it can only spoil what it says itself.
"""

import builtins
import marshal
import os
import resource
import sys
from _json import encode_basestring_ascii
from _sitebuiltins import Quitter

MAX_DEPTH, MAX_NODES = 200, 1_000_000
FETCH_BYTES = 64 << 20
SAID = 113  # exit status of a call that has answered
STACK_BYTES = 120 << 20  # below the gap the kernel leaves for it


def serve(channel, confine, keep_private=lambda yes: None):
    """Process 1: says it is ready, reads a job, runs it in a child, ends as the child ends. What is left then dies."""
    os.write(channel, b"+")
    data = bytearray()
    while block := os.read(channel, 1 << 16):
        data += block
    if not data:  # whoever kept this sandbox in reserve has gone
        os._exit(0)
    job = marshal.loads(data)
    keep_private(True)
    pid = os.fork()
    if pid == 0:
        os.close(channel)
        keep_private(False)
        os.setsid()
        first_to_die()
        job["null"] = os.open("/dev/null", os.O_RDWR)  # while opening to write is still allowed
        limit(job["limits"])
        confine()
        work(job)
        return  # what is left is Python's own ending: threads, atexit, flush
    while True:
        done, status = os.wait()
        if done == pid:
            break
    if job["kind"] == "command":
        fetch(channel, job["fetch"])
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def first_to_die():
    """Where the machine runs out of memory, the kernel shall take a candidate."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass


def limit(limits):
    """Limits of this process and each it starts; the parent watches the sums."""
    wanted = {
        resource.RLIMIT_AS: limits["address_mb"] << 20,
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_FSIZE: limits["file_mb"] << 20,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if limits["processes"]:
        wanted[resource.RLIMIT_NPROC] = limits["processes"]
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard >= STACK_BYTES > soft):
        resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, hard))  # recursion through C code, such as lru_cache
    for name, value in wanted.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # SIGXCPU says what it was; a second later comes SIGKILL, for those who ignore it
        spare = name == resource.RLIMIT_CPU and not 0 <= hard <= value
        resource.setrlimit(name, (value, value + spare))


def work(job):
    """The candidate's process. For a program and for a command it does not come back the usual way."""
    sys.argv[:] = ["main.py"]
    builtins.exit, builtins.quit = Quitter("exit", "Ctrl-D"), Quitter("quit", "Ctrl-D")
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    sys.path[:] = [path for path in sys.path if path] + job.get("path", [])
    if job["kind"] == "command":
        for name, content in job["files"].items():
            with open(name, "wb") as file:
                file.write(content)
        os.execve(job["argv"][0], job["argv"], {**os.environ, **job["env"]})
    elif job["kind"] == "program":
        run(job.pop("source"), "__main__")
    else:
        calls(job)


def run(source, name):
    """The namespace of a module made from `source`."""
    module = type(sys)(name)
    module.__dict__.update(__file__="main.py", __builtins__=__builtins__)
    sys.modules[name] = module
    exec(compile(source, "main.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def calls(job):
    """Answers each input by one line: `=value`, or `!reason` where there is none. Every call has a process of its own,

    forked after the program was loaded, so no call sees what another left behind.
    """
    source, entry, inputs = job.pop("source"), job.pop("entry"), job.pop("inputs")
    out = os.dup(1)
    os.set_inheritable(out, False)
    for fd in (0, 1, 2):
        os.dup2(job["null"], fd)
    fork, wait, write, leave = os.fork, os.waitpid, os.write, os._exit  # the candidate may break os for itself
    cap, may_die = job["limits"]["output_bytes"], job["may_die"]
    namespace = run(source, "candidate")
    for arguments in inputs:
        pid = fork()
        if pid == 0:
            try:
                line = b"=" + encode(target(namespace, entry)(*arguments))
            except Unsendable as problem:
                line = b"!" + str(problem).encode()
            except BaseException as problem:
                line = b"!raised " + type(problem).__name__.encode("ascii", "replace")[:60].replace(b"\n", b" ")
            if len(line) > cap:
                line = b"!more than output_bytes"
            line += b"\n"
            while line:
                line = line[write(out, line) :]
            leave(SAID)
        status = wait(pid, 0)[1]
        if status != SAID << 8:  # it said nothing
            write(out, b"!ended with status %d\n" % status)
            may_die -= 1
            if may_die <= 0:
                break
    leave(0)


def target(namespace, entry):
    function = namespace.get(entry)
    if function is None and "Solution" in namespace:
        function = getattr(namespace["Solution"](), entry, None)
    if not callable(function):
        raise Unsendable("no function " + repr(entry)[:80])
    return function


class Unsendable(Exception):
    """The value is not made of exactly None, bool, int, float, str, list, tuple and dict, or is too deep or large."""


def encode(value):
    """One line of ASCII for a value; two values of the same types get the same line exactly when they are equal.

    Tuples count as lists, which is what JSON has; keys of a dict are strings or ints, sorted as strings.
    """
    nodes = 0

    def write(value, depth):
        nonlocal nodes
        nodes += 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise Unsendable("value too deep or too large")
        kind = type(value)
        if kind is int:
            return str(value) if value.bit_length() <= 64 else hex(value)  # hex is linear in the length
        if kind is str:
            return encode_basestring_ascii(value)
        if kind is bool or value is None:
            return {True: "true", False: "false", None: "null"}[value]
        if kind is float:
            if value != value:
                raise Unsendable("a value that is not a number")
            return repr(value + 0.0)  # -0.0 + 0.0 is 0.0
        if kind is list or kind is tuple:
            return "[" + ",".join([write(item, depth + 1) for item in value]) + "]"
        if kind is dict:
            items = [write(key_text(key), 0) + ":" + write(item, depth + 1) for key, item in value.items()]
            return "{" + ",".join(sorted(items)) + "}"
        raise Unsendable("a value of type " + str(type.__dict__["__name__"].__get__(kind))[:60])

    return write(value, 0).encode()


def key_text(key):
    if type(key) is int:
        return str(key)
    if type(key) is not str:
        raise Unsendable("a key that is neither str nor int")
    return key


def fetch(channel, names):
    """Sends the files a command left: 8 bytes of length and the content each, length 2**64-1 where there is none."""
    for name in names:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                data = file.read(FETCH_BYTES)
            head = len(data).to_bytes(8, "big")
        except OSError:
            head, data = b"\xff" * 8, b""
        block = head + data
        while block:
            block = block[os.write(channel, block) :]
