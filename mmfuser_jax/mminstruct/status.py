"""What a project has, and what it lacks, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from mmfuser_jax.mminstruct.inspection import REASONS
from mmfuser_jax.mminstruct.ledger import Ledger


def print_status(ledger: Ledger) -> None:
    """Pictures by domain: how many places were looked at, what was kept, and why the rest was not."""
    counts = ledger.picture_counts()
    table = Table("domain", "looked at", "kept", "not taken, and why", title="pictures")
    for domain, whats in counts.items():
        others = ", ".join(f"{count:,} {REASONS.get(what, what)}" for what, count in whats.items() if what != "kept")
        table.add_row(domain, f"{sum(whats.values()):,}", f"{whats.get('kept', 0):,}", others)
    if len(counts) > 1:
        looked = sum(sum(whats.values()) for whats in counts.values())
        kept = sum(whats.get("kept", 0) for whats in counts.values())
        table.add_section()
        table.add_row("all", f"{looked:,}", f"{kept:,}", "")
    Console().print(table)
