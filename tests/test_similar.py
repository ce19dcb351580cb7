"""A domain grows by the pictures of a pool that look like its own: exact search, embeddings computed once."""

import dataclasses
import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

import mmfuser_jax as mm
from mmfuser_jax import model_folder, presets
from mmfuser_jax.convert import ConversionError
from mmfuser_jax.mminstruct.config import PictureSource
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.pictures import embeddings, similar
from mmfuser_jax.mminstruct.pictures.collect import collect
from mmfuser_jax.mminstruct.pictures.embeddings import embed
from mmfuser_jax.mminstruct.pictures.encoder import load_encoder
from mmfuser_jax.mminstruct.pictures.similar import POOLS, similar_candidates, top_k
from mmfuser_jax.mminstruct.project import CONFIG, Project, ProjectError, init_project
from mmfuser_jax.mminstruct.schema import ImageRow
from mmfuser_jax.model_folder import ModelCard
from mmfuser_jax.models import VLM
from tests.helpers import random_params
from tests.nursery import nursery
from tests.test_evaluate import is_drawn
from tests.torch_folders import LLAVA, clip_folder, llm_folder, to_ours, write_params

COLOURS = {"red": (220, 30, 30), "green": (30, 190, 60), "blue": (40, 60, 220), "yellow": (235, 215, 40)}


def model_of(folder, seed=0):
    """A small model with random weights."""
    write_params(folder, random_params(VLM(presets.tiny()), seed))
    model_folder.write_card(folder, ModelCard(presets.tiny(), "v1", "pad"))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_of(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def encoder(model):
    return load_encoder(model)


def shape(colour, seed):
    """Boxes of one colour, somewhere on white."""
    rng = np.random.default_rng([seed, list(COLOURS).index(colour)])
    picture = Image.new("RGB", (128, 128), "white")
    for _ in range(6):
        left, top, width, height = rng.integers((0, 0, 24, 24), (90, 90, 60, 60)).tolist()
        shade = np.clip(np.add(COLOURS[colour], rng.integers(-20, 20, 3)), 0, 255)
        ImageDraw.Draw(picture).rectangle((left, top, left + width, top + height), tuple(shade.tolist()))
    return picture


def copies(picture):
    return {
        "turned": picture.rotate(90),
        "cropped": picture.crop((8, 8, 120, 120)),
        "brightened": ImageEnhance.Brightness(picture).enhance(1.15),
    }


def pool_of(folder):
    """Copies of one picture of each colour, and as many others."""
    folder.mkdir(parents=True)
    for colour in COLOURS:
        for name, copy in copies(shape(colour, 1)).items():
            copy.save(folder / f"{colour}_{name}.png")
    rng = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(folder / f"noise_{index}.png")
    return folder


def stamps(folder):
    found = sorted(folder.rglob("*.png"))
    return {path: f"{path.stat().st_size} {path.stat().st_mtime_ns}" for path in found}


@pytest.fixture
def embedded(monkeypatch, encoder):
    """Numbers of pictures that were embedded, call by call."""
    counts = []
    before = type(encoder).embed
    monkeypatch.setattr(type(encoder), "embed", lambda self, pixels: counts.append(len(pixels)) or before(self, pixels))
    return counts


def brute_force(queries, pool, k):
    scores = queries.astype(np.float32) @ pool.astype(np.float32).T
    places = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, places, 1), places


@pytest.mark.parametrize(("count", "k", "block"), [(1000, 50, 96), (1000, 200, 96), (1000, 7, 250), (40, 60, 65536)])
def test_the_search_is_exact_and_of_equal_ones_takes_the_first(count, k, block):
    rng = np.random.default_rng(count + k)
    pool, queries = (rng.integers(-2, 3, (rows, 6)).astype(np.float16) for rows in (count, 5))
    scores, places = top_k(queries, pool, k, block=block)
    expected_scores, expected = brute_force(queries, pool, k)
    assert places.shape == (5, min(k, count))
    assert (np.diff(expected_scores, axis=1) == 0).any(), "no equal ones to be put in order"
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(scores, expected_scores)
    assert (top_k(queries, pool[::-1].copy(), k, block=block)[1] != places).any()
    queries, pool = -abs(queries) - 1, abs(pool) + 1  # all products below those with rows of zeros
    np.testing.assert_array_equal(top_k(queries, pool, k, block=block)[1], brute_force(queries, pool, k)[1])


