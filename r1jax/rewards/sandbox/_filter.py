"""Installs a seccomp filter and a Landlock rule set in the process that runs a candidate, which is a model's program.

This file imports nothing of the project, because its code is sent into the sandbox. Namespaces already hide the host.
The filter also denies kernel interfaces that no solution needs (other processes' memory, namespaces, keys, BPF,
sockets) and memory that no process owns (memfd, System V). Without namespaces, it also denies every system call that
changes a file system.
Source: linux/seccomp.h, linux/landlock.h, the kernel's syscall tables.
"""

import ctypes
import os
import struct

PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38
EPERM, EACCES, ENOSYS = 1, 13, 38
COLUMN = {"x86_64": 0, "aarch64": 1}.get(os.uname().machine)
AUDIT_ARCH = (0xC000003E, 0xC00000B7)
CLONE, CLONE3 = (56, 220), 435
CLONE_NEW = 0x7E020000  # every namespace flag of clone(2)
O_CHANGES = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
# name, number on x86_64, number on aarch64 (-1: none)
DENIED = (
    ("ptrace", 101, 117),
    ("process_vm_readv", 310, 270),
    ("process_vm_writev", 311, 271),
    ("kcmp", 312, 272),
    ("unshare", 272, 97),
    ("setns", 308, 268),
    ("mount", 165, 40),
    ("umount2", 166, 39),
    ("pivot_root", 155, 41),
    ("chroot", 161, 51),
    ("open_tree", 428, 428),
    ("move_mount", 429, 429),
    ("fsopen", 430, 430),
    ("fsconfig", 431, 431),
    ("fsmount", 432, 432),
    ("mount_setattr", 442, 442),
    ("bpf", 321, 280),
    ("perf_event_open", 298, 241),
    ("keyctl", 250, 219),
    ("add_key", 248, 217),
    ("request_key", 249, 218),
    ("userfaultfd", 323, 282),
    ("kexec_load", 246, 104),
    ("kexec_file_load", 320, 294),
    ("init_module", 175, 105),
    ("finit_module", 313, 273),
    ("delete_module", 176, 106),
    ("memfd_create", 319, 279),
    ("memfd_secret", 447, 447),
    ("shmget", 29, 194),
    ("msgget", 68, 186),
    ("semget", 64, 190),
    ("mq_open", 240, 180),
    ("io_uring_setup", 425, 425),
    ("pidfd_open", 434, 434),
    ("pidfd_getfd", 438, 438),
    ("pidfd_send_signal", 424, 424),
    ("process_madvise", 440, 440),
    ("name_to_handle_at", 303, 264),
    ("open_by_handle_at", 304, 265),
    ("fanotify_init", 300, 262),
    ("acct", 163, 89),
    ("swapon", 167, 224),
    ("reboot", 169, 142),
    ("settimeofday", 164, 170),
    ("clock_settime", 227, 112),
    ("personality", 135, 92),
    ("iopl", 172, -1),
    ("ioperm", 173, -1),
    ("socket", 41, 198),
    ("syslog", 103, 116),
)
CHANGES_FILES = (
    ("creat", 85, -1),
    ("mkdir", 83, -1),
    ("mkdirat", 258, 34),
    ("rename", 82, -1),
    ("renameat", 264, 38),
    ("renameat2", 316, 276),
    ("rmdir", 84, -1),
    ("unlink", 87, -1),
    ("unlinkat", 263, 35),
    ("link", 86, -1),
    ("linkat", 265, 37),
    ("symlink", 88, -1),
    ("symlinkat", 266, 36),
    ("mknod", 133, -1),
    ("mknodat", 259, 33),
    ("chmod", 90, -1),
    ("fchmod", 91, 52),
    ("fchmodat", 268, 53),
    ("fchmodat2", 452, 452),
    ("chown", 92, -1),
    ("fchown", 93, 55),
    ("lchown", 94, -1),
    ("fchownat", 260, 54),
    ("truncate", 76, 45),
    ("utime", 132, -1),
    ("utimes", 235, -1),
    ("futimesat", 261, -1),
    ("utimensat", 280, 88),
    ("setxattr", 188, 5),
    ("lsetxattr", 189, 6),
    ("fsetxattr", 190, 7),
    ("removexattr", 197, 14),
    ("lremovexattr", 198, 15),
    ("fremovexattr", 199, 16),
)
OPEN_FLAGS = (((2, -1), 24), ((257, 56), 32))  # open, openat: offset of the flags in seccomp_data
OPENAT2 = 437  # keeps its flags behind a pointer a filter cannot follow

