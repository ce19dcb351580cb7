"""Static cycle counts of TPU kernels, which XLA's own estimates leave out, read from what the compiler can dump.

libtpu writes the final machine code of every kernel, a bundle of instructions a line, where LIBTPU_INIT_ARGS holds
`dump_flags(folder)` before it is loaded. A bundle is issued in a cycle, and its place in the schedule already contains
the latencies of what it waits for. Not in the count: waiting for main memory, and bundles skipped by branches.

    0x102 LB: >>> { ... }       a loop begins: three deep, as the arrows say
    0x10a   : >>> { %p = scmp.ge.s32.totalorder %s1, 12 /* loop exit test */ ... }     it runs 12 times
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

BUNDLE = re.compile(r"^ *(?:0x)?[0-9a-f]+ +([A-Z]{2})?: *(>*) *\{")
EXIT_TEST = re.compile(r"scmp\.\w+\.s32\.totalorder (?:\(%\w+\), )?%\w+, (\d+) /\* loop exit test")
FILE = re.compile(r"\d+-(.+)-\d+-final_bundles\.txt")


class KernelDumpError(ValueError):
    """A dump is not as this libtpu's should be."""


@dataclasses.dataclass
class _Loop:
    """Bundles first … last at `depth`, run `trips` times (0: not known yet)."""

    first: int
    last: int
    depth: int
    trips: int = 0


def dump_flags(folder: Path | str) -> str:
    """What LIBTPU_INIT_ARGS must hold for `read_cycles(folder, …)`."""
    return f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"


def read_cycles(folder: Path | str, kernel: str) -> list[int]:
    """Cycles on one chip of every compiled call with `kernel` in its name (JAX puts its transforms around it), in order.

    Raises:
      KernelDumpError: no such call was dumped to the folder, or a dump cannot be read.
    """
    files = [
        path for path in sorted(Path(folder).iterdir()) if (file := FILE.fullmatch(path.name)) and kernel in file[1]
    ]
    if not files:
        raise KernelDumpError(f"no {kernel!r} in {folder}: was LIBTPU_INIT_ARGS set before libtpu was loaded?")
    return [count_cycles(path.read_text()) for path in files]


def count_cycles(text: str) -> int:
    """Bundles of a dump, those within loops as often as the loops run.

    Raises:
      KernelDumpError: no bundles, or a loop that does not end after a fixed number of trips.
    """
    headers: list[tuple[bool, int]] = []  # (a loop begins, depth) of every bundle
    exits: list[tuple[int, int]] = []  # (bundle, trips)
    for line in text.splitlines():
        if bundle := BUNDLE.match(line):
            headers.append((bundle[1] == "LB", len(bundle[2])))
        exits += [(len(headers) - 1, int(trips)) for trips in EXIT_TEST.findall(line)]
    if not headers:
        raise KernelDumpError("the dump has no bundles")
    loops = _find_loops(headers)
    for at, trips in exits:
        around = [loop for loop in loops if loop.first <= at <= loop.last and not loop.trips]
        # A test may have moved into the loop within, but inner loops are tested first.
        max(around, key=lambda loop: loop.depth).trips = trips
    cycles = [1] * len(headers)
    for loop in loops:
        if not loop.trips:
            raise KernelDumpError(f"the loop at bundle {loop.first:#x} has no constant number of trips")
        for i in range(loop.first, loop.last + 1):
            cycles[i] *= loop.trips
    return sum(cycles)


def _find_loops(headers: list[tuple[bool, int]]) -> list[_Loop]:
    """Loops from their first bundle to the last as deep, before the next begins: some between are marked shallower."""
    loops = []
    for first, (begins, depth) in enumerate(headers):
        if begins:
            rest = range(first + 1, len(headers))
            end = next((i for i in rest if headers[i][0] and headers[i][1] <= depth), len(headers))
            loops.append(_Loop(first, max(i for i in range(first, end) if headers[i][1] >= depth), depth))
    return loops