def test_the_search_takes_many_queries_and_empty_pools(monkeypatch):
    monkeypatch.setattr(similar, "QUERIES", 4)
    rng = np.random.default_rng(0)
    pool, queries = rng.standard_normal((300, 16)).astype(np.float16), rng.standard_normal((11, 16))
    np.testing.assert_array_equal(top_k(queries, pool, 9, block=64)[1], brute_force(queries, pool, 9)[1])
    assert top_k(queries, pool[:0], 3)[1].shape == (11, 0)
    assert top_k(queries[:0], pool, 3)[1].shape == (0, 3)


def test_only_a_block_of_the_pool_is_on_the_device(monkeypatch):
    pool, seen = np.ones((1000, 4), np.float16), []
    better = similar._better
    monkeypatch.setattr(similar, "_better", lambda *args: seen.append(args[1].shape) or better(*args))
    top_k(np.ones((2, 4)), pool, 3, block=96)
    assert set(seen) == {(96, 4)}
    assert len(seen) == 11


def test_turned_cropped_and_brightened_copies_are_found_before_others(tmp_path, encoder):
    pool = embed(tmp_path / "cache", stamps(pool_of(tmp_path / "pool")), encoder)
    for colour in COLOURS:
        shape(colour, 1).save(tmp_path / f"{colour}.png")
    asked = embed(tmp_path / "asked", {tmp_path / f"{colour}.png": "1" for colour in COLOURS}, encoder)
    np.testing.assert_allclose(np.linalg.norm(asked.embeddings.astype(np.float32), axis=1), 1, atol=2e-3)

    def found(queries):
        places = top_k(queries, pool.embeddings, 3)[1]
        return {colour: {pool.files[place].stem for place in row} for colour, row in zip(COLOURS, places, strict=True)}

    expected = {colour: {f"{colour}_{name}" for name in ("turned", "cropped", "brightened")} for colour in COLOURS}
    assert found(asked.embeddings) == expected
    assert not any(found(-asked.embeddings)[colour] & expected[colour] for colour in COLOURS)


def test_an_embedding_is_the_mean_of_the_patches_that_the_model_reads(tmp_path, model, encoder):
    vlm = mm.load(model)
    deepest = max(vlm.card.config.states)
    assert vlm.card.config.vision.state_index(vlm.card.config.select_layer) == deepest
    patches = np.asarray(vlm.visual_features([shape("red", 2)]).query)[0]
    mean = patches.mean(axis=0)
    (pixels,) = encoder.images.picture(shape("red", 2)).pixels
    embedding = encoder.embed(pixels[None])
    assert embedding.dtype == np.float16
    np.testing.assert_allclose(embedding[0], mean / np.linalg.norm(mean), atol=1e-3)


def test_every_folder_with_a_vision_encoder_will_do(tmp_path):
    clip = clip_folder(tmp_path / "clip", whole=True)
    part = to_ours(clip, tmp_path / "part")
    whole = to_ours(LLAVA, tmp_path / "whole", scan=True)
    encoders = [load_encoder(folder) for folder in (clip, part, whole, LLAVA)]
    size = encoders[0].images.size
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    first, *others = (encoder.embed(pixels) for encoder in encoders)
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-3)
    held = sum(x.size for x in jax.tree.leaves(encoders[2]._params))
    assert held < sum(x.size for x in jax.tree.leaves(mm.load(whole).params))
    with pytest.raises(ConversionError, match="holds only llm, and no vision encoder"):
        load_encoder(llm_folder(tmp_path / "llm"))
    with pytest.raises(model_folder.ModelFolderError, match="holds only llm"):
        load_encoder(to_ours(tmp_path / "llm", tmp_path / "llm_part"))


