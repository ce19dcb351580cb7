"""Launch scripts as users run them: one-line errors, no traceback, --debug shows it."""

import shutil
import subprocess
import sys

import pytest
from safetensors.numpy import load_file

from tests.conftest import GOLDEN, ROOT
from tests.test_resume import environment


def launch_script(script, *args):
    return subprocess.run(
        [sys.executable, f"launch/{script}.py", *args],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )


def launch(script, *args):
    result = launch_script(script, *args)
    return result.returncode, result.stderr


@pytest.mark.parametrize(
    ("args", "code", "match"),
    [
        (["train", "--config=configs/smoke.py", "--workdir={tmp}", "--config.sede=1"], 2, "sede"),
        (["train", "--config=configs/smoke.py", "--workdir={tmp}", "--config.seed=abc"], 2, "seed"),
        (
            ["train", "--config=configs/easy_vqa.py:vicuna", "--workdir={tmp}"],
            2,
            "the argument is mmfuser, llava, base, lora, qlora",
        ),
        (["train", "--config=configs/smoke.py"], 2, "workdir"),
        (["chat", "--model={tmp}", "--prompt", "what", "color"], 2, "'color' belongs to no flag"),
        (
            ["train", "--config=configs/smoke.py", "--workdir={tmp}", "--config.dtype=int7"],
            1,
            "config.dtype='int7' is not one of",
        ),
        (
            [
                "train",
                "--config=configs/smoke.py",
                "--workdir={tmp}",
                "--config.stages.encoder.sources.data.source=coco",
            ],
            1,
            "coco",
        ),
        (["chat", "--model={tmp}", "--prompt=hi"], 1, "no model.json here"),
        (["chat", "--model={tmp}", "--image=nowhere.png", "--prompt=hi"], 1, "nowhere.png: no such picture"),
        (["evaluate", "--model={tmp}", "--benchmark=coco"], 1, "no benchmark 'coco'"),
        (["convert", "--target={tmp}/out"], 2, "source"),
        (["convert", "--source={tmp}"], 1, "no --target given"),
        (["convert", "--source={tmp}", "--target={tmp}/out"], 1, "no weights here"),
        (["convert", "--source={tmp}/none", "--target={tmp}/out"], 1, "no such folder, and not a hub id"),
        (["convert", "--source=tests/golden/llava_tiny/mm_projector.bin", "--target={tmp}/out"], 1, "--allow_pickle"),
        (["convert", "--source=tests/golden/llava_tiny", "--target={tmp}/o", "--template=v9"], 1, "template 'v9'"),
        (["convert", "--source=tests/golden/llava_tiny", "--target={tmp}/out", "--to=gguf"], 2, "gguf"),
    ],
)
def test_mistakes_are_one_line(args, code, match, tmp_path):
    script, *flags = [arg.format(tmp=tmp_path) for arg in args]
    returned, stderr = launch(script, *flags)
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert returned == code, stderr
    assert "Traceback" not in stderr
    assert match in stderr
    assert len([line for line in lines if line.startswith("error:")]) == 1, stderr


def test_debug_shows_the_traceback(tmp_path):
    code, stderr = launch("chat", f"--model={tmp_path}", "--prompt=hi", "--debug")
    assert code == 1
    assert "Traceback" in stderr
    assert "ModelFolderError" in stderr


def test_a_checkpoint_goes_in_answers_and_comes_out(tmp_path):
    """The README's three commands on a PyTorch folder with a tokenizer."""
    source, ours, out = tmp_path / "source", tmp_path / "ours", tmp_path / "out"
    shutil.copytree(GOLDEN / "mmfuser_tiny", source)
    shutil.copy(GOLDEN / "text" / "tokenizer.model", source)
    code, stderr = launch("convert", f"--source={source}", f"--target={ours}", "--to=orbax", "--verify")
    assert code == 0, stderr
    picture = GOLDEN / "text" / "images" / "1_100x40.png"
    flags = [f"--image={picture}", "--prompt=What is this?", "--max_new_tokens=6", "--dtype=bfloat16"]
    answers = [output(launch_script("chat", f"--model={model}", *flags)) for model in (source, ours)]
    assert answers[0] == answers[1] != ""
    code, stderr = launch("convert", f"--source={ours}", f"--target={out}", "--to=llava")
    assert code == 0, stderr
    before, after = (load_file(folder / "model.safetensors") for folder in (source, out))
    assert {key: x.tobytes() for key, x in before.items()} == {key: x.tobytes() for key, x in after.items()}
    assert (out / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()


def output(result):
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
