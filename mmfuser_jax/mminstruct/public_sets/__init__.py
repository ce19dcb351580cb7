"""Public question sets, each read from the files that its authors publish."""

from mmfuser_jax.mminstruct.public_sets.clevr_math import read_clevr_math
from mmfuser_jax.mminstruct.public_sets.dvqa import read_dvqa
from mmfuser_jax.mminstruct.public_sets.figureqa import read_figureqa
from mmfuser_jax.mminstruct.public_sets.geometry3k import read_geometry3k
from mmfuser_jax.mminstruct.public_sets.imported import Found, Imported, PublicSetError, Reader, Unusable
from mmfuser_jax.mminstruct.public_sets.tabmwp import read_tabmwp
from mmfuser_jax.mminstruct.public_sets.tqa import read_tqa

FORMATS: dict[str, Reader] = {
    "clevr_math": read_clevr_math,
    "dvqa": read_dvqa,
    "figureqa": read_figureqa,
    "geometry3k": read_geometry3k,
    "tabmwp": read_tabmwp,
    "tqa": read_tqa,
}
"""Name → reader of a folder. A reader looks at the folder when it is called, and reads questions one by one after that."""

__all__ = ["FORMATS", "Found", "Imported", "PublicSetError", "Reader", "Unusable"]
