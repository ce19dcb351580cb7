"""Scores, reports, pictures, and a whole small run through the facade and the chat."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import mmfuser_jax as mm
from configs import common
from mmfuser_jax.checkpoint import CheckpointError
from mmfuser_jax.data.sources import SourceSpec, open_source
from mmfuser_jax.evaluate import plots, report
from mmfuser_jax.evaluate.benchmarks import run_benchmark
from mmfuser_jax.evaluate.runner import Prediction
from mmfuser_jax.evaluate.scorers import exact_match
from mmfuser_jax.jobs.ablation import run_ablation
from mmfuser_jax.jobs.main import train_and_evaluate
from mmfuser_jax.model_folder import ModelFolderError
from mmfuser_jax.serve.chat import Chat
from tests.test_sinks import board
from tests.test_train import tiny_run

pytestmark = pytest.mark.usefixtures("compiled_once")


def prediction(truth, answer, kind="color", image=None):
    return Prediction("r", image, "what?", truth, answer, {"type": kind})


def test_exact_match_counts_by_type_and_answer():
    scores = exact_match(
        [
            prediction("red", "Red "),
            prediction("red", "blue"),
            prediction("yes", "yes", "yes/no"),
            prediction("no", "", "yes/no"),
        ]
    )
    assert scores["accuracy"] == 0.5
    assert scores["count"] == 4
    assert scores["by_type"] == {"color": {"accuracy": 0.5, "count": 2}, "yes/no": {"accuracy": 0.5, "count": 2}}
    assert scores["by_answer"]["no"] == {"accuracy": 0.0, "count": 1}
    with pytest.raises(ValueError, match="nothing to score"):
        exact_match([])


def test_table_and_files(tmp_path, capsys):
    predictions = [prediction("red", "red"), prediction("red", "blue")]
    report.print_table(exact_match(predictions), "title")
    assert "50.00 %" in capsys.readouterr().out
    report.write_predictions(tmp_path / "p.jsonl", predictions)
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in rows] == [True, False]


def is_drawn(path):
    pixels = np.asarray(Image.open(path).convert("L"))
    return min(pixels.shape) > 100 and pixels.std() > 5


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A trained and evaluated tiny model; the test split is cut to its first pictures."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_run(
        steps=4, test=common.source("easy_vqa/questions", "validation"), validation_records=5, validate_every=2
    )
    config.max_new_tokens = 3
    train_and_evaluate(config.to_dict(), folder)
    return folder


def test_a_run_leaves_scores_and_pictures(workdir):
    scores = json.loads((workdir / "eval.json").read_text())
    expected = sum(len(record.conversations) for record in open_source(SourceSpec("easy_vqa/questions", "validation")))
    assert scores["count"] == expected == sum(share["count"] for share in scores["by_answer"].values())
    assert {"accuracy", "by_type", "by_answer", "train_seconds", "fused_share"} <= set(scores)
    assert scores["train_seconds"] > 0
    assert len((workdir / "predictions.jsonl").read_text().splitlines()) == expected
    for name in ("curves", "predictions", "fuser"):
        assert is_drawn(workdir / f"{name}.png"), name
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    validations = [row for row in rows if "validation" in row]
    assert [row["step"] for row in validations] == [2, 4]
    for row in validations:
        assert {"accuracy", "count", "loss", "token_accuracy", "tokens"} <= set(row["validation"])
        assert "answers" not in row["validation"], "a picture is no number"
        assert 0 < row["validation"]["loss"] < 10
    drawn = [(step, size) for step, tag, size in board(workdir) if tag == "validation/answers"]
    assert [step for step, _ in drawn] == [2, 4]
    assert min(min(size) for _, size in drawn) > 200


def test_evaluating_the_folder_gives_the_same_scores(workdir, tmp_path):
    scores = run_benchmark(workdir, "easy_vqa", "validation", tmp_path, max_new_tokens=3)
    saved = json.loads((workdir / "eval.json").read_text())
    assert scores["by_answer"] == saved["by_answer"]
    assert (tmp_path / "predictions.jsonl").read_text() == (workdir / "predictions.jsonl").read_text()
    with pytest.raises(ValueError, match="no benchmark 'coco'; there are easy_vqa"):
        run_benchmark(workdir, "coco", "test", tmp_path, 3)


def test_the_facade_answers_by_text_and_by_ids(workdir):
    vlm = mm.load(workdir)
    image = Image.open(open_source(SourceSpec("easy_vqa/questions", "test"))[0].images[0])
    answers = vlm.generate(["what color is the shape?", "yes?"], [image, None], max_new_tokens=3)
    assert [type(answer) for answer in answers] == [str, str]
    assert vlm.generate(["what color is the shape?"], [image], max_new_tokens=3) == answers[:1]
    config = vlm.model.config
    pixels = mm.data.preprocess_image(image, vlm.card.aspect, 32, config.image_mean, config.image_std)[None]
    prompt = mm.data.encode_prompt([mm.data.Turn("human", "<image>\nwhat color is the shape?")], vlm.tokenizer, "short")
    ids = vlm.generate_ids(prompt[None], pixels, max_new_tokens=3)
    assert vlm.tokenizer.decode(ids[0]) == answers[0]
    logits = vlm.logits(prompt[None], pixels)
    assert logits.shape == (1, len(prompt) + 15, 128)
    if ids[0]:
        assert logits[0, -1].argmax() == ids[0][0]
    with pytest.raises(ValueError, match="1 image markers for 0 pictures"):
        vlm.logits(prompt[None])
    with pytest.raises(ValueError, match="1 image markers for 0 pictures"):
        vlm.generate_ids(prompt[None])
    with pytest.raises(ValueError, match="2 prompts for 1 image"):
        vlm.generate(["a", "b"], [None])


def test_a_folder_without_tokenizer_still_works_on_ids(workdir, tmp_path):
    for name in ("model.json", "checkpoints"):
        (tmp_path / name).symlink_to(workdir / name)
    vlm = mm.load(tmp_path)
    assert len(vlm.generate_ids(np.array([[1, 5, 6]]), max_new_tokens=4)[0]) == 4
    with pytest.raises(ValueError, match="no tokenizer"):
        vlm.generate(["hi"], [None])


def test_loading_mistakes_are_named(workdir, tmp_path):
    with pytest.raises(ModelFolderError, match=r"no model\.json here"):
        mm.load(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint of step 7"):
        mm.load(workdir, step=7)
    (tmp_path / "model.json").write_text('{"config": {"vision": {"widht": 3}}}')
    with pytest.raises(ModelFolderError, match=r"model\.json: model\.vision has no field widht"):
        mm.load(tmp_path)


def test_chat_keeps_or_forgets_history(workdir):
    vlm = mm.load(workdir)
    assert not vlm.card.history  # easy-VQA asks single questions
    vlm.card = dataclasses.replace(vlm.card, history=True)
    image = Image.open(open_source(SourceSpec("easy_vqa/questions", "test"))[0].images[0])
    seen = []
    answer = vlm.answer
    vlm.answer = lambda conversations, images, **options: (
        seen.append(len(conversations[0])) or answer(conversations, images, **options)
    )
    chat = Chat(vlm, image, max_new_tokens=2)
    chat.ask("what color is the shape?")
    chat.ask("what shape?")
    chat.reset()
    chat.ask("is there a red shape?")
    assert seen == [1, 3, 1]
    vlm.card = mm.load(workdir).card
    alone = Chat(vlm, image, max_new_tokens=2)
    alone.ask("what shape?")
    alone.ask("what shape?")
    assert seen == [1, 3, 1, 1, 1]


def test_ablation_trains_both_arms_from_one_base(tmp_path):
    on = tiny_run(steps=4, test=common.source("easy_vqa/questions", "validation"), max_new_tokens=2)
    off = on.copy_and_resolve_references()
    off.model.fuser = None
    off.stages.encoder.rules = ((".*", 1e-3),)
    result = run_ablation(off.to_dict(), on.to_dict(), tmp_path, [0])
    assert [(run["seed"], run["fuser"]) for run in result["runs"]] == [(0, "off"), (0, "on")]
    assert result["runs"][0]["fused_share"] == 0
    accuracy = [run["accuracy"] for run in result["runs"]]
    assert result["difference"]["mean"] == pytest.approx(accuracy[1] - accuracy[0])
    before = (tmp_path / "seed0" / "fuser_on" / "eval.json").stat().st_mtime_ns
    assert run_ablation(off.to_dict(), on.to_dict(), tmp_path, [0]) == result
    assert (tmp_path / "seed0" / "fuser_on" / "eval.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="once without and once with a fuser"):
        run_ablation(on.to_dict(), on.to_dict(), tmp_path, [0])


def test_drawn_predictions_are_the_same_questions_whatever_the_answers():
    images = [record.images[0] for record in open_source(SourceSpec("easy_vqa/questions", "validation"))][:9]
    right = [prediction("yes", "yes", image=image) for image in images]
    wrong = [dataclasses.replace(p, answer="no, by no means, " * 9) for p in right]
    drawn = [plots.draw_predictions(predictions, count=4) for predictions in (right, wrong)]
    assert all(pixels.dtype == np.uint8 and pixels.shape[2] == 3 for pixels in drawn)
    bottom = slice(-150, None)  # the pictures; above them is the text
    np.testing.assert_array_equal(drawn[0][bottom], drawn[1][bottom])
    assert drawn[0].shape != drawn[1].shape, "a long answer takes more lines"
    other = plots.draw_predictions(right[::-1], count=4)
    assert not np.array_equal(other[bottom], drawn[0][bottom])
    text_only = plots.draw_predictions([prediction("red", "red")])
    assert (text_only < 128).any()
