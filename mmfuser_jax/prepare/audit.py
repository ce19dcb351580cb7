"""The audit: a source looked through, told as tables, a JSON report and plots. Refused rows are its result, not a failure."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

from mmfuser_jax import files
from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.prepare.report import print_report, summarise
from mmfuser_jax.prepare.scan import scan

LOG = logging.getLogger(__name__)


def audit(
    spec: SourceSpec, *, workers: int = 1, json_file: Path | None = None, plots: Path | None = None
) -> dict[str, Any]:
    """Looks at every row and decodes every picture of a source; prints and returns what `report.summarise` says.

    Args:
      spec: the source.
      workers: processes; the result does not depend on them.
      json_file: where to write the report.
      plots: folder for plots; without matplotlib (extra `demo`) none are made.

    Raises:
      ValueError, OSError, RuntimeError: the source itself cannot be used.
    """
    source = open_source(spec)
    scanned = scan(source, workers)
    report = {"source": spec.source, "split": spec.split, "image_folder": spec.image_folder}
    report |= summarise(scanned, source)
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(json_file, json.dumps(report, indent=1) + "\n")
    print_report(report, title=spec.source)
    if plots and importlib.util.find_spec("matplotlib") is None:
        LOG.warning("no plots: they need matplotlib, pip install 'mmfuser-jax[demo]'")
    elif plots:
        from mmfuser_jax.prepare.plots import plot_audit

        for path in plot_audit(report, scanned, plots):
            LOG.info("wrote %s", path)
    return report
