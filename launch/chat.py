"""Asks a model about a picture; without --prompt, talks in the terminal.

python launch/chat.py --model=runs/demo --image=FILE [--prompt="what color is the shape?" …]
"""

from absl import flags

from mmfuser_jax import cli

_MODEL = flags.DEFINE_string("model", None, "Model folder, PyTorch checkpoint folder, or hub id of one.")
_IMAGE = flags.DEFINE_string("image", None, "Picture file; without one, text only.")
_PROMPT = flags.DEFINE_multi_string("prompt", [], "Question; may be given several times.")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy.")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Nucleus drawn from where temperature > 0.")
_MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 128, "Longest answer.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute in this.")
_PICKLE = flags.DEFINE_bool("allow_pickle", False, "Read a PyTorch checkpoint's .bin files.")
_TEMPLATE = flags.DEFINE_string("template", "", "Conversation template; default what the model says.")
flags.mark_flag_as_required("model")


def main() -> None:
    """Answers the prompts, or talks."""
    import mmfuser_jax as mm
    from mmfuser_jax.data.images import open_image
    from mmfuser_jax.generate import Sampling
    from mmfuser_jax.serve.chat import Chat, interact

    image = open_image(_IMAGE.value) if _IMAGE.value else None
    vlm = mm.load(_MODEL.value, dtype=_DTYPE.value, template=_TEMPLATE.value, allow_pickle=_PICKLE.value)
    chat = Chat(
        vlm,
        image,
        max_new_tokens=_MAX_NEW_TOKENS.value,
        sampling=Sampling(_TEMPERATURE.value, _TOP_P.value),
    )
    for question in _PROMPT.value:
        print(chat.ask(question))
    if not _PROMPT.value:
        interact(chat)


if __name__ == "__main__":
    cli.run(main)
