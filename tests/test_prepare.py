"""Data before training: what an audit finds, and what a peek shows."""

import dataclasses
import io
import json
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image

from mmfuser_jax.data.records import RecordError
from mmfuser_jax.data.sources import SourceSpec
from mmfuser_jax.prepare.audit import audit
from mmfuser_jax.prepare.build import build
from mmfuser_jax.prepare.peek import peek
from mmfuser_jax.prepare.pictures import examine
from mmfuser_jax.prepare.plan import Options
from mmfuser_jax.prepare.spans import Kind
from tests.conftest import GOLDEN
from tests.test_cli import launch, launch_script


def picture(seed=0, size=(90, 60), mode="RGB", name="JPEG", **options):
    """Content of a picture file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, name, **options)
    return file.getvalue()


def sixteen_bit():
    file = io.BytesIO()
    Image.fromarray((np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)).save(file, "PNG")
    return file.getvalue()


def animated():
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "green", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(5, exif=exif)


def bomb():
    """A PNG that says it has 30,000 x 30,000 pixels."""
    content = bytearray(picture(6, name="PNG"))
    content[16:24] = (30_000).to_bytes(4, "big") * 2
    crc = zlib.crc32(bytes(content[12:29]))
    content[29:33] = crc.to_bytes(4, "big")
    return bytes(content)


GOOD = {
    "posters/plain.jpg": picture(1),
    "posters/cmyk.jpg": picture(2, mode="CMYK"),
    "ocr/sixteen.png": sixteen_bit(),
    "ocr/palette.png": picture(3, mode="P", name="PNG"),
    "ocr/turned.jpg": turned(),
    "writing/moving.gif": animated(),
    "writing/alpha.png": picture(4, mode="RGBA", name="PNG"),
}
BAD = {
    "posters/cut.jpg": (picture(7)[:-400], "bad_image"),
    "posters/empty.jpg": (b"", "bad_image"),
    "ocr/page.jpg": (b"<html>404</html>", "bad_image"),
    "ocr/cut.png": (picture(8, name="PNG")[:-3000], "bad_image"),
    "ocr/bomb.png": (bomb(), "image_size"),
    "ocr/missing.jpg": (None, "missing_image"),
}


def row(name, image, question="<image>\nWhat is this?", answer="A thing."):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": turns} | ({"image": image} if image else {})


@pytest.fixture(scope="module")
def mess(tmp_path_factory):
    """A source with every kind of bad row, and what is expected of it: {index: reason}."""
    folder = tmp_path_factory.mktemp("mess")
    for name, content in {**GOOD, **{name: content for name, (content, _) in BAD.items()}}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    shutil.copy(folder / "posters/plain.jpg", folder / "posters/same.jpg")
    lines, expected = [], {}

    def add(line, reason=None):
        if reason:
            expected[len(lines)] = reason
        lines.append(line if isinstance(line, str) else json.dumps(line))

    for name in GOOD:
        add(row(f"good {name}", name))
    for name, (_, reason) in BAD.items():
        add(row(f"bad {name}", name), reason)
    add('{"id": "torn", "image": ', "bad_json")
    add(row("roles", "posters/plain.jpg") | {"conversations": [{"from": "robot", "value": "hi"}]}, "roles")
    add(row("order", "posters/plain.jpg") | {"conversations": [{"from": "gpt", "value": "<image>"}]}, "alternation")
    add(row("markers", "posters/plain.jpg", question="no marker"), "image_markers")
    add(row("escape", "../secret.jpg"), "image_path")
    add(row("surrogate", "posters/plain.jpg", answer="\ud800"), "schema")
    add(row("two, one bad", ["posters/plain.jpg", "posters/cut.jpg"], question="<image><image> Same?"), "bad_image")
    add(row("text only", None, question="你好吗？", answer="我很好，谢谢。"))
    add(row("good posters/plain.jpg", "posters/same.jpg"))  # repeats the id, the words and the pixels of row 0
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return SourceSpec(str(folder / "rows.jsonl")), expected


def test_an_audit_finds_every_bad_row_and_every_oddity(mess, tmp_path):
    spec, expected = mess
    report = audit(spec, json_file=tmp_path / "report.json", plots=tmp_path / "plots")
    assert {entry["index"]: entry["reason"] for entry in report["rejected"]} == expected
    assert report["accepted"] == report["rows"] - len(expected) == len(GOOD) + 2
    assert report["reasons"]["bad_image"] == 5
    by_id = {entry["id"]: entry["detail"] for entry in report["rejected"]}
    assert "posters/cut.jpg: not a readable picture" in by_id["two, one bad"]
    assert "ocr/missing.jpg: no such picture" in by_id["bad ocr/missing.jpg"]
    notes = {name: count for name, count in report["pictures"]["notes"].items() if count}
    assert notes == {"turned": 1, "cmyk": 1, "16_bit": 1, "palette": 2, "alpha": 1, "frames": 1}
    assert report["domains"] == {"ocr": 3, "posters": 3, "writing": 2, "": 1}
    assert report["languages"]["zh"] == 1
    assert (report["pictures"]["count"], report["pictures"]["same_content"]) == (len(GOOD) + 1, 1)
    again = {"index": report["rows"] - 1, "id": "good posters/plain.jpg", "same_as": 0}
    assert report["duplicates"] == {key: {"count": 1, "listed": [again]} for key in ("id", "content")}
    assert json.loads((tmp_path / "report.json").read_text())["rejected"] == report["rejected"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} >= {"domains.png", "sizes.png", "refused.png"}
    for path in (tmp_path / "plots").iterdir():
        with Image.open(path) as plot:
            assert plot.width > 300


def test_an_audit_does_not_depend_on_its_workers(mess, tmp_path):
    spec, _ = mess
    for workers in "12":
        command = launch_script(
            "data", "audit", f"--source={spec.source}", f"--json={tmp_path / workers}", f"--workers={workers}"
        )
        assert command.returncode == 0, command.stderr
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_no_damage_to_a_picture_is_more_than_a_refusal(rng):
    """What is examined decodes, or is a RecordError."""
    refused = 0
    for content in (*GOOD.values(), bomb()):
        for _ in range(25):
            damaged = bytearray(content)
            for place in rng.integers(0, len(damaged), rng.integers(1, 12)):
                damaged[place] = rng.integers(0, 256)
            try:
                examine(bytes(damaged[: rng.integers(1, len(damaged) + 1)]))
            except RecordError:
                refused += 1
    assert refused > 50


def test_too_many_bad_rows_stop_a_build(mess, tmp_path):
    spec, expected = mess
    with pytest.raises(
        ValueError, match=r"59\.1 % of the rows cannot be used, 5 of 22 for bad_image, such as: record bad"
    ):
        build(spec, tmp_path, Options())
    assert len(expected) == 13
    with pytest.raises(ValueError, match="set image_folder to the folder"):
        build(dataclasses.replace(spec, image_folder=str(tmp_path)), tmp_path / "out", Options())
    assert not list(tmp_path.rglob("*.array_record*"))


def test_a_peek_shows_what_is_learnt(mess, tmp_path, capsys):
    spec, _ = mess
    cards = peek(spec, tmp_path / "peek.png", count=30, seed=1, tokenizer=str(GOLDEN / "text"), length=640)
    assert len(cards) == 9
    card = next(card for card in cards if card.title.startswith("good posters/cmyk"))
    text = "".join(span.text for span in card.conversations[0])
    assert text.startswith("<s>A chat between a curious user")
    assert text.endswith("USER: <image ×576>\nWhat is this? ASSISTANT: A thing.</s>")
    learnt = [span.text for span in card.conversations[0] if span.kind is Kind.LEARNT]
    cut = [span.text for span in card.conversations[0] if span.kind is Kind.CUT]
    assert "".join(learnt + cut).strip() == "A thing.</s>"
    plain = peek(spec, tmp_path / "plain.png", count=30, seed=1)
    (spans,) = next(card for card in plain if card.title.startswith("good posters/cmyk")).conversations
    assert [span.text for span in spans if span.kind is Kind.LEARNT] == [" A thing.</s>"]
    with Image.open(tmp_path / "peek.png") as image:
        assert image.width == 1500
    page = (tmp_path / "peek.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 8
    assert "&#20320;" in page
    assert "good writing/alpha.png" in capsys.readouterr().out


def test_commands_take_their_own_flags_only():
    assert launch("data")[1] == "error: give one command: audit, build, verify, peek, generate\n"
    assert launch("data", "audit", "--max_side=3", "--source=x")[1] == "error: audit has no flag --max_side\n"
    code, stderr = launch("data", "build", "--source=x")
    assert (code, stderr) == (2, "error: build needs --out\n")