def test_again_only_what_is_new_or_has_changed_is_embedded(tmp_path, encoder, embedded):
    pool, cache = pool_of(tmp_path / "pool"), tmp_path / "cache"
    first = embed(cache, stamps(pool), encoder)
    assert sum(embedded) == 24
    embedded.clear()
    again = embed(cache, stamps(pool), encoder)
    assert not embedded
    assert again.files == first.files
    np.testing.assert_array_equal(again.embeddings, first.embeddings)
    shape("red", 7).save(pool / "new.png")
    shape("green", 7).save(pool / "noise_3.png")
    (pool / "noise_4.png").unlink()
    changed = embed(cache, stamps(pool), encoder)
    assert embedded == [2]
    assert set(first.files) - set(changed.files) == {pool / "noise_4.png"}
    before, after = (
        dict(zip(found.files, map(np.ndarray.tobytes, found.embeddings), strict=True)) for found in (first, changed)
    )
    assert {path for path in before.keys() & after.keys() if before[path] != after[path]} == {pool / "noise_3.png"}


def test_workers_change_nothing(tmp_path, encoder):
    known = stamps(pool_of(tmp_path / "pool"))
    alone, many = (embed(tmp_path / str(workers), known, encoder, workers) for workers in (1, 2))
    assert alone.files == many.files
    np.testing.assert_array_equal(alone.embeddings, many.embeddings)


def test_another_encoder_shares_nothing(tmp_path, model, encoder):
    assert load_encoder(model).fingerprint == encoder.fingerprint
    other = load_encoder(model_of(tmp_path / "other", seed=1))
    assert other.fingerprint != encoder.fingerprint
    squares = tmp_path / "squares"
    shutil.copytree(model, squares)
    model_folder.write_card(squares, dataclasses.replace(model_folder.read_card(model), aspect="square"))
    assert load_encoder(squares).fingerprint != encoder.fingerprint


def test_d9_pictures_that_cannot_be_opened_are_counted_with_a_reason_and_not_tried_again(
    tmp_path, encoder, embedded, caplog
):
    pool = pool_of(tmp_path / "pool")
    (pool / "broken.png").write_bytes(b"<html>not found</html>")
    gone = pool / "gone.png"
    known = {gone: "missing", **stamps(pool)}
    for _ in range(2):
        found = embed(tmp_path / "cache", known, encoder)
        assert len(found.files) == len(found.embeddings) == 24
        assert "pictures that cannot be compared: missing_image 1, bad_image 1 (the first: " in caplog.text
        caplog.clear()
    assert sum(embedded) == 24


def test_names_and_damage_of_files_are_survived(tmp_path, encoder, embedded, caplog):
    pool, cache = pool_of(tmp_path / "pool"), tmp_path / "cache"
    (pool / "red_turned.png").rename(os.fsdecode(os.fsencode(pool) + b"/\xff \xe7\xba\xa2.png"))
    found = embed(cache, stamps(pool), encoder)
    embedded.clear()
    assert embed(cache, stamps(pool), encoder).files == found.files
    assert not embedded
    (part,) = cache.glob("*.npz")
    content = part.read_bytes()
    flipped = content[:-3000] + bytes([content[-3000] ^ 1]) + content[-2999:]
    for damage in (content[:200], content[:-600] + bytes(600), flipped, b"", pickled(part)):
        part.write_bytes(damage)
        np.testing.assert_array_equal(embed(cache, stamps(pool), encoder).embeddings, found.embeddings)
        assert "damaged" in caplog.text
        assert sum(embedded) == 24
        embedded.clear()
        caplog.clear()


def pickled(part):
    """The same arrays, of which one needs pickle to be read."""
    with np.load(part) as arrays:
        held = dict(arrays)
    other = part.with_name("other")
    with other.open("wb") as file:
        np.savez(file, **held | {"files": held["files"].astype(object)})
    content = other.read_bytes()
    other.unlink()
    return content


MANY = 160


def embed_many(folder):
    """In a child: embeds a pool in parts of 16, slowly."""
    embeddings.PART = embeddings.BATCH = 16
    encoder = load_encoder(folder / "model")
    before = encoder.embed
    encoder.embed = lambda pixels: (time.sleep(0.05), before(pixels))[1]
    embed(folder / "cache", stamps(folder / "pool"), encoder)


