"""Sources of records by name: files of rows, folders, the MMInstruct release, mixtures and tables."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from mmfuser_jax.data.llava_rows import resolve_image
from mmfuser_jax.data.records import RecordError
from mmfuser_jax.data.sources import Concatenation, Subset, check_images, expand_braces
from tests.llava_files import ids, opened, row, write_lines


def test_image_folders_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "rows.jsonl", [row(1, image="cats/./b/../a.jpg")])
    image = opened("rows.jsonl")[0].images[0]
    assert image.absolute() == tmp_path / "cats/a.jpg"
    assert resolve_image("/etc/a.jpg", Path("/"), "1") == Path("/etc/a.jpg")


def test_several_files_are_one_source(tmp_path):
    for name, count in (("b.jsonl", 2), ("a.jsonl", 3), ("empty.jsonl", 0), ("c.jsonl", 1)):
        write_lines(tmp_path / name, [row(None) for _ in range(count)])
    (tmp_path / "d.json").write_text(json.dumps([row(None)]))
    source = opened(tmp_path)
    assert ids(source) == ["a.jsonl:0", "a.jsonl:1", "a.jsonl:2", "b.jsonl:0", "b.jsonl:1", "c.jsonl:0", "d.json:0"]
    assert source[-1].id == "d.json:0"
    with pytest.raises(IndexError):
        source[7]
    subset = Subset(source, np.array([6, 0]))
    assert ids(subset) == ["d.json:0", "a.jsonl:0"]
    assert subset.fingerprint() != Subset(source, np.array([0, 6])).fingerprint()
    json.dumps(subset.fingerprint())
    assert ids(opened(tmp_path / "{c,b}.jsonl")) == ["c.jsonl:0", "b.jsonl:0", "b.jsonl:1"]
    assert expand_braces("a_{1,2}/{x,y}.json") == ["a_1/x.json", "a_1/y.json", "a_2/x.json", "a_2/y.json"]
    assert ids(pickle.loads(pickle.dumps(subset))) == ids(subset)


def test_the_release_of_mminstruct(tmp_path):
    write_lines(tmp_path / "jsons_all/qa_en.jsonl", [row(None, image="posters/1.jpg")])
    write_lines(tmp_path / "jsons_all/caption_cn.jsonl", [row(7, question="描述这张图片", answer="图中有一只猫")])
    write_lines(tmp_path / "jsons_per_domain/qa_per_domain/posters_en.jsonl", [row(8), row(9)])
    whole = opened(tmp_path)
    assert isinstance(whole, Concatenation)
    assert ids(whole) == ["7", "qa_en.jsonl:0"]
    assert whole[0].tags == ({"domain": "cats", "language": "zh", "type": "caption"},)
    assert whole[1].images == (tmp_path / "posters/1.jpg",)
    (tmp_path / "images").mkdir()
    for place in (".", "jsons_all", "jsons_all/qa_en.jsonl"):
        assert opened(tmp_path / place)[-1].images == (tmp_path / "images/posters/1.jpg",)
    for place in ("jsons_per_domain", "jsons_per_domain/qa_per_domain"):
        assert ids(opened(tmp_path / place)) == ["8", "9"]
        assert opened(tmp_path / place)[0].images == (tmp_path / "images/cats/a.jpg",)
    assert opened(tmp_path, image_folder="/data")[1].images[0].as_posix() == "/data/posters/1.jpg"


def test_what_cannot_be_opened_is_said_in_a_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no data source .*empty'; there are easy_vqa/questions.*tfds:NAME.*parquet"):
        opened(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        opened(tmp_path / "none.jsonl")
    write_lines(tmp_path / "rows.jsonl", [row(1)])
    with pytest.raises(ValueError, match=r"rows\.jsonl: files of rows have one split, 'train', and no 'test'"):
        opened(tmp_path / "rows.jsonl", split="test")
    with pytest.raises(ValueError, match="easy_vqa/questions has its pictures with it"):
        opened("easy_vqa/questions", image_folder="x")


def test_a_wrong_image_folder_is_found_early(tmp_path):
    broken = row(1) | {"conversations": 3}
    rows = [broken, row(2, image=None), *[row(i, image=f"cats/{i}.jpg") for i in range(3, 40)]]
    source = opened(write_lines(tmp_path / "rows.jsonl", rows))
    with pytest.raises(ValueError, match=r"no picture .*/cats/\d+\.jpg, .*set image_folder"):
        check_images(source)
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/39.jpg").touch()
    check_images(source)
    check_images(opened(write_lines(tmp_path / "texts.jsonl", rows[:2])))
    check_images(opened(write_lines(tmp_path / "none.jsonl", [])))


@pytest.mark.parametrize(
    ("strategy", "taken"),
    [("all", range(10)), ("first:3", range(3)), ("end:2", [8, 9]), ("first:21%", range(3)), ("end:99", range(10))],
)
def test_mixtures_take_parts(tmp_path, strategy, taken):
    write_lines(tmp_path / "rows/a.jsonl", [row(i) for i in range(10)])
    (tmp_path / "mix.yaml").write_text(f'datasets:\n- {{json_path: rows/a.jsonl, sampling_strategy: "{strategy}"}}\n')
    assert ids(opened(tmp_path / "mix.yaml")) == [str(i) for i in taken]


def test_mixtures_join_entries_and_draw_alike_in_every_run(tmp_path):
    for name in ("a_1", "a_2", "b"):
        write_lines(tmp_path / f"{name}.jsonl", [row(f"{name}:{i}") for i in range(20)])
    text = (
        "datasets:\n"
        "- json_path: a_{1,2}.jsonl\n  sampling_strategy: random:25%\n  image_folder: pictures\n"
        f"- json_path: {tmp_path}/b.jsonl\n"
    )
    (tmp_path / "mix.yml").write_text(text)
    first, again = opened(tmp_path / "mix.yml", image_folder="/else"), opened(tmp_path / "mix.yml")
    drawn = ids(first)[:10]
    assert len(set(drawn)) == 10
    assert {name.split(":")[0] for name in drawn} == {"a_1", "a_2"}
    assert ids(first) == ids(again) == drawn + [f"b:{i}" for i in range(20)]
    assert first[0].images == (tmp_path / "pictures/cats/a.jpg",)
    assert first[10].images[0].as_posix() == "/else/cats/a.jpg"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("datasets: [", "not YAML"),
        ("- a.json", "expected a list of entries"),
        ("datasets: []", "expected a list of entries"),
        ("datasets: [3]", "entry 0: expected fields with texts"),
        ("datasets: [{json_path: 3}]", "entry 0: expected fields with texts"),
        ("datasets: [{sampling_strategy: all}]", "entry 0: no json_path"),
        ("datasets: [{json_path: a.jsonl, path: x}]", "entry 0: unknown field 'path'"),
        ("datasets: [{json_path: a.jsonl}, {json_path: b.jsonl}]", r"entry 1: .*b\.jsonl"),
        ("datasets: [{json_path: mix.yaml}]", r"entry 0: mix\.yaml is itself a mixture"),
        ("datasets: [{json_path: a.jsonl, sampling_strategy: some}]", "entry 0: sampling_strategy 'some' is not all"),
        ("datasets: [{json_path: a.jsonl, sampling_strategy: 'end:0'}]", "entry 0: .*must take 1 row"),
        ("datasets: [{json_path: a.jsonl, sampling_strategy: 'first:101%'}]", "entry 0: .*1% to 100%"),
    ],
)
def test_wrong_mixtures_are_named_by_file_and_entry(tmp_path, text, match):
    write_lines(tmp_path / "a.jsonl", [row(1)])
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"mix\.yaml: {match}"):
        opened(tmp_path / "mix.yaml")


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A Hugging Face table of two rows with pictures as bytes, one of text, and one that is broken."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    pictures = [{"bytes": b"no png", "path": "maps/1.png"}, {"bytes": b"png", "path": None}, None, None]
    turns = [row(i, image=picture)["conversations"] for i, picture in enumerate(pictures[:3])] + [[]]
    features = datasets.Features({
        "id": datasets.Value("int64"),
        "image": datasets.Image(),
        "conversations": [{"from": datasets.Value("string"), "value": datasets.Value("string")}],
        "tags": {"domain": datasets.Value("string")},
    })  # fmt: skip
    tags = [{"domain": "maps"}, {"domain": None}, {"domain": None}, None]
    columns = {"id": [5, 6, 7, None], "image": pictures, "conversations": turns, "tags": tags}
    return datasets.Dataset.from_dict(columns, features=features)


def check_table(source, name):
    assert len(source) == 4
    record = source[0]
    assert (record.id, record.images) == ("5", (b"no png",))
    assert record.tags[0]["domain"] == "maps"  # the column "tags" says so: datasets keep only the names of pictures
    assert "domain" not in source[2].tags[0]
    assert source[1].images == (b"png",)
    assert source[2].images == ()
    with pytest.raises(RecordError, match=rf"record {name}:3: empty conversation"):
        source[-1]
    assert ids(Subset(pickle.loads(pickle.dumps(source)), np.array([1, 0]))) == ["6", "5"]
    json.dumps(source.fingerprint())


def test_saved_tables(tmp_path, table):
    import datasets

    table.save_to_disk(tmp_path / "one")
    check_table(opened(tmp_path / "one"), "one")
    datasets.DatasetDict({"train": table, "test": table.select([2])}).save_to_disk(tmp_path / "two")
    check_table(opened(tmp_path / "two"), "two")
    test = opened(tmp_path / "two", split="test")
    assert ids(test) == ["7"]
    assert test.fingerprint() != opened(tmp_path / "two").fingerprint()
    with pytest.raises(ValueError, match="two has no split 'val'; it has train, test"):
        opened(tmp_path / "two", split="val")
    (tmp_path / "one/state.json").write_text("{")
    with pytest.raises(ValueError, match="one: not a dataset written by save_to_disk"):
        opened(tmp_path / "one")


def test_parquet(tmp_path, table):
    (tmp_path / "hub/data").mkdir(parents=True)
    table.to_parquet(tmp_path / "rows.parquet")
    check_table(opened(tmp_path / "rows.parquet"), "rows.parquet")
    for index in range(2):
        table.select([2 * index, 2 * index + 1]).to_parquet(tmp_path / f"hub/data/train-0000{index}-of-00002.parquet")
    table.select([1]).to_parquet(tmp_path / "hub/data/test-00000-of-00001.parquet")
    check_table(opened(tmp_path / "hub"), "hub")
    assert ids(opened(tmp_path / "hub", split="test")) == ["6"]
    with pytest.raises(ValueError, match="hub has no split 'val'; it has test, train"):
        opened(tmp_path / "hub", split="val")
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        opened(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"bad\.parquet: not readable as parquet"):
        opened(tmp_path / "bad.parquet")
