"""Reports for people: one table a program."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from mmfuser_jax.aot.report import Report
from mmfuser_jax.aot.search import Found, outcome
from mmfuser_jax.models.flops import total


def show(report: Report, steps: int, console: Console) -> None:
    """Prints a report; `steps` are those of its stage, 0 for a program without an end."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in report.mesh.shape.items() if size > 1) or "one device"
    chips = f"{len(report.topology.devices)} devices, {mesh}"
    table = Table(title=f"{report.program.name} on {report.topology.name} ({chips}), remat {report.remat}")
    table.add_column("what")
    table.add_column("amount", justify="right")
    table.add_column("of it")
    for row in (*_memory(report), *_flops(report), *_compiled(report), *_time(report, steps)):
        table.add_row(*row)
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}")


def _memory(report: Report) -> Iterator[tuple[str, str, str]]:
    memory = report.memory
    parts = ""
    if memory:
        parts = (
            f"arguments {memory.arguments:.2f}, temporaries {memory.temporaries:.2f}, results {memory.results:.2f}, "
            f"code {memory.code:.2f}"
        )
    needed = f"{report.needed_gib:.2f} GiB" if report.needed_gib is not None else "unknown"
    yield "fits" if report.fits else "DOES NOT FIT", f"{needed} / {report.limit_gib:g} GiB a chip", parts


def _flops(report: Report) -> Iterator[tuple[str, str, str]]:
    whole = total(report.program.flops)
    parts = ", ".join(f"{part} {x.model:.3g}" for part, x in report.program.flops.items())
    split = f"forward {whole.forward:.3g}, backward {whole.backward:.3g}"
    yield "model FLOPs", f"{whole.model:.4g} a step", f"{split}; {parts}"
    chips = len(report.topology.devices)
    share = f"{(whole.model + whole.recomputed) / chips:.3g} a chip with those"
    yield "computed again", f"{whole.recomputed:.4g}", share


def _compiled(report: Report) -> Iterator[tuple[str, str, str]]:
    cost = report.cost
    if cost is None:
        return
    yield "compiled matmuls", f"{cost.matmul_flops:.4g} FLOPs a chip", f"and {cost.kernel_flops:.3g} that kernels state"
    yield "main memory", f"{cost.hbm_bytes / 1e9:.4g} GB a chip", ""
    for kind, found in cost.collectives.items():
        yield (
            kind,
            f"{found.received_bytes / 1e9:.4g} GB received",
            (f"{found.count} of them, results {found.output_bytes / 1e9:.4g} GB"),
        )


def _time(report: Report, steps: int) -> Iterator[tuple[str, str, str]]:
    seconds, rates = report.seconds, report.rates()
    if seconds is not None:
        limits = {"compute": seconds.compute, "memory": seconds.memory, "collectives": seconds.collectives}
        parts = ", ".join(f"{name} {value:.4f}" for name, value in limits.items() if value is not None)
        yield (
            "a step takes at least",
            f"{seconds.bound:.4f} s",
            f"{parts}; one after the other {seconds.without_overlap:.4f}",
        )
        if seconds.estimate is not None and report.cost is not None:
            yield (
                "compiler's estimate",
                f"{seconds.estimate:.4f} s",
                f"without {report.cost.kernels} kernels, collectives after it",
            )
        yield (
            "at most",
            f"{rates['samples_per_second_bound']:.4g} rows/s",
            (f"{rates['tokens_per_second_bound']:.4g} tokens/s, MFU {rates['mfu_bound']:.3f}"),
        )
        if steps:
            rows = steps * report.program.rows
            yield "the whole stage", f"{steps * seconds.bound / 3600:.2f} h at least", f"{steps} steps, {rows:,} rows"
    yield "compiled in", f"{report.compile_seconds:.0f} s", ""


def show_recommendation(known: Report, stage: str, fitting: Found, console: Console) -> None:
    """Prints what to run instead, or as well."""
    if not fitting:
        console.print(f"nothing that was tried fits {known.topology.name}; take more chips or fewer rows a batch")
    elif fitting[0][1] is known:
        console.print(f"nothing that was tried is faster: {outcome(known)}")
    else:
        choice, report = fitting[0]
        console.print(f"recommended: {choice.flags(stage)}\n  {outcome(report)}", soft_wrap=True)
