"""Synthetic MMInstruct-shaped data: the same bytes from the same seed, and answers that the pictures show."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mmfuser_jax.data.images import open_image
from mmfuser_jax.data.llava_rows import record_from_llava
from mmfuser_jax.synthetic import brands, charts, networks, pairs, sums
from mmfuser_jax.synthetic.canvas import rgb
from mmfuser_jax.synthetic.compose import Interview, rows_of_picture
from mmfuser_jax.synthetic.generate import generate
from mmfuser_jax.synthetic.phrases import SUFFIXES
from mmfuser_jax.synthetic.registry import DOMAINS
from mmfuser_jax.synthetic.words import LANGUAGES, both

SMALL = (300, 360)
KINDS = [(name, kind) for name, domain in DOMAINS.items() for kind in domain.kinds]


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of 600 rows: its folder, the counts, and all rows."""
    out = tmp_path_factory.mktemp("synthetic")
    counts = generate(out, rows=600, seed=3, image_size=SMALL)
    return out, counts, [row for path in sorted((out / "jsons_all").iterdir()) for row in lines(path)]


def test_bytes_depend_on_the_seed_only(made, tmp_path):
    for name, settings in {"one": {"workers": 1}, "two": {"workers": 2}, "seed": {"seed": 4}}.items():
        generate(tmp_path / name, rows=41, image_size=SMALL, **({"seed": 3} | settings))
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "seed"))
    assert one == two
    assert one != other
    large = digests(made[0])
    pictures = {name: digest for name, digest in one.items() if name.startswith("images")}
    assert pictures.items() <= large.items(), "a larger set begins with the smaller one"
    for path in (tmp_path / "one/jsons_all").iterdir():
        assert (made[0] / "jsons_all" / path.name).read_bytes().startswith(path.read_bytes())


def test_rows_are_valid_and_pictures_open(made):
    out, counts, rows = made
    assert len(rows) == len({row["id"] for row in rows}) == counts["rows"] == 600
    assert sum(counts[language] for language in LANGUAGES) == 600
    pictures = set()
    for row in rows:
        record = record_from_llava(row, "?", out / "images")
        assert record.tags == (row["tags"],) or record.tags[0].items() >= row["tags"].items()
        pictures.update(record.images)
    files = [path for path in (out / "images").rglob("*") if path.is_file()]
    assert pictures == set(files)
    assert counts["pictures"] == len(files)
    assert counts["bytes"] == sum(path.stat().st_size for path in files)
    assert {path.suffix for path in files} == {".jpg", ".png"}
    for path in files:
        with open_image(path) as image:
            image.load()
            assert min(image.size) >= SMALL[0] - 12


def test_the_release_layout(made):
    out, _, rows = made
    names = {"caption_cn.jsonl", "caption_en.jsonl", "qa_cn.jsonl", "qa_en.jsonl"}
    assert {path.name for path in (out / "jsons_all").iterdir()} == names
    for task in ("qa", "caption"):
        for path in (out / "jsons_per_domain" / f"{task}_per_domain").iterdir():
            domain, language = path.stem.rsplit("_", 1)
            expected = [
                row for row in lines(out / "jsons_all" / f"{task}_{language}.jsonl") if row["tags"]["domain"] == domain
            ]
            assert lines(path) == expected
            assert all(row["image"].startswith(f"{domain}/") for row in expected if isinstance(row["image"], str))
    assert len({row["tags"]["domain"] for row in rows}) == len(DOMAINS) == 24


def test_every_type_of_every_domain_occurs():
    """In both languages; what each row has to look like is checked on the way."""
    for name, domain in DOMAINS.items():
        seen = set()
        for number in range(40):
            rng = np.random.default_rng(number)
            kind = domain.kinds[number % len(domain.kinds)]
            facts = kind.facts(kind.scene(rng), rng)
            for row in rows_of_picture(name, domain.types, kind, facts, [f"{name}/1.jpg"], 4, rng):
                tags = row["tags"]
                seen.add((tags["type"], tags["language"]))
                language = LANGUAGES.index(tags["language"])
                for number_, turn in enumerate(row["conversations"]):
                    assert ("<image>" in turn["value"]) == (number_ == 0)
                    assert not set("{}|") & set(turn["value"])
                    if turn["from"] == "human":
                        assert turn["value"].endswith(SUFFIXES[tags["type"]][language])
        assert seen == {(kind, language) for kind in domain.types for language in LANGUAGES}, name


@pytest.mark.parametrize(("name", "kind"), KINDS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(KINDS)])
def test_facts_and_words_fit(name, kind):
    """No wrong answer is right, all words are in the table and used, and no question has always the same answer."""
    answers, used = {}, set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        for fact in kind.facts(kind.scene(rng), rng):
            used.add(fact.key)
            for language in (0, 1):
                assert both(fact.answer)[language] not in [both(other)[language] for other in fact.others], fact
            if kind.asks[fact.key].question[0]:
                answers.setdefault(fact.key, Counter())[fact.answer] += 1
    assert used == set(kind.asks)
    assert {key for topic in kind.topics for key in topic.keys} | set(kind.told) <= used
    for key, counter in answers.items():
        assert counter.most_common(1)[0][1] <= 0.85 * counter.total(), f"{name}: {key} is nearly always the same"


