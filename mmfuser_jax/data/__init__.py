"""From records on disk to batches of NumPy arrays. Nothing here touches a device: loader workers import it."""

from mmfuser_jax.data.conversation import decode_answer, encode_conversation, encode_prompt, end_ids, prompt_text
from mmfuser_jax.data.images import preprocess_image
from mmfuser_jax.data.records import Record, Turn
from mmfuser_jax.data.templates import TEMPLATES, Template, get_template
from mmfuser_jax.data.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "TEMPLATES",
    "Record",
    "Template",
    "Tokenizer",
    "Turn",
    "decode_answer",
    "encode_conversation",
    "encode_prompt",
    "end_ids",
    "get_template",
    "load_tokenizer",
    "preprocess_image",
    "prompt_text",
]
