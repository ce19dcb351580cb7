"""Text from a model: sampling rules and the cached decoding engine."""

from mmfuser_jax.generate.engine import Engine, Shown
from mmfuser_jax.generate.sampling import GREEDY, Sampling

__all__ = ["GREEDY", "Engine", "Sampling", "Shown"]
