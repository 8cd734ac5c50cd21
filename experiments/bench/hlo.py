"""Reads a compiled program (optimised HLO, as text). Counts one device's FLOPs and the bytes that the device sends.

The instructions of a loop are counted once for each iteration, if XLA knows the trip count. Otherwise they are counted
once, and the loop is reported. Both branches of a conditional are counted.

Collectives are assumed to use ring algorithms. With n bytes on each of N devices, a device sends 2n(N-1)/N bytes in an
all-reduce, n(N-1)/N in a reduce-scatter, n(N-1) in an all-gather, n(N-1)/N in an all-to-all, and n in a permutation.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import NamedTuple

WIDTHS = {"pred": 1, "token": 0}  # bytes of an element; the others follow from their names, such as f32 or bf16
SENT = {
    "all-reduce": lambda size, devices: 2 * size * (devices - 1) / devices,
    "reduce-scatter": lambda size, devices: size * (devices - 1) / devices,
    "all-gather": lambda size, devices: size * (devices - 1),
    "all-to-all": lambda size, devices: size * (devices - 1) / devices,
    "collective-permute": lambda size, devices: size,
}
SAME = ("bitcast", "convert", "copy", "reshape", "transpose")  # hand on the same numbers
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
OP = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
CALLED = re.compile(r"\b(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Op(NamedTuple):
    """One instruction, read from one line of an HLO text.

    Attributes:
        name: the instruction's name.
        shape: the shape of the result, as text.
        kind: the opcode.
        rest: the rest of the line. It begins with the operands, without their opening bracket.
    """

    name: str
    shape: str
    kind: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """The names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0].rstrip(")"))


class Program(NamedTuple):
    """A program's computations, {name: instructions}, and the name of the entry computation."""

    computations: dict[str, list[Op]]
    entry: str


class Collective(NamedTuple):
    """One collective: its opcode, the shape of its result, how often it runs, and the bytes that a device sends in all
    runs.
    """

    kind: str
    shape: str
    runs: int
    sent: float


class Costs(NamedTuple):
    """The FLOPs of one device in a program, and the bytes that it sends to other devices.

    Attributes:
        flops: floating-point operations of matrix products.
        collectives: every collective, sorted by the bytes sent, the largest first.
        products: (shape, runs, FLOPs) of every matrix product, the largest first.
        unknown: number of loops whose trip count XLA does not know.
    """

    flops: float
    collectives: list[Collective]
    products: list[tuple[str, int, float]]
    unknown: int

    @property
    def sent(self) -> dict[str, float]:
        """The bytes that a device sends, by kind of collective."""
        total: Counter[str] = Counter()
        for each in self.collectives:
            total[each.kind] += each.sent
        return dict(total)


def read(text: str) -> Program:
    """Reads the text of an HLO module, as `compiled.as_text()` returns it."""
    computations: dict[str, list[Op]] = {}
    entry, ops = "", []
    for line in text.splitlines():
        if head := HEAD.match(line):
            ops = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif found := OP.match(re.sub(r"/\*.*?\*/", "", line)):
            ops.append(Op(*found.groups()))
    return Program(computations, entry)


def dimensions(shape: str) -> list[int]:
    """Returns the dimensions of an array shape, such as [2, 3] of f32[2,3]{1,0}."""
    return [int(n) for n in ARRAY.search(shape)[2].split(",") if n]


def count_bytes(shape: str) -> int:
    """Returns the bytes of a shape, summed over the arrays of a tuple."""
    total = 0
    for dtype, dims in ARRAY.findall(shape):
        bits = re.search(r"\d+", dtype)
        width = WIDTHS[dtype] if dtype in WIDTHS else int(bits[0]) / 8
        total += width * math.prod(int(n) for n in dims.split(",") if n)
    return int(total)


def count_runs(program: Program) -> tuple[dict[str, int], int]:
    """Returns how often each computation runs, and the number of loops whose trip count is unknown."""
    runs: Counter[str] = Counter()
    unknown = 0

    def visit(name: str, times: int) -> None:
        nonlocal unknown
        runs[name] += times
        for op in program.computations[name]:
            trips = TRIPS.search(op.rest)
            unknown += op.kind == "while" and trips is None
            for role, called in CALLED.findall(op.rest):
                if role == "to_apply" and op.kind != "call":
                    continue  # the scalar function of a reduction
                if called in program.computations:
                    visit(called, times * (int(trips[1]) if trips and role == "body" else 1))
            if branches := BRANCHES.search(op.rest):
                for called in re.findall(r"[\w.\-]+", branches[1]):
                    visit(called, times)

    visit(program.entry, 1)
    return runs, unknown


def group_size(op: Op, devices: int) -> int:
    """Returns how many devices take part in one group of a collective.

    Args:
        op: the collective.
        devices: the number of all devices.

    Raises:
        ValueError: the text describes the groups in an unknown format.
    """
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", op.rest):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", op.rest):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\].*? \{([^}]*)\}", op.rest):
        sizes = {name: int(size) for name, size in re.findall(r"('\w+')=(\d+)", found[1])}
        parts = re.findall(r"('\w+')(?::\(\d+\)(\d+))?", found[2])  # an axis, or a part of one: 'x':(1)2
        return math.prod(int(part) if part else sizes[name] for name, part in parts)
    if "replica_groups={}" in op.rest or op.kind == "collective-permute":
        return devices
    raise ValueError(
        f"the groups of {op.kind} {op.name} are written in an unknown way: {op.rest[:200]}. "
        "Teach experiments.bench.hlo.group_size this format"
    )


