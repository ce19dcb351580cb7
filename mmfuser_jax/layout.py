"""Two layouts of equal layers: one by one (`layers_0`, `layers_1`, …) or stacked on a leading axis (`layers`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Sources = tuple[tuple[str, int | None], ...]
"""Where a parameter comes from: stored paths, each whole (None) or one entry of its leading axis."""

_ONE = re.compile(r"(.*/)layers_(\d+)(/.*)")
_STACKED = re.compile(r"(.*/)layers(/.*)")


def is_stacked(path: str) -> bool:
    """Whether a parameter has a leading axis of layers."""
    return bool(_STACKED.fullmatch(path))


def stacked(path: str) -> tuple[int | None, str]:
    """(layer number, path with that layer's number taken off); (None, path) of a parameter outside the layers."""
    match = _ONE.fullmatch(path)
    return (int(match[2]), f"{match[1]}layers{match[3]}") if match and "projector" not in path else (None, path)


def unstacked(path: str, depth: int) -> list[str]:
    """Paths of the single layers of a stacked parameter; the path itself if it is not stacked."""
    match = _STACKED.fullmatch(path)
    return [f"{match[1]}layers_{layer}{match[2]}" for layer in range(depth)] if match else [path]


def sources(path: str, shape: tuple[int, ...], stored: Mapping[str, Any]) -> Sources:
    """What to read for the parameter `path` of `shape` from what is stored in either layout; empty if it is not there."""
    if path in stored:
        return ((path, None),)
    if is_stacked(path):
        layers = unstacked(path, shape[0])
        return tuple((layer, None) for layer in layers) if all(layer in stored for layer in layers) else ()
    match = _ONE.fullmatch(path)
    if match and (whole := f"{match[1]}layers{match[3]}") in stored and int(match[2]) < stored[whole].shape[0]:
        return ((whole, int(match[2])),)
    return ()


def assembled_shape(stored: Mapping[str, Any], found: Sources) -> tuple[int, ...]:
    """Shape of what `assemble` returns."""
    (first, entry), *rest = found
    shape = stored[first].shape
    return (len(found), *shape) if rest else shape if entry is None else shape[1:]


def assemble(arrays: Mapping[str, np.ndarray], found: Sources) -> np.ndarray:
    """The parameter from its sources: stacked, picked out, or as it is."""
    (first, entry), *rest = found
    if rest:
        return np.stack([arrays[path] for path, _ in found])
    return arrays[first] if entry is None else arrays[first][entry]
