"""Adapters between PEFT and ours: the same logits on both sides, the same bits on the way back, merged or not."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import peft
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import mmfuser_jax as mm
from mmfuser_jax import model_folder
from mmfuser_jax.checkpoint import StoredParams
from mmfuser_jax.convert import ConversionError, job, open_checkpoint, write_model_folder
from mmfuser_jax.convert.tables import ADAPTED
from mmfuser_jax.model_folder import ModelCard
from mmfuser_jax.models import VLM, LoraConfig
from mmfuser_jax.models.quantized import quantize
from mmfuser_jax.train.optim import flatten, unflatten
from mmfuser_jax.types import IMAGE_TOKEN_INDEX
from tests import hf_models
from tests.helpers import random_params, relative
from tests.torch_folders import same_bits, tensors_of, write_params

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:peft", "ignore::FutureWarning:transformers")

LOGITS = 1e-5
IDS = np.random.default_rng(0).integers(1, 90, (2, 17))
LORA = LoraConfig(4, 8.0, dropout=0.1, targets=("query", "value", "out", "down"))


def wrapped(model, target, **options):
    """Their model with adapters that do something, saved in PEFT's format."""
    config = peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.eval().save_pretrained(target)
    return model


def kept(target, *sources):
    write_model_folder(open_checkpoint(sources, keep_adapters=True), target, template="v1")
    return mm.load(target, mesh=hf_models.one_device())


@pytest.mark.parametrize("rslora", [False, True])
def test_a_llava_with_adapters_of_peft(rslora, tmp_path, rng):
    """Transformers names modules in another way than its files do: `model.language_model.`, `language_model.model.`"""
    base = hf_models.save(hf_models.llava(), tmp_path / "base")
    modules = "|".join(ADAPTED)
    theirs = wrapped(
        hf_models.llava(), tmp_path / "lora", target_modules=rf".*language_model\..*\.({modules})", use_rslora=rslora
    )
    picture = hf_models.shown(theirs, [Image.fromarray(rng.integers(0, 256, (42, 42, 3), dtype=np.uint8))])
    ids = IDS[:1].copy()
    ids[0, 3] = IMAGE_TOKEN_INDEX
    with torch.inference_mode():
        expected = theirs(hf_models.spelled_out(theirs, ids[0], picture), **picture.inputs).logits.numpy()
    ours = kept(tmp_path / "kept", tmp_path / "lora", base)
    alpha = 12.0 if rslora else 6.0
    assert ours.card.config.llm.lora == LoraConfig(4, alpha)
    assert relative(ours.logits(ids, picture.pixels), expected) <= LOGITS
    merged = write_merged(tmp_path / "merged", tmp_path / "lora", base)
    assert merged.card.config.llm.lora is None
    assert relative(merged.logits(ids, picture.pixels), expected) <= LOGITS
    doubled = dataclasses.replace(ours.card.config.llm, lora=LoraConfig(4, 2 * alpha))
    assert relative(hf_models.changed(ours, llm=doubled).logits(ids, picture.pixels), expected) > 100 * LOGITS
    vision = wrapped(hf_models.llava(), tmp_path / "vision", target_modules=["q_proj"])
    assert any("vision_tower" in name for name, _ in vision.named_parameters() if "lora" in name)
    with pytest.raises(ConversionError, match=r"outside the decoder layers can be merged, not kept: .*vision"):
        open_checkpoint([tmp_path / "vision", base], keep_adapters=True)


def write_merged(target, *sources):
    write_model_folder(open_checkpoint(sources), target, template="v1")
    return mm.load(target, mesh=hf_models.one_device())


