"""Bytes of main memory that the instructions of a compiled program read and write."""

from __future__ import annotations

import math

from mmfuser_jax.aot.hlo import FREE, Computation, Execution, Instruction, Module, Shape


def traffic(run: Execution, module: Module) -> float:
    """Bytes of main memory that a scheduled instruction reads and writes."""
    instruction, computation = run.instruction, run.computation
    if instruction.opcode in FREE or instruction.opcode.endswith("-done"):
        return 0.0
    operands = [computation[name] for name in instruction.operands if name in computation]
    if instruction.opcode == "fusion":
        fused = module.computations[instruction.called[0]]
        return _fusion_reads(operands, fused, module) + math.fsum(_written(x, fused, module) for x in _results(fused))
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return math.fsum(map(_hbm, instruction.shapes)) * 2
    if instruction.opcode == "slice-start":  # (what it slices, the slice, …)
        return instruction.shapes[1].bytes + _hbm(instruction.shapes[1])
    if instruction.opcode == "dynamic-update-slice":
        return math.fsum(map(_hbm, operands[1].shapes)) * 2
    read = math.fsum(_hbm(shape) for operand in operands for shape in operand.shapes)
    results = instruction.shapes[:1] if instruction.opcode.endswith("-start") else instruction.shapes
    return read + math.fsum(map(_hbm, results))


def _fusion_reads(operands: list[Instruction], fused: Computation, module: Module) -> float:
    """Bytes that a fusion reads of operands in main memory."""
    return math.fsum(
        _read(_parameter(fused, index), fused, module)
        for index, operand in enumerate(operands)
        if math.fsum(map(_hbm, operand.shapes)) > 0
    )


def _parameter(computation: Computation, index: int) -> Instruction:
    return next(x for x in computation.values() if x.opcode == "parameter" and x.arguments == str(index))


def _read(value: Instruction, fused: Computation, module: Module) -> float:
    """Bytes of a value that a fusion reads: its slices where it is only sliced, nothing where it is only passed on."""
    size, total = math.fsum(shape.bytes for shape in value.shapes), 0.0
    for user in (x for x in fused.values() if value.name in x.operands):
        in_place = user.opcode == "dynamic-update-slice" and user.operands[0] == value.name
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            total += math.fsum(shape.bytes for shape in user.shapes)
        elif user.opcode == "bitcast":
            total += _read(user, fused, module)
        elif user.opcode == "fusion":
            inner = module.computations[user.called[0]]
            places = [index for index, name in enumerate(user.operands) if name == value.name]
            total += math.fsum(_read(_parameter(inner, index), inner, module) for index in places)
        elif not (in_place or user.opcode == "tuple" or _moves_elsewhere(user)):
            return size
    return min(size, total)


def _moves_elsewhere(instruction: Instruction) -> bool:
    """Whether it is a collective or a part of one: what those move counts as theirs."""
    return instruction.collective is not None or "AsyncCollective" in instruction.label


def _results(fused: Computation) -> list[Instruction]:
    """What a fusion returns, taken out of its tuple."""
    root = next(x for x in fused.values() if x.is_root)
    return [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]


def _written(result: Instruction, fused: Computation, module: Module) -> float:
    """Bytes that a fusion writes to main memory for one of its results: an update in place counts as what it changes."""
    if result.opcode in ("parameter", "get-tuple-element") or _moves_elsewhere(result):
        return 0.0
    whole = math.fsum(map(_hbm, result.shapes))
    if result.opcode == "dynamic-update-slice" and whole:
        return math.fsum(shape.bytes for shape in fused[result.operands[1]].shapes)
    if result.opcode == "fusion" and whole:
        inner = module.computations[result.called[0]]
        return min(whole, math.fsum(_written(x, inner, module) for x in _results(inner)))
    return whole


def _hbm(shape: Shape) -> float:
    return shape.bytes if shape.space == 0 else 0.0
