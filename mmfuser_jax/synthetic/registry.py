"""All 24 domains by name: to add one, write its kinds in a module with a table `DOMAINS` and name the module here."""

from __future__ import annotations

import importlib

from mmfuser_jax.synthetic.kinds import Domain

FAMILIES = (
    "artworks",
    "badges",
    "brands",
    "charts",
    "faces",
    "families",
    "landmarks",
    "landscapes",
    "layouts",
    "networks",
    "pairs",
    "parks",
    "posters",
    "predictions",
    "receipts",
    "species",
    "streets",
    "styles",
    "sums",
    "threads",
    "writing",
)

DOMAINS: dict[str, Domain] = {
    name: domain
    for family in FAMILIES
    for name, domain in importlib.import_module(f"mmfuser_jax.synthetic.{family}").DOMAINS.items()
}
