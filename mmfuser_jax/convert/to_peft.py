"""Ours → PEFT: the adapters of a model folder, and beside them what else it trained, as LLaVA's own code saves them."""

from __future__ import annotations

from pathlib import Path

from mmfuser_jax import files, layout
from mmfuser_jax.convert import adapters, configs
from mmfuser_jax.convert.errors import ConversionError, listed
from mmfuser_jax.convert.layouts import llava_prefixes
from mmfuser_jax.convert.shards import write_file, write_json
from mmfuser_jax.convert.tables import Prefixes, Target
from mmfuser_jax.convert.to_ours import whole_folder
from mmfuser_jax.convert.to_torch import Exporter, copy_texts, write_config, write_processor
from mmfuser_jax.train.optim import Rule, assign_rules

ALWAYS = ("fuser", "projector", "image_newline")
"""Parts that no base language model has: they go along whether they were trained or not."""


def write_adapter_folder(
    folder: Path, target: Path, *, base: str = "", step: int | None = None, dtype: str = ""
) -> None:
    """Writes adapter_config.json, adapter_model.safetensors, non_lora_trainables.safetensors and config.json.

    The folder appears whole or not at all. Besides fuser and projector, what the rules of the run's config.json trained
    goes into the third file. The vision tower is described, not copied.

    Args:
      folder: model folder with adapters; its base may be quantised.
      target: folder to make.
      base: what the adapters' base model is called: a hub id or a folder.
      step: which checkpoint; None for the newest.
      dtype: of the tensors; "" as stored.

    Raises:
      ConversionError: `target` exists, there are no adapters, or adapted kernels were trained besides.
    """
    exporter = Exporter(folder, step, dtype, merge=False)
    lora = exporter.card.config.llm.lora
    if lora is None:
        raise ConversionError(f"{folder}: has no adapters; --to=llava writes the whole model")
    trained = _trained(folder, exporter)

    def goes_along(target: Target) -> bool:
        path = target.path or ""
        return path.split("/")[0] in ALWAYS or layout.stacked(path)[1] in trained

    factors = exporter.entries(Prefixes(adapter=f"{adapters.PREFIX}model."))
    rest = exporter.entries(llava_prefixes(exporter.config), goes_along)
    with whole_folder(target) as draft:
        copy_texts(folder, draft)
        write_json(draft / adapters.CONFIG, adapters.adapter_fields(lora, base))
        write_config(
            draft, exporter, configs.llava_fields(exporter.config, exporter.card.aspect, exporter.card.im_start_end)
        )
        (draft / "clip").mkdir()
        write_json(draft / "clip" / "config.json", configs.vision_fields(exporter.config.vision))
        write_processor(folder, draft / "clip", exporter)
        write_file(factors, draft / "adapter_model.safetensors")
        prefixed = {adapters.PREFIX + key: entry for key, entry in rest.items()}
        write_file(prefixed, draft / "non_lora_trainables.safetensors")


def _trained(folder: Path, exporter: Exporter) -> set[str]:
    """Paths (of stacked layers) that a stage of the run trained, adapters aside; none where there was no run."""
    config = files.read_json(folder / "config.json")
    shapes, trained = exporter.stored.shapes, set()
    for name in config.get("stage_order", ()):  # a config may describe stages that the run leaves out
        rules = [Rule(pattern, rate) for pattern, rate in config["stages"][name]["rules"]]
        rows = assign_rules(shapes, rules)
        trained |= {path for path, row in rows.items() if rules[row].learning_rate is not None and "/lora_" not in path}
    if lost := [path for path in trained if f"{path.removesuffix('kernel')}lora_a" in shapes]:
        raise ConversionError(f"{folder}: adapters cannot say that {listed(lost)} were trained besides; use --to=llava")
    return {layout.stacked(path)[1] for path in trained}
