"""Reading the text of a compiled XLA program: computations, instructions, and how often each one runs."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

DTYPE_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s2": 0.25, "u2": 0.25, "token": 0, "opaque": 0}
"""Bytes of an element where its name does not end in its bits ("bf16", "f32", "u8", "f8e4m3fn", "c64")."""

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$", re.DOTALL)
SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
CALLED = re.compile(r"\b(?:calls|to_apply|(?:true|false)_computation)=%?([\w.\-]+)|\bbranch_computations=\{([^}]*)\}")

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

FREE = frozenset(
    [
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "conditional",
        "call",
        "after-all",
        "partition-id",
        "replica-id",
        "copy-done",
        "async-start",
        "async-update",
        "async-done",
        "opt-barrier",
    ]
)
"""Instructions that move no data themselves: what they stand for is counted where it happens."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array: its element type, its size, and the memory that it lies in (0: the device's main memory)."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @functools.cached_property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @functools.cached_property
    def bytes(self) -> float:
        """Size without padding."""
        bits = re.match(r"[a-z]+(\d+)", self.dtype)
        return float(self.elements * DTYPE_BYTES.get(self.dtype, int(bits[1]) / 8 if bits else 0))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      name, opcode: "fusion.3", "fusion".
      shapes: of the result; several for a tuple.
      arguments: between the parentheses: names of operands, or the value of a constant.
      attributes: the rest of the line.
      is_root: whether it is the computation's result.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    arguments: str
    attributes: str
    is_root: bool

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of the instructions whose results it takes."""
        return tuple(re.findall(r"%([\w.\-]+)", self.arguments))

    @property
    def called(self) -> tuple[str, ...]:
        """Computations that run as part of it, other than the small ones of reductions and sorts."""
        if self.opcode not in ("fusion", "call", "async-start", "conditional"):
            return ()
        names = (name for one, several in CALLED.findall(self.attributes) for name in (one, *several.split(",")))
        return tuple(name.strip().lstrip("%") for name in names if name)

    @property
    def label(self) -> str:
        """The target of a custom call, the opcode of anything else."""
        return self.attribute(r'custom_call_target="([^"]*)"') or self.opcode

    @property
    def collective(self) -> str | None:
        """Kind of collective that it is or starts."""
        opcode = self.opcode.removesuffix("-start")
        return opcode if opcode in COLLECTIVES else None

    def attribute(self, pattern: str) -> str | None:
        """First group of a regular expression in the attributes."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else None


Computation = Mapping[str, Instruction]
"""Instructions by name, in order of execution."""


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program: computations by name, and which of them is run."""

    computations: Mapping[str, Computation]
    entry: str

    @property
    def root(self) -> Computation:
        """The computation that is run."""
        return self.computations[self.entry]


@dataclasses.dataclass(frozen=True)
class Execution:
    """An instruction where it runs.

    Attributes:
      instruction, computation: it, and what names its operands.
      times: how often a step runs it.
      scope: the run of the scheduled computation (the program, or a loop's body) that it is part of.
      fused: whether it is inside a fusion, so that only the fusion reads and writes memory.
    """

    instruction: Instruction
    computation: Computation
    times: int
    scope: str
    fused: bool


def parse_module(text: str) -> Module:
    """Parses the text of a compiled program.

    Raises:
      ValueError: there is no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in _joined(text):
        if current is None:
            if header := COMPUTATION.match(line):
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
        elif line.rstrip() == "}":
            current = None
        elif found := INSTRUCTION.match(line):
            current[found[2]] = _parse_instruction(found[2], found[3], bool(found[1]))
    if not entry:
        raise ValueError("the text of the compiled program has no entry computation")
    return Module(computations, entry)


def _joined(text: str) -> Iterator[str]:
    """Lines, with those that go on with an instruction (the metadata of kernels) joined to its own."""
    held = ""
    for line in text.splitlines():
        starts = INSTRUCTION.match(line) or COMPUTATION.match(line) or line.rstrip() == "}"
        if starts:
            yield held
            held = line
        else:
            held += line
    yield held


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """All arrays of a type: "(f32[2,3]{1,0:S(1)}, s32[])"."""
    return tuple(
        Shape(dtype, tuple(int(size.lstrip("<=")) for size in dims.split(",") if size), _space(layout))
        for dtype, dims, layout in SHAPE.findall(text)
    )


def _space(layout: str) -> int:
    match = re.search(r"S\((\d+)\)", layout)
    return int(match[1]) if match else 0


def _parse_instruction(name: str, rest: str, is_root: bool) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opcode, opened = rest[end:].lstrip().split("(", 1)
    start = len(rest) - len(opened)
    closed = _closing(rest, start - 1)
    return Instruction(name, opcode, parse_shapes(rest[:end]), rest[start:closed], rest[closed + 1 :], is_root)


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)


def executions(module: Module, *, trip_counts: bool = True) -> Iterator[Execution]:
    """Every instruction that runs, with loops' bodies as often as they run (once without `trip_counts`).

    All branches of a conditional count. A loop whose length depends on data counts as its limit, if it compares with one.
    """
    yield from _executions(module, module.entry, 1, module.entry, False, trip_counts)


def _executions(
    module: Module, name: str, times: int, scope: str, fused: bool, trip_counts: bool
) -> Iterator[Execution]:
    computation = module.computations[name]
    for instruction in computation.values():
        yield Execution(instruction, computation, times, scope, fused)
        if instruction.opcode == "while":
            body = instruction.attribute(r"body=%?([\w.\-]+)") or ""
            trips = trip_count(module, instruction) if trip_counts else 1
            inside = f"{scope}/{instruction.name}"
            yield from _executions(module, body, times * trips, inside, False, trip_counts)
        for called in instruction.called:
            inside_fusion = fused or instruction.opcode == "fusion"
            yield from _executions(module, called, times, scope, inside_fusion, trip_counts)


def trip_count(module: Module, loop: Instruction) -> int:
    """How often a while loop runs: what the compiler found out, else the largest number that its condition compares with."""
    if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
        return int(known)
    condition = loop.attribute(r"condition=%?([\w.\-]+)") or ""
    return max([1, *_integers(module, condition)])


def _integers(module: Module, name: str) -> Iterator[int]:
    """Scalar integer constants of a computation, and of the fusions in it."""
    for instruction in module.computations[name].values():
        if instruction.opcode == "constant" and instruction.arguments.isdigit():
            yield int(instruction.arguments)
        for called in instruction.called:
            yield from _integers(module, called)