def test_a_kill_costs_one_part(tmp_path, model, encoder, embedded, monkeypatch):
    monkeypatch.setattr(embeddings, "PART", 16)
    monkeypatch.setattr(embeddings, "BATCH", 16)
    shutil.copytree(model, tmp_path / "model")
    pool = tmp_path / "pool"
    pool.mkdir()
    for seed in range(MANY):
        shape(list(COLOURS)[seed % 4], seed).save(pool / f"{seed:03}.png")
    straight = embed(tmp_path / "straight", stamps(pool), encoder)
    assert embedded == [16] * 10
    embedded.clear()
    kills, cache = 0, tmp_path / "cache"
    with nursery("tests.test_similar", tmp_path) as children:
        for parts in (1, 4):
            child, deadline = children.begin("embed_many"), time.monotonic() + 120
            while len(list(cache.glob("*.npz"))) < parts and children.lives(child) and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(child, signal.SIGKILL)
            kills += children.end() == -signal.SIGKILL
        assert kills == 2, children.errors()
    there = len(list(cache.glob("*.npz")))
    assert 4 <= there < 10
    resumed = embed(cache, stamps(pool), encoder)
    assert embedded == [16] * (10 - there)
    assert resumed.files == straight.files
    np.testing.assert_allclose(resumed.embeddings, straight.embeddings, atol=1e-3)