def test_a_bare_language_model_with_some_adapters(tmp_path):
    """Only some modules, and the base named in adapter_config.json alone."""
    base = hf_models.save(hf_models.llama(), tmp_path / "base")
    theirs = wrapped(
        peft_base(base), tmp_path / "lora", target_modules=["q_proj", "down_proj"], layers_to_transform=None
    )
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(IDS)).logits.numpy()
    checkpoint = open_checkpoint([tmp_path / "lora"], keep_adapters=True)
    assert checkpoint.config.llm.lora == LoraConfig(4, 6.0, targets=("query", "down"))
    model = VLM(checkpoint.config)
    flat = flatten(random_params(model)) | {path: checkpoint.read(path) for path in checkpoint.params}
    card = ModelCard(checkpoint.config, "plain", "square")
    assert relative(mm.facade.VisionLanguageModel(card, model, unflatten(flat), None).logits(IDS), expected) <= LOGITS
    wrapped(peft_base(base), tmp_path / "half", target_modules=["q_proj"], layers_to_transform=[1])
    with pytest.raises(ConversionError, match=r"missing: .*layers\.0\.self_attn\.q_proj\.lora_A\.weight"):
        open_checkpoint([tmp_path / "half"], keep_adapters=True)


def peft_base(folder):
    import transformers

    return transformers.LlamaForCausalLM.from_pretrained(folder).eval()


def our_run(folder, config, quantized="", scan=False, rules=None):
    """A run folder with random adapters over a random base, and the base alone as LLaVA's own code would have it."""
    llm = dataclasses.replace(config.llm, scan_layers=scan)
    plain = dataclasses.replace(config, llm=llm)
    adapted = dataclasses.replace(config, llm=dataclasses.replace(llm, lora=LORA, quantize=quantized))
    numbers, flat = flatten(random_params(VLM(plain), 1)), flatten(random_params(VLM(adapted)))
    for path in numbers:
        if path in flat:
            flat[path] = numbers[path]
        else:
            kernel = numbers[path].reshape(*numbers[path].shape[:scan], -1, flat[f"{path}/scales"].shape[-1])
            made = jax.vmap(lambda x: quantize(x, quantized))(kernel) if scan else quantize(kernel, quantized)
            flat |= {f"{path}/{name}": x for name, x in made.items()}
    for name, params, shape in (("run", flat, adapted), ("base", numbers, plain)):
        model_folder.write_card(write_params(folder / name, unflatten(params)), ModelCard(shape, "v1", "pad"))
    if rules:
        (folder / "run" / "config.json").write_text(
            json.dumps(
                {
                    "stage_order": ["finetune"],
                    "stages": {"finetune": {"rules": rules}, "unused": {"rules": [[".*", 1.0]]}},
                }
            )
        )
    job.convert([str(folder / "base")], folder / "torch", to="llava")
    return folder / "run", folder / "torch"


@pytest.mark.parametrize("scan", [False, True])
def test_out_to_peft_and_back_to_the_bit(scan, tiny, tmp_path):
    rules = [[r"llm/.*/lora_[ab]$", 1e-4], ["llm/final_norm", 1e-4], [".*", None]]
    run, base = our_run(tmp_path, tiny, scan=scan, rules=rules)
    job.convert([str(run)], tmp_path / "peft", to="peft", base="vicuna")
    fields = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (fields["base_model_name_or_path"], fields["lora_alpha"], fields["r"]) == ("vicuna", 8, 4)
    others = load_file(tmp_path / "peft" / "non_lora_trainables.safetensors")
    assert {"base_model.model.model.mm_projector.0.gamma1", "base_model.model.model.norm.weight"} <= others.keys()
    assert not [key for key in others if "layers" in key or "vision" in key or "embed" in key]
    back = kept(tmp_path / "back", tmp_path / "peft", base)
    assert back.card.config.llm.lora == LORA
    job.convert([str(run)], tmp_path / "unrolled", to="orbax")
    before, after = (StoredParams(folder / "checkpoints") for folder in (tmp_path / "unrolled", tmp_path / "back"))
    assert before.shapes == after.shapes
    for path, x in before.read(before.shapes).items():
        np.testing.assert_array_equal(after.read([path])[path], x, err_msg=path)
    job.convert([str(tmp_path / "back")], tmp_path / "again", to="peft")
    factors = (tensors_of(tmp_path / name) for name in ("peft", "again"))
    first, second = ({key: x for key, x in of.items() if "norm.weight" not in key or "mm_" in key} for of in factors)
    same_bits(first, second)


