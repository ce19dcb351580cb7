"""Converts checkpoints: PyTorch (LLaVA, MMFuser, llava-hf, CLIP, LLaMA, Mistral, LoRA) to Orbax, and back.

python launch/convert.py --source=llava-v1.5-7b --target=runs/llava_7b --to=orbax [--verify]
python launch/convert.py --source=vicuna-7b-v1.5 --source=clip-vit-large-patch14-336 --target=runs/start --to=orbax --scan
python launch/convert.py --source=runs/llava_7b --target=out/llava_7b --to=llava|hf [--dtype=bfloat16]
python launch/convert.py --source=runs/lora_7b --target=out/lora_7b --to=peft [--base=vicuna-7b-v1.5]
python launch/convert.py --source=runs/lora_7b --target=runs/merged_7b --to=orbax --adapters=merge
"""

from pathlib import Path

from absl import flags

from mmfuser_jax import cli

_SOURCE = flags.DEFINE_multi_string("source", None, "Folder, weight file or hub id; several are put together.")
_TARGET = flags.DEFINE_string("target", None, "Folder to make.")
_TO = flags.DEFINE_enum(
    "to", "orbax", ["orbax", "llava", "hf", "peft"], "Our model folder, or a layout of PyTorch's; peft: LoRA only."
)
_TEMPLATE = flags.DEFINE_string("template", "", "Conversation template to store; default: what the source says, or v1.")
_SCAN = flags.DEFINE_bool("scan", False, "Stack equal layers: compiles fast, takes more memory to convert.")
_STEP = flags.DEFINE_integer("step", None, "Which checkpoint of a model folder; default the newest.")
_DTYPE = flags.DEFINE_string("dtype", "", "Of the tensors written for PyTorch; default as stored.")
_ADAPTERS = flags.DEFINE_enum(
    "adapters", "", ["", "merge", "keep"], "LoRA in our model folder: by default PyTorch's is merged, ours kept."
)
_BASE = flags.DEFINE_string("base", "", "Name of the adapters' base model for --to=peft: a hub id or a folder.")
_PICKLE = flags.DEFINE_bool("allow_pickle", False, "Read .bin pickles, with PyTorch's restricted unpickler.")
_VERIFY = flags.DEFINE_bool("verify", False, "Compare with PyTorch, stage by stage; exit 1 past the tolerance.")
flags.mark_flags_as_required(["source"])


def main() -> None:
    """Converts, and verifies where asked."""
    from mmfuser_jax.convert import job

    job.convert(
        _SOURCE.value,
        Path(_TARGET.value) if _TARGET.value else None,
        to=_TO.value,
        template=_TEMPLATE.value,
        scan=_SCAN.value,
        step=_STEP.value,
        dtype=_DTYPE.value,
        adapters=_ADAPTERS.value,
        base=_BASE.value,
        allow_pickle=_PICKLE.value,
        verify=_VERIFY.value,
    )


if __name__ == "__main__":
    cli.run(main)
