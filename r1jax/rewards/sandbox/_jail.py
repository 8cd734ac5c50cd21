"""Isolates a process where bubblewrap is absent.

This file imports nothing of the project, because its code is sent to the process that isolates itself. `namespaces`
uses unshare(2) to make the same namespaces as bubblewrap. `other_user` is for containers that forbid namespaces: there
the candidate (the model's program) runs as another user, under the limits of `_filter`.
"""

import ctypes
import os
import signal

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
NOBODY = 65534
DEVICES = ("null", "zero", "full", "random", "urandom")

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """Calls the C library's function `name`. Raises OSError if the function returns a negative number."""
    if getattr(libc, name)(*arguments) < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{name}: {os.strerror(errno)}")


def namespaces(config, inside):
    """Runs `inside()` as process 1 of new namespaces with their own file system, then exits with that process's status.

    Args:
        config: `binds` (paths of the host that can be read), `symlinks` ({link: target}), `file_mb` (size of /tmp),
            `uid` (user id of the candidate, used if this process is root).
        inside: the function to run.
    """
    parent = os.getppid()
    os.umask(0o022)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    flags = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS
    root = os.getuid() == 0
    try:
        if not root:
            raise PermissionError
        call("unshare", flags)
    except PermissionError:  # root without CAP_SYS_ADMIN may still make a user namespace, like any user
        if root:
            become(config["uid"])
        root, uid, gid = False, os.getuid(), os.getgid()
        call("unshare", flags | NEWUSER)
        put("/proc/self/uid_map", f"{NOBODY} {uid} 1")
        put("/proc/self/setgroups", "deny")
        put("/proc/self/gid_map", f"{NOBODY} {gid} 1")
    libc.unshare(NEWCGROUP)  # not every kernel has cgroup namespaces
    if os.getppid() != parent:
        os._exit(1)
    pid = os.fork()
    if pid:
        wait_for(pid)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    file_system(config, config["uid"] if root else NOBODY)
    if root:
        become(config["uid"])
    else:
        drop_capabilities()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user clears it
    os.chdir("/tmp")
    inside()


def wait_for(pid):
    """Waits until the child process `pid` ends, and exits with the child's status."""
    status = os.waitpid(pid, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def put(path, text):
    with open(path, "w") as file:
        file.write(text)


def become(uid):
    """Changes this process to the user id `uid`, permanently."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities():
    """Drops all capabilities. The first process of a user namespace has all of them within this namespace."""
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())


def file_system(config, owner):
    """Makes a new root directory with the host's paths `config["binds"]`. Only /tmp and /dev/shm can be written to.

    Args:
        config: as in `namespaces`.
        owner: the user id that owns /tmp and /dev/shm.
    """
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    new = "/sys"  # the new root is built over a directory that holds no interpreter
    call("mount", b"tmpfs", new.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=755,size=1m")
    os.mkdir(new + "/dev")
    for path in ("/tmp", "/dev/shm"):  # before the host's paths, which may lie in /tmp: an environment may
        os.makedirs(new + path)
        options = f"mode=700,size={config['file_mb']}m,uid={owner},gid={owner}"
        call("mount", b"tmpfs", (new + path).encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options.encode())
    for path in config["binds"]:
        show(path, new + path)
    for name, goal in config["symlinks"].items():
        os.symlink(goal, new + name)
    for device in DEVICES:
        show("/dev/" + device, new + "/dev/" + device, read_only=False)
    os.symlink("/proc/self/fd", new + "/dev/fd")
    os.mkdir(new + "/proc")
    libc.mount(
        b"proc", (new + "/proc").encode(), b"proc", MS_NOSUID | MS_NODEV | 8, None
    )  # containers may refuse; then there is no /proc
    os.mkdir(new + "/old")
    os.chdir(new)
    call("syscall", 155 if os.uname().machine == "x86_64" else 41, b".", b"old")  # pivot_root
    call("umount2", b"/old", 2)
    os.rmdir("/old")
    call("mount", None, b"/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, None)


def show(source, at, read_only=True):
    """Makes the host's path `source` visible at the path `at` by a bind mount."""
    if os.path.isdir(source):
        os.makedirs(at, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(at), exist_ok=True)
        open(at, "a").close()
    call("mount", source.encode(), at.encode(), None, MS_BIND | MS_REC, None)
    if read_only:
        attributes = (ctypes.c_uint64 * 4)(MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
        if libc.syscall(442, -100, at.encode(), 0x8000, attributes, 32) < 0:  # mount_setattr, AT_RECURSIVE; Linux 5.12
            flags = os.statvfs(at).f_flag & 0xF
            call(
                "mount", None, at.encode(), None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | flags, None
            )


def other_user(config, inside):
    """Runs `inside()` in a child as the user `config["uid"]`, then kills all processes of that user.

    Exits with the child's status.
    """
    ended = []

    def leave(code):
        ended.append(code)
        sweep(config["uid"])
        os._exit(code)

    signal.signal(signal.SIGTERM, lambda *_: ended or leave(1))
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir("/")
        become(config["uid"])
        return inside()
    while True:
        done, status = os.wait()
        if done == pid:
            code = os.waitstatus_to_exitcode(status)
            leave(code if code >= 0 else 128 - code)


def sweep(uid):
    """Kills all processes of the user `uid` by one kill(-1), which is atomic: no process can escape by forking."""
    pid = os.fork()
    if pid == 0:
        become(uid)
        libc.kill(-1, signal.SIGKILL)
        os._exit(0)
    try:
        while os.wait():
            pass
    except ChildProcessError:
        pass