def test_a_slow_encoder_writes_every_batch(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(embeddings, "SECONDS", 0.0)
    monkeypatch.setattr(embeddings, "BATCH", 10)
    known = stamps(pool_of(tmp_path / "pool"))
    slow = embed(tmp_path / "slow", known, encoder)
    assert len(list((tmp_path / "slow").iterdir())) == 3
    monkeypatch.setattr(embeddings, "SECONDS", 1e9)
    np.testing.assert_array_equal(embed(tmp_path / "quick", known, encoder).embeddings, slow.embeddings)
    assert len(list((tmp_path / "quick").iterdir())) == 1


def grown(tmp_path, model, pictures="pictures"):
    """A project with one picture each of red and green, and a pool beside it."""
    pictures = tmp_path / pictures
    pictures.mkdir(parents=True)
    for colour in ("red", "green"):
        shape(colour, 1).save(pictures / f"{colour}.png")
    folder = tmp_path / "project"
    project = init_project(folder, "tried", "posters", pictures)
    with Ledger(project.ledger) as ledger:
        collect(project, ledger)
    path = folder / CONFIG
    text = path.read_text()
    line = f"- {{domain: posters, folder: {pictures}}}"
    assert line in text
    added = f"{line}\n    - {{domain: posters, pool: ../pool, count: 3, checkpoint: {model}}}"
    path.write_text(text.replace(line, added))
    return Project(folder)


def similar_of(project, source=None, **options):
    with Ledger(project.ledger) as ledger:
        source = source or project.config.collect.sources[-1]
        return list(similar_candidates(project, ledger, source, **options))


def test_d7_d8_a_domain_grows_from_a_folder_of_one_s_own(tmp_path, model, caplog):
    pool = pool_of(tmp_path / "pool")
    project = grown(tmp_path, model)
    with caplog.at_level("INFO", "mmfuser_jax"):
        found = similar_of(project)
    names = {"turned", "cropped", "brightened"}
    assert {x.file.stem for x in found} == {f"{colour}_{name}" for colour in ("red", "green") for name in names}
    assert all(x.file.parent == pool and x.place == str(x.file) for x in found)
    assert "of 24 pictures in" in caplog.text
    assert "6 are most like its 2 (similarity " in caplog.text
    sheet = project.folder / "similar-posters.png"
    assert is_drawn(sheet)
    assert str(sheet) in caplog.text
    with Image.open(sheet) as drawn:
        assert drawn.size == (8 + 4 * 128, 8 + 2 * 144)  # a line for each of the two: itself, and three


def test_d9_pictures_that_several_are_like_come_once_and_the_most_similar_first(tmp_path, model):
    pool_of(tmp_path / "pool")
    project = grown(tmp_path, model)
    source = project.config.collect.sources[-1].model_copy(update={"count": 24})
    found = similar_of(project, source)
    assert len(found) == len({x.place for x in found}) == 24
    assert {x.file.stem.split("_")[0] for x in found[:6]} == {"red", "green"}
    assert [x.file.stem.split("_")[0] for x in found[:6]] != ["red"] * 3 + ["green"] * 3, "by query, not by similarity"


def test_d9_what_collect_takes_from_a_pool_keeps_its_format_and_is_no_beginning_for_more(tmp_path, model, embedded):
    pool = pool_of(tmp_path / "pool")
    with Image.open(pool / "red_turned.png") as picture:
        picture.save(pool / "red_turned.webp")
    (pool / "red_turned.png").unlink()
    project = grown(tmp_path, model)
    before = similar_of(project)
    for _ in range(2):
        with Ledger(project.ledger) as ledger:
            collect(project, ledger)
            taken = [row for row in ledger.rows(ImageRow, "state = 'kept'") if str(pool) in row.origin]
        assert {".webp", ".png"} == {row.suffix for row in taken}
        assert {row.origin for row in taken} <= {x.place for x in before}
        assert sum(embedded) == 26
    shutil.rmtree(project.folder / POOLS)
    assert similar_of(project) == before


def test_pictures_of_the_domain_within_the_pool_are_asked_for_and_not_found(tmp_path, model):
    pool_of(tmp_path / "pool")
    project = grown(tmp_path, model, "pool/own")
    shutil.copy(tmp_path / "pool" / "own" / "red.png", tmp_path / "pool" / "red_copy.png")
    found = {x.file.stem for x in similar_of(project)}
    assert "red_copy" in found
    assert "green_turned" in found
    assert not found & {"red", "green"}


def test_pictures_of_records_are_a_beginning_too(tmp_path, model):
    pool_of(tmp_path / "pool")
    project = grown(tmp_path, model)
    expected = {x.place for x in similar_of(project)}
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Boxes"}]
    rows = [{"id": name, "image": f"{name}.png", "conversations": turns} for name in ("red", "green")]
    (tmp_path / "pictures" / "rows.json").write_text(json.dumps(rows))
    path = project.folder / CONFIG
    path.write_text(path.read_text().replace("folder: ", "records: ").replace("pictures}", "pictures/rows.json}"))
    assert {x.place for x in similar_of(Project(project.folder))} == expected


def test_a_second_pool_has_a_sheet_of_its_own(tmp_path, model):
    pool_of(tmp_path / "pool")
    pool_of(tmp_path / "more")
    path = grown(tmp_path, model).folder / CONFIG
    line = f"    - {{domain: posters, pool: ../more, count: 1, checkpoint: {model}}}"
    path.write_text(path.read_text().replace("  hosts:", f"{line}\n  hosts:"))
    project = Project(path.parent)
    for source in project.config.collect.sources[1:]:
        similar_of(project, source)
    assert {sheet.name for sheet in project.folder.glob("*.png")} == {"similar-posters.png", "similar-posters-2.png"}


def test_mistakes_are_named(tmp_path, model, monkeypatch):
    project = grown(tmp_path, model)
    source = project.config.collect.sources[-1]
    with pytest.raises(ProjectError, match=r"pool: no such folder \(collect.sources, domain posters\)"):
        similar_of(project)
    pool_of(tmp_path / "pool")
    other = PictureSource(domain="landmark", pool="../pool", checkpoint=str(model))
    with pytest.raises(ProjectError, match="domain landmark: a pool needs pictures of the domain to begin with"):
        similar_of(project, other)
    monkeypatch.chdir(tmp_path)
    demo = source.model_copy(update={"checkpoint": ""})
    with pytest.raises(
        ProjectError, match="no encoder at runs/demo; give checkpoint, a model's folder, or run: make demo"
    ):
        similar_of(project, demo)
    shutil.copytree(model, tmp_path / "runs" / "demo")
    assert similar_of(project, demo) == [dataclasses.replace(x, source=demo) for x in similar_of(project)]
    with pytest.raises(ProjectError, match="domain posters: checkpoint: nowhere: no such folder"):
        similar_of(project, source.model_copy(update={"checkpoint": "nowhere"}))
    with pytest.raises(model_folder.ModelFolderError, match=r"no model\.json here"):
        similar_of(project, source.model_copy(update={"checkpoint": "images"}))
