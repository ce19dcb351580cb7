"""Seeds of the reference's files come into our schema where they can, and the report names all the others."""

import json

import pytest

from mmfuser_jax.mminstruct.questions.items import TYPES
from mmfuser_jax.mminstruct.questions.reference_seeds import ReferenceSeedError, import_reference_seeds
from mmfuser_jax.mminstruct.questions.seed_questions import FOLDER, lint, load_domains

JUDGE = [
    ("Is the <object> made by <Specific brand>?", "这个<物体>是<Specific brand>生产的吗？"),
    ("Is it new?", "它是新的吗？"),
]
ASKED = [
    ("What colour is the sky?", "天空是什么颜色？"),
    ("Who made the <object1>?", "<object1>是谁做的？"),
    ("Where is <Object 1> relative to <Object 2>?", "<物体1>在<物体2>的什么地方？"),
    ("How many windows are there?", "有多少扇窗户？"),
    ("Describe the building.", "请描述这座建筑。"),
    ("Can you say who built it?", "你能说出是谁建造的吗？"),
]
GOOD = [
    "Is the {object} made by {brand}?", "Is it new?", "What colour is the sky?", "Who made the {object}?",
    "Where is {object} relative to {object2}?", "How many windows are there?", "Describe the building.",
    "Can you say who built it?",
]  # fmt: skip


def lists(pairs):
    return {"Chinese": [zh for _, zh in pairs], "English": [en for en, _ in pairs]}


def fields(**changes):
    return {"judge": lists(JUDGE), "choice": lists(ASKED[:4]), "sentence": lists(ASKED), **changes}


@pytest.fixture
def folder(tmp_path):
    """One good file."""
    path = tmp_path / "all_seed"
    path.mkdir()
    write(path / "00021_posters.json", fields())
    return path


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def taken(target):
    """Type → English seeds of the posters."""
    return {kind: [seed["en"] for seed in seeds] for kind, seeds in load_domains(target)["posters"].seeds.items()}


def test_a4_the_file_s_name_gives_the_domain_with_or_without_its_number(folder, tmp_path):
    import_reference_seeds(folder, tmp_path / "with")
    (folder / "00021_posters.json").rename(folder / "posters.json")
    import_reference_seeds(folder, tmp_path / "without")
    assert set(load_domains(tmp_path / "with")) == {"posters"}
    assert load_domains(tmp_path / "with") == load_domains(tmp_path / "without")


def test_a4_a_domain_that_there_is_not_is_reported(folder, tmp_path):
    write(folder / "00008_poster.json", fields())
    report = import_reference_seeds(folder, tmp_path / "target")
    assert f"{folder / '00008_poster.json'}: 'poster' is none of our domains" in report
    assert set(load_domains(tmp_path / "target")) == {"posters"}


def test_a2_seeds_are_found_under_all_names_that_the_reference_has_for_them(folder, tmp_path):
    write(folder / "00021_posters.json", {
        "judge": lists(JUDGE), "select": lists(ASKED[:2]), "shortsentence": lists(ASKED[2:4]),
        "longsentence": lists(ASKED[4:]),
    })  # fmt: skip
    assert import_reference_seeds(folder, tmp_path / "target") == []
    assert {kind: len(seeds) for kind, seeds in taken(tmp_path / "target").items()} == dict.fromkeys(TYPES, 2)


def test_a2_a_wrong_key_is_named_instead_of_leaving_no_seeds(folder, tmp_path):
    write(folder / "00018_landmark.json", {"judge": lists(JUDGE), "selct": lists(ASKED)})
    report = import_reference_seeds(folder, tmp_path / "target")
    assert f"{folder / '00018_landmark.json'}: selct: not known; there are judge, choice, select, sentence" in report[0]
    assert report[1].endswith("not taken at all, as no seed is left of choice, short, long")
    assert not (tmp_path / "target" / "landmark.yaml").exists()


def test_a_question_of_several_lists_is_taken_once(folder, tmp_path):
    report = import_reference_seeds(folder, tmp_path / "target")
    assert taken(tmp_path / "target") == {
        "judgement": ["Is the {object} made by {brand}?", "Is it new?"],
        "choice": ["What colour is the sky?", "Where is {object} relative to {object2}?"],
        "short": ["Who made the {object}?", "How many windows are there?"],
        "long": ["Describe the building.", "Can you say who built it?"],
    }
    assert [line.removeprefix(f"{folder / '00021_posters.json'}: ") for line in report] == [
        "sentence 1 (What colour is the sky?): taken as choice alone",
        "choice 2 (Who made the <object1>?): taken as short alone",
        "sentence 3 (Where is <Object 1> relative to <Object 2>?): taken as choice alone",
        "choice 4 (How many windows are there?): taken as short alone",
    ]


