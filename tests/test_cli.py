"""Launch scripts as users run them: one-line errors, no traceback, --debug shows it."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.test_resume import environment


def launch(script, *args):
    result = subprocess.run(
        [sys.executable, f"launch/{script}.py", *args],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.returncode, result.stderr


@pytest.mark.parametrize(
    ("args", "code", "match"),
    [
        (["train", "--config=configs/smoke.py", "--workdir={tmp}", "--config.sede=1"], 2, "sede"),
        (["train", "--config=configs/smoke.py", "--workdir={tmp}", "--config.seed=abc"], 2, "seed"),
        (
            ["train", "--config=configs/easy_vqa.py:vicuna", "--workdir={tmp}"],
            2,
            "the argument is mmfuser, llava or base",
        ),
        (["train", "--config=configs/smoke.py"], 2, "workdir"),
        (["chat", "--model={tmp}", "--prompt", "what", "color"], 2, "'color' belongs to no flag"),
        (
            ["train", "--config=configs/smoke.py", "--workdir={tmp}", "--config.dtype=int7"],
            1,
            "config.dtype='int7' is not one of",
        ),
        (["chat", "--model={tmp}", "--prompt=hi"], 1, "no model.json here"),
        (["chat", "--model={tmp}", "--image=nowhere.png", "--prompt=hi"], 1, "nowhere.png: no such picture"),
        (["evaluate", "--model={tmp}", "--benchmark=coco"], 1, "no benchmark 'coco'"),
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
