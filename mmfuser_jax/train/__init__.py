"""One train loop for every stage; what a stage trains, and how fast, is an ordered table."""

from mmfuser_jax.train.loop import train
from mmfuser_jax.train.stopping import Stopped

__all__ = ["Stopped", "train"]