libc = ctypes.CDLL(None, use_errno=True)


def deny(read_only):
    """Installs the seccomp filter for this process and all processes that it starts.

    Returns True if the filter is installed; False if there is none for this processor type or the kernel refuses it.

    Args:
        read_only: also deny every system call that changes a file system.
    """
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if COLUMN is None:
        return False
    program = filter_program(read_only)
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    return libc.prctl(PR_SET_SECCOMP, 2, ctypes.c_char_p(fprog), 0, 0) == 0


def filter_program(read_only):
    """Returns the seccomp filter as a classic BPF program, 8 bytes per instruction.

    Args:
        read_only: also deny every system call that changes a file system.
    """
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, error = 0x7FFF0000, 0x80000000, 0x00050000

    def line(code, k, yes=0, no=0):
        return struct.pack("HBBI", code, yes, no, k)

    out = [line(load, 4), line(equal, AUDIT_ARCH[COLUMN], 1, 0), line(give, kill), line(load, 0)]
    if COLUMN == 0:  # the x32 numbers of the same calls
        out += [line(at_least, 0x40000000, 0, 1), line(give, error | ENOSYS)]

    def refuse(number, errno):
        return [line(equal, number, 0, 1), line(give, error | errno)] if number >= 0 else []

    def refuse_bits(number, offset, bits, errno):
        if number < 0:
            return []
        tail = [line(load, offset), line(any_bit, bits, 0, 1), line(give, error | errno), line(give, allow)]
        return [line(equal, number, 0, len(tail)), *tail]

    out += refuse(CLONE3, ENOSYS)  # C libraries then use clone, whose flags the filter can read
    for row in DENIED:
        out += refuse(row[1 + COLUMN], EPERM)
    if read_only:
        out += refuse(OPENAT2, ENOSYS)
        for row in CHANGES_FILES:
            out += refuse(row[1 + COLUMN], EACCES)
        for numbers, offset in OPEN_FLAGS:
            out += refuse_bits(numbers[COLUMN], offset, O_CHANGES, EACCES)
    out += refuse_bits(CLONE[COLUMN], 16, CLONE_NEW, EPERM)
    return b"".join([*out, line(give, allow)])


def keep_private(yes):
    """Forbids other processes of the same user to read the memory of this process (`yes=True`), or allows it again."""
    libc.prctl(PR_SET_DUMPABLE, 0 if yes else 1, 0, 0, 0)


def readable_only(paths):
    """Forbids this process and all processes that it starts to open files outside of `paths`.

    They may open files below `paths` only to read or execute them. Returns True if the limit is in force; False if the
    kernel lacks Landlock or refuses the limit.
    """
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    execute, read_file, read_dir, everything = 1, 4, 8, (1 << 13) - 1  # the rights of ABI 1
    handled = ctypes.c_uint64(everything)
    rules = libc.syscall(444, ctypes.byref(handled), 8, 0)
    if rules < 0:
        return False
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rights = execute | read_file | (read_dir if os.path.isdir(path) else 0)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, fd), 12)
        libc.syscall(445, rules, 1, rule, 0)
        os.close(fd)
    done = libc.syscall(446, rules, 0) == 0
    os.close(rules)
    return done