@pytest.mark.parametrize("kind", ["", "nf4"])
def test_peft_computes_what_we_do_and_so_do_merged_weights(kind, tiny, tmp_path):
    run, _ = our_run(tmp_path, dataclasses.replace(tiny, fuser=None), kind, scan=bool(kind))
    expected = mm.load(run).logits(IDS)
    job.convert([str(run)], tmp_path / "peft", to="peft")
    without = tmp_path / "without"  # the base that the adapters were trained over: as quantised as it was
    shutil.copytree(run, without)
    flat = {path: x for path, x in flatten(mm.load(run).params).items() if "lora" not in path}
    shutil.rmtree(without / "checkpoints")
    card = model_folder.read_card(run)
    llm = dataclasses.replace(card.config.llm, lora=None)
    config = dataclasses.replace(card.config, llm=llm)
    model_folder.write_card(write_params(without, unflatten(flat)), dataclasses.replace(card, config=config))
    job.convert([str(without)], tmp_path / "frozen", to="llava")
    theirs = peft.PeftModel.from_pretrained(bare_llama(tmp_path / "frozen"), tmp_path / "peft").eval()
    with torch.inference_mode():
        logits = theirs(torch.from_numpy(IDS)).logits.numpy()
    assert relative(logits, expected) <= LOGITS
    job.convert([str(run)], tmp_path / "merged", to="orbax", adapters="merge")
    job.convert([str(run)], tmp_path / "llava", to="llava", verify=bool(kind))
    for folder in (tmp_path / "merged", tmp_path / "llava"):
        vlm = mm.load(folder)
        assert (vlm.card.config.llm.lora, vlm.card.config.llm.quantize) == (None, "")
        assert relative(vlm.logits(IDS), expected) <= LOGITS
    assert relative(mm.load(tmp_path / "frozen").logits(IDS), expected) > 1e-2


def bare_llama(folder):
    """The language model of a LLaVA folder in theirs."""
    import transformers

    fields = json.loads((folder / "config.json").read_text())
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**fields, "model_type": "llama"}))
    state = {
        key: torch.from_numpy(x) for key, x in tensors_of(folder).items() if "mm_" not in key and "vision" not in key
    }
    model.load_state_dict(state)
    return model.eval()


def test_what_was_trained_besides_as_a_pickle(tiny, tmp_path):
    """As LLaVA's own code leaves it; read where pickles are allowed."""
    run, base = our_run(tmp_path, tiny)
    job.convert([str(run)], tmp_path / "peft", to="peft")
    expected = kept(tmp_path / "expected", tmp_path / "peft", base)
    file = tmp_path / "peft" / "non_lora_trainables.safetensors"
    tensors = {key: torch.from_numpy(x) for key, x in load_file(file).items()}
    torch.save(tensors, file.with_suffix(".bin"))
    file.unlink()
    sources = [str(tmp_path / "peft"), str(base)]
    with pytest.raises(ConversionError, match=r"non_lora_trainables\.bin are pickles"):
        job.convert(sources, tmp_path / "pickled", adapters="keep")
    job.convert(sources, tmp_path / "pickled", adapters="keep", allow_pickle=True, verify=True)
    for path, x in flatten(mm.load(tmp_path / "pickled").params).items():
        np.testing.assert_array_equal(x, flatten(expected.params)[path], err_msg=path)


def test_what_has_no_adapters_or_more_is_refused(tiny, tmp_path):
    run, base = our_run(tmp_path, tiny, rules=[["llm/decoder/layers_1/", 1e-4], [".*", None]])
    with pytest.raises(ConversionError, match=r"adapters cannot say that llm/decoder/layers_1/down/kernel"):
        job.convert([str(run)], tmp_path / "peft", to="peft")
    with pytest.raises(ConversionError, match="has no adapters; --to=llava writes the whole model"):
        job.convert([str(tmp_path / "base")], tmp_path / "peft", to="peft")
    for options, message in (
        ({"to": "llava", "adapters": "keep"}, "--adapters is for --to=orbax"),
        ({"to": "llava", "base": "x"}, "--base is for --to=peft"),
        ({"to": "peft", "verify": True}, "--verify compares whole models"),
    ):
        with pytest.raises(ConversionError, match=message):
            job.convert([str(run)], tmp_path / "peft", **options)
    with pytest.raises(ConversionError, match="--to=peft is for model folders of ours"):
        job.convert([str(base)], tmp_path / "peft", to="peft")
    assert not (tmp_path / "peft").exists()