def test_yes_and_no_and_letters_are_balanced():
    verdicts, letters, longest = Counter(), Counter(), Counter()
    for seed in range(500):
        rng = np.random.default_rng(seed)
        kind = KINDS[seed % len(KINDS)][1]
        interview = Interview(kind, kind.facts(kind.scene(rng), rng), rng)
        verdicts.update(answer.strip(".。") for _, answer, _ in interview.exchanges("judgement", seed % 2, 2))
        for question, answer, _ in interview.exchanges("choice", 0, 2):
            letters[answer[0]] += 1
            options = [line for line in question.split("\n") if line[:3] in ("A. ", "B. ", "C. ", "D. ")]
            assert [line[0] for line in options] == list("ABCD")
            assert len(set(options)) == 4
            longest[max(options, key=len)[0] == answer[0]] += 1
    assert 0.45 < (verdicts["Yes"] + verdicts["是"]) / verdicts.total() < 0.55
    assert all(0.2 < count / letters.total() < 0.3 for count in letters.values())
    assert longest[True] / longest.total() < 0.45, "the right option is not to be known by its length"


def near_color(canvas, paint, tolerance=4):
    """bool[height, width] where the picture has a colour."""
    pixels = np.asarray(canvas.image, np.int16)
    return (np.abs(pixels - np.array(rgb(paint))) <= tolerance).all(axis=2)


def runs(line):
    """Number of runs of true values."""
    padded = np.concatenate([[False], line])
    return int((padded[1:] & ~padded[:-1]).sum())


def answers_of(kind, scene, key):
    return [fact for fact in kind.facts(scene, np.random.default_rng(0)) if fact.key == key]


@pytest.mark.parametrize("seed", range(6))
def test_dots_in_logos_can_be_counted(seed):
    scene = brands.BRANDS.scene(np.random.default_rng(seed))
    canvas = brands.BRANDS.draw(scene, (700, 600), np.random.default_rng(0))[0]
    for i, fact in enumerate(answers_of(brands.BRANDS, scene, "dots")):
        x, y = canvas.at(26 + 48 * (i % 2), 20 + 48 * (i // 2))
        reach = round(5 * canvas.unit)
        inside = ~near_color(canvas, scene[i].tint, 40)[round(y), round(x) - reach : round(x) + reach]
        if scene[i].shape not in ("star", "cross", "triangle"):
            assert runs(inside) == int(fact.answer)


@pytest.mark.parametrize("seed", range(6))
def test_bars_are_as_high_as_told(seed):
    rng = np.random.default_rng(seed)
    scene = charts.CHART.scene(rng)
    while scene.form != "bar":
        scene = charts.CHART.scene(rng)
    canvas = charts.CHART.draw(scene, (600, 500), rng)[0]
    heights = np.array([near_color(canvas, tint).any(axis=1).sum() for tint in scene.tints])
    told = np.array([int(fact.answer) for fact in answers_of(charts.CHART, scene, "value")])
    np.testing.assert_allclose(heights, told * (0.74 * 500 / 9 / scene.step), atol=2)
    assert answers_of(charts.CHART, scene, "high")[0].answer == scene.names[int(heights.argmax())]


@pytest.mark.parametrize("seed", range(12))
def test_halves_differ_where_told(seed):
    scene = pairs.compare(np.random.default_rng(seed), separate=True)
    first, second = pairs.COMPARISON.draw(scene, (800, 500), np.random.default_rng(1))
    differs = (np.asarray(first.image) != np.asarray(second.image)).any(axis=2)
    count = 0
    for x, y in [*pairs.PLACES, (50, 90)]:
        column, row = (round(value) for value in first.at(x, y))
        count += bool(differs[max(0, row - 40) : row + 40, max(0, column - 55) : column + 55].any())
    assert answers_of(pairs.COMPARISON, scene, "count")[0].answer == str(count)
    rng = np.random.default_rng(2)
    facts = pairs.COMPARISON.facts(scene, rng)
    row = rows_of_picture("image_comparison", ("long",), pairs.COMPARISON, facts, ["a.jpg", "b.jpg"], 1, rng)[0]
    assert row["image"] == ["a.jpg", "b.jpg"]
    assert row["conversations"][0]["value"].count("<image>") == 2


@pytest.mark.parametrize("seed", range(8))
def test_the_shortest_way_by_relaxation(seed):
    scene = networks.NETWORK.scene(np.random.default_rng(seed))
    lengths = np.full((6, 6), 10**6)
    for (one, two), minutes in scene.minutes.items():
        if (one, two) != scene.closed:
            lengths[one, two] = lengths[two, one] = minutes
    for middle in range(6):
        lengths = np.minimum(lengths, lengths[:, middle, None] + lengths[None, middle])
    assert answers_of(networks.NETWORK, scene, "shortest")[0].answer == str(lengths[scene.start, scene.goal])


def test_clock_times():
    assert [sums.clock_text(minutes) for minutes in (0, 59, 60, 725, 780)] == [
        "12:00",
        "12:59",
        "1:00",
        "12:05",
        "1:00",
    ]


@pytest.mark.parametrize("defect", pairs.DEFECTS)
def test_a_defect_changes_the_picture(defect):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (64, 80, 3), np.uint8))
    spoilt = pairs.spoil(image, defect, rng, 4.0)
    assert spoilt.size == image.size
    assert np.abs(np.asarray(spoilt, float) - np.asarray(image)).mean() > 10


def test_refuses_what_cannot_be_meant(tmp_path):
    (tmp_path / "old.txt").write_text("kept")
    with pytest.raises(ValueError, match="is not an empty folder"):
        generate(tmp_path, rows=4)
    with pytest.raises(ValueError, match="at least 1"):
        generate(tmp_path / "new", rows=0)
    with pytest.raises(ValueError, match="text is unreadable"):
        generate(tmp_path / "new", rows=4, image_size=(100, 200))
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]