def product_flops(op: Op, shapes: dict[str, str]) -> float:
    """Returns the FLOPs of a `dot`: 2 · (elements of the result) · (products summed for each element).

    Args:
        op: the `dot`.
        shapes: {name: shape as text} of the instructions of the computation that holds `op`.
    """
    left = dimensions(shapes[op.operands[0]])
    summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.rest)
    axes = [int(n) for n in summed[1].split(",") if n] if summed else []
    return 2.0 * math.prod(dimensions(op.shape)) * math.prod(left[axis] for axis in axes)


def whole(program: Program, ops: list[Op], op: Op) -> dict[str, int]:
    """Returns a dict with one entry, {opcode: bytes of the operands}, for the collective `op`.

    Args:
        ops: the instructions of the computation that holds `op`.
    """
    shapes = {each.name: each.shape for each in ops}
    size = sum(count_bytes(shapes[operand]) for operand in op.operands if operand in shapes)
    return {op.kind.removesuffix("-start"): size}


def reduced(program: Program, ops: list[Op], op: Op) -> dict[str, int]:
    """Returns {opcode: bytes} of the all-reduce `op`, after two rewrites that only compilers for GPUs and TPUs make.

    `op` may have several results. If each device keeps only a slice of a result, this result is counted as a
    reduce-scatter. If several results are only added to each other, those compilers add the operands first and
    all-reduce the sum. So only one of these results is counted.

    Args:
        ops: the instructions of the computation that holds `op`.
    """
    found: Counter[str] = Counter()
    elements = [each for each in ops if each.kind == "get-tuple-element" and each.operands[:1] == [op.name]]
    sums = set()
    for result in elements or [op]:
        readers = users(ops, result.name)
        together = (result.shape, tuple(reader.name for reader in readers))
        if readers and all(only_read_by(program, each, result.name, "dynamic-slice") for each in readers):
            found["reduce-scatter"] += count_bytes(result.shape)
        elif readers and all(only_read_by(program, each, result.name, "add") for each in readers):
            found["all-reduce"] += 0 if together in sums else count_bytes(result.shape)
            sums.add(together)
        else:
            found["all-reduce"] += count_bytes(result.shape)
    return dict(found)


def users(ops: list[Op], name: str) -> list[Op]:
    """Returns those instructions of a computation that have `name` as an operand."""
    return [op for op in ops if name in op.operands]


def only_read_by(program: Program, op: Op, name: str, kind: str) -> bool:
    """Returns whether `op` reads its operand `name` only with instructions of the opcode `kind`.

    If `op` is a fusion, every instruction inside the fusion that reads the operand must have this opcode. Otherwise
    `op` itself must have this opcode. If `kind` is "dynamic-slice", the operand must be the array that is sliced. If
    `kind` is "add", a fusion may reshape or convert the operand before it adds the operand. `SAME` lists the opcodes
    of such changes.
    """
    if op.kind != "fusion":
        return op.kind == kind and op.operands[0 if kind == "dynamic-slice" else op.operands.index(name)] == name
    inner = program.computations[re.search(r"calls=%?([\w.\-]+)", op.rest)[1]]
    seen = []
    for place, operand in enumerate(op.operands):
        if operand == name:
            seen.append(
                next(each.name for each in inner if each.kind == "parameter" and each.rest.split(")")[0] == str(place))
            )
    while seen:
        readers = users(inner, inside := seen.pop())
        for reader in readers:
            if reader.kind in SAME and kind == "add":
                seen.append(reader.name)
            elif not only_read_by(program, reader, inside, kind):
                return False
        if not readers:
            return False
    return True


def count(text: str, devices: int) -> Costs:
    """Counts the FLOPs of one device in a program, and the bytes that it sends to other devices.

    Args:
        text: the optimised HLO, as `compiled.as_text()` returns it.
        devices: the number of devices that run the program.
    """
    program = read(text)
    runs, unknown = count_runs(program)
    collectives, products = [], []
    for name, ops in program.computations.items():
        if not (times := runs.get(name, 0)):
            continue
        shapes = {op.name: op.shape for op in ops}
        for op in ops:
            kind = op.kind.removesuffix("-start")
            if kind in SENT:
                for each, size in (reduced if kind == "all-reduce" else whole)(program, ops, op).items():
                    sent = times * SENT[each](size, group_size(op, devices))
                    collectives.append(Collective(each, op.shape, times, sent))
            elif op.kind == "dot":
                products.append((op.shape, times, times * product_flops(op, shapes)))
    return Costs(
        sum(flops for *_, flops in products),
        sorted(collectives, key=lambda each: -each.sent),
        sorted(products, key=lambda each: -each[2]),
        unknown,
    )
