"""Runs the two processes in a sandbox: process 1 receives one job, and its child runs the job's program.

The program is called the candidate. A model wrote it.

This file imports nothing of the project, because its code is sent into the sandbox. A job holds a program, inputs and
limits, never an expected value. Returned values leave the sandbox, and the parent process outside judges them. The
candidate may change this code in its own process, but such a change can only spoil the candidate's own output.
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
STACK_BYTES = 120 << 20  # less than the gap that the kernel leaves for the stack


def serve(channel, confine, keep_private=lambda yes: None):
    """Runs a sandbox's first process: reports ready, reads a job, runs it in a child, exits with the child's status.

    All other processes of the sandbox then die.

    Args:
        channel: file descriptor of the socket to the parent outside.
        confine: a function that is called in the child and limits what the child may do.
        keep_private: a function. If called with True, it keeps other processes from reading the memory of this process.
            If called with False, it allows them to.
    """
    os.write(channel, b"+")
    data = bytearray()
    while block := os.read(channel, 1 << 16):
        data += block
    if not data:  # the process that kept this sandbox in reserve is gone
        os._exit(0)
    job = marshal.loads(data)
    keep_private(True)
    pid = os.fork()
    if pid == 0:
        os.close(channel)
        keep_private(False)
        os.setsid()
        first_to_die()
        job["null"] = os.open("/dev/null", os.O_RDWR)  # opened while writing is still allowed
        limit(job["limits"])
        confine()
        work(job)
        return  # Python then ends as usual: threads, atexit, flush
    while True:
        done, status = os.wait()
        if done == pid:
            break
    if job["kind"] == "command":
        fetch(channel, job["fetch"])
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def first_to_die():
    """Makes the kernel kill this process (the candidate) before other processes when the machine runs out of memory."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass


def limit(limits):
    """Sets the resource limits of this process and of each process that it starts.

    From outside the sandbox, `_watch` limits what all processes of a job use together.
    """
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
        # for recursion through C code, such as lru_cache
        resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, hard))
    for name, value in wanted.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # SIGXCPU names the cause; SIGKILL follows a second later, if it is ignored
        spare = name == resource.RLIMIT_CPU and not 0 <= hard <= value
        resource.setrlimit(name, (value, value + spare))


def work(job):
    """Runs the job (see `sandbox.run`) in the process of the candidate.

    Returns only if the job is of the kind "program". A job of the kind "command" replaces this process. A job of the
    kind "calls" exits after the last call.
    """
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
    """Runs the Python code `source` as the module `name`. Returns the module's namespace, a dict."""
    module = type(sys)(name)
    module.__dict__.update(__file__="main.py", __builtins__=__builtins__)
    sys.modules[name] = module
    exec(compile(source, "main.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def calls(job):
    """Calls the job's function on each of its inputs and writes one line per call on standard output.

    The line is `=` and the encoded value, or `!` and the reason if there is no value. Each call runs in its own
    process, forked after the program was loaded, so that no call sees what another call changed.
    """
    source, entry, inputs = job.pop("source"), job.pop("entry"), job.pop("inputs")
    out = os.dup(1)
    os.set_inheritable(out, False)
    for fd in (0, 1, 2):
        os.dup2(job["null"], fd)
    fork, wait, write, leave = os.fork, os.waitpid, os.write, os._exit  # the candidate may change the module os
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
        if status != SAID << 8:  # the call sent no answer
            write(out, b"!ended with status %d\n" % status)
            may_die -= 1
            if may_die <= 0:
                break
    leave(0)


def target(namespace, entry):
    """Returns the function named `entry` in the namespace, or the method `entry` of a class `Solution`.

    Raises:
        Unsendable: neither exists.
    """
    function = namespace.get(entry)
    if function is None and "Solution" in namespace:
        function = getattr(namespace["Solution"](), entry, None)
    if not callable(function):
        raise Unsendable("there is no function " + repr(entry)[:80])
    return function


class Unsendable(Exception):
    """Raised if a value cannot be encoded, or if the function that should return the value does not exist.

    The message says why. For example, it names the type that cannot be encoded.
    """


def encode(value):
    """Encodes a value as one line of ASCII, similar to JSON.

    Equal values of the same types have the same line. Different values have different lines, with two exceptions: a
    tuple is encoded as a list, and the key 1 of a dict is encoded as the key "1". The keys of a dict are str or int.
    They are sorted as strings.

    Raises:
        Unsendable: the value contains nan, contains an object whose type is not None, bool, int, float, str, list,
            tuple or dict (subclasses are refused, too), or is nested too deeply or too large.
    """
    nodes = 0

    def write(value, depth):
        nonlocal nodes
        nodes += 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise Unsendable("the value is nested too deeply or too large")
        kind = type(value)
        if kind is int:
            return str(value) if value.bit_length() <= 64 else hex(value)  # hex is linear in the length
        if kind is str:
            return encode_basestring_ascii(value)
        if kind is bool or value is None:
            return {True: "true", False: "false", None: "null"}[value]
        if kind is float:
            if value != value:
                raise Unsendable("the value contains nan")
            return repr(value + 0.0)  # -0.0 + 0.0 is 0.0
        if kind is list or kind is tuple:
            return "[" + ",".join([write(item, depth + 1) for item in value]) + "]"
        if kind is dict:
            items = [write(key_text(key), 0) + ":" + write(item, depth + 1) for key, item in value.items()]
            return "{" + ",".join(sorted(items)) + "}"
        raise Unsendable("the value contains an object of type " + str(type.__dict__["__name__"].__get__(kind))[:60])

    return write(value, 0).encode()


def key_text(key):
    """Returns a key of a dict as text. Raises Unsendable unless the key is a str or an int."""
    if type(key) is int:
        return str(key)
    if type(key) is not str:
        raise Unsendable("a dict has a key that is neither str nor int")
    return key


def fetch(channel, names):
    """Sends the files `names` that a command has written, over the socket `channel`.

    Sends, for each file, 8 bytes with the length, then the content. A missing file has the length 2**64-1 and no
    content.
    """
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
