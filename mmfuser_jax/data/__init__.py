"""From records on disk to batches of NumPy arrays. Nothing here touches a device: loader workers import it."""

from mmfuser_jax.data.conversation import TEMPLATES, encode_conversation, encode_prompt
from mmfuser_jax.data.images import preprocess_image
from mmfuser_jax.data.records import Record, Turn
from mmfuser_jax.data.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "TEMPLATES",
    "Record",
    "Tokenizer",
    "Turn",
    "encode_conversation",
    "encode_prompt",
    "load_tokenizer",
    "preprocess_image",
]