def test_what_was_taken_has_our_schema_titles_and_placeholders(folder, tmp_path):
    import_reference_seeds(folder, tmp_path / "target")
    assert list(lint(tmp_path / "target")) == []
    assert load_domains(tmp_path / "target")["posters"].title == load_domains()["posters"].title
    placeholders = (tmp_path / "target" / "placeholders.yaml").read_bytes()
    assert placeholders == (FOLDER / "placeholders.yaml").read_bytes()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("english", "chinese", "ours"),
    [
        ("<object>", "<object>", "object"),
        ("<some object>", "<物体>", "object"),
        ("<Object 1>", "<某个物体>", "object"),
        ("<object2>", "<物体2>", "object2"),
        ("<a certain style>", "<特定的图像风格>", "style"),
        ("<city/country>", "<城市/国家>", "city"),
        ("＜Feeling＞", "＜情绪＞", "emotion"),
        ("<object3>", "<物体3>", None),
        ("<movie/game, etc.>", "<movie/game, etc.>", None),
        ("<1>", "<1>", None),
        ("<person>", "<人>", None),
    ],
)
def test_placeholders_are_ours_where_there_is_one_of_that_name_or_meaning(folder, tmp_path, english, chinese, ours):
    write(folder / "00021_posters.json", fields(judge=lists([*JUDGE, (f"Is {english} there?", f"有{chinese}吗？")])))
    report = import_reference_seeds(folder, tmp_path / "target")
    assert (f"Is {{{ours}}} there?" in taken(tmp_path / "target")["judgement"]) == bool(ours)
    refused = f"judge 3 (Is {english} there?): placeholders.yaml has nothing for "
    assert any(refused in line for line in report) == (ours is None)


@pytest.mark.parametrize(
    ("key", "english", "chinese", "reason"),
    [
        ("judge", "Is <object> there?", "在那里吗？", "placeholders differ: object and none"),
        ("judge", "What is it?", "这是什么？", "is no question for yes or no"),
        ("judge", "Is it a {thing}?", "这是{thing}吗？", "{thing} is not in placeholders.yaml"),
        ("choice", "Write a poem.", "请写一首诗。", "has no answer that could be one of four options"),
        ("choice", "Is it red?", "它是红色的吗？", "is a question for yes or no, not for options"),
        ("sentence", "Where can I get it", "它是从哪里获取的", "ends neither as a question in both languages"),
        ("judge", "Is it new?", "它是旧的吗？", "the same as judge 2 (Is it new?)"),
        ("judge", "Is it new?", "它是新的吗？", "the same as judge 2 (Is it new?)"),
        ("choice", "", "它是什么？", "needs a text in all languages"),
        ("choice", 3, "它是什么？", "needs a text in all languages"),
    ],
)
def test_a_seed_that_cannot_be_one_is_refused_with_its_place(folder, tmp_path, key, english, chinese, reason):
    before = fields()
    pairs = [*zip(before[key]["English"], before[key]["Chinese"], strict=True), (english, chinese)]
    write(folder / "00021_posters.json", fields(**{key: lists(pairs)}))
    report = import_reference_seeds(folder, tmp_path / "target")
    (line,) = [line for line in report if f": {key} {len(pairs)}" in line]
    assert line.startswith(str(folder / "00021_posters.json"))
    assert reason in line
    assert sorted(seed for seeds in taken(tmp_path / "target").values() for seed in seeds) == sorted(GOOD)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("", "the file is empty"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (fields(choice=[]), "choice: needs a list under each of English, Chinese"),
        (fields(choice={"English": ["What is it?"]}), "choice: needs a list under each of English, Chinese"),
        (
            fields(judge={"English": ["Is it red?"], "Chinese": ["它是红色的吗？", "它是蓝色的吗？"]}),
            "judge: languages are not aligned, so none of its seeds is taken: 1 in English and 2 in Chinese",
        ),
    ],
)
def test_what_is_wrong_with_a_file_or_a_list_is_reported(folder, tmp_path, file, reason):
    write(folder / "00009_ocr.json", file)
    report = import_reference_seeds(folder, tmp_path / "target")
    assert any(line.startswith(f"{folder / '00009_ocr.json'}: {reason}") for line in report)
    assert "posters" in load_domains(tmp_path / "target")
    assert list(lint(tmp_path / "target")) == []


def test_a_folder_of_which_nothing_can_be_taken_is_refused(folder, tmp_path):
    with pytest.raises(ReferenceSeedError, match="target: no seed files of the reference here, such as 00021_posters"):
        import_reference_seeds(tmp_path / "target", tmp_path / "target")
    write(folder / "00021_posters.json", fields(judge=lists([])))
    with pytest.raises(ReferenceSeedError, match=r"all_seed: no domain can be taken; .* no seed is left of judgement"):
        import_reference_seeds(folder, tmp_path / "target")
    assert not (tmp_path / "target").exists()
