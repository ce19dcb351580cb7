"""Seed questions of all domains keep the schema, and every fault of one is named."""

import re

import pytest
import yaml

from mmfuser_jax.mminstruct.questions.items import LANGUAGES, TYPES
from mmfuser_jax.mminstruct.questions.seed_questions import FOLDER, SeedError, lint, load_domains, load_placeholders
from mmfuser_jax.synthetic.registry import DOMAINS

GOOD = {
    "domain": {"en": "cars", "zh": "汽车"},
    "judgement": [{"en": "Is this a {brand}?", "zh": "这是{brand}吗？"}],
    "choice": [{"en": "What colour is the car?", "zh": "汽车是什么颜色？"}],
    "short": [{"en": "How many doors does it have?", "zh": "它有几扇门？"}],
    "long": [{"en": "Describe the car in detail.", "zh": "请详细描述这辆车。"}],
}


def test_there_are_seeds_for_all_domains_types_and_languages():
    domains = load_domains()
    assert set(domains) == set(DOMAINS)
    assert len(domains) == 24
    for domain in domains.values():
        assert set(domain.title) == set(LANGUAGES)
        for kind in TYPES:
            assert len(domain.seeds[kind]) >= 6, (domain.name, kind)
    texts = [seed["en"] for domain in domains.values() for kind in TYPES for seed in domain.seeds[kind]]
    assert len(set(texts)) >= 0.97 * len(texts), "domains do not ask the same"
    used = {name for text in texts for name in re.findall(r"\{(\w+)\}", text)}
    assert used == set(load_placeholders()), "every placeholder is in use"


def with_fields(tmp_path, fields):
    (tmp_path / "placeholders.yaml").write_text((FOLDER / "placeholders.yaml").read_text())
    text = fields if isinstance(fields, str) else yaml.safe_dump(fields, allow_unicode=True)
    (tmp_path / "cars.yaml").write_text(text)
    return tmp_path


def test_a_good_file_has_no_fault(tmp_path):
    assert list(lint(with_fields(tmp_path, GOOD))) == []
    assert load_domains(tmp_path)["cars"].title["zh"] == "汽车"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"judgement": None}, "judgement: no seed"),
        ({"more": []}, "needs exactly domain, judgement"),
        ({"domain": {"en": "cars"}}, "needs exactly domain, judgement"),
        ({"short": [{"en": "What is it?"}]}, "short 1: needs en and zh"),
        ({"short": [{"en": "What is {thing}?", "zh": "{thing}是什么？"}]}, r"\{thing\} is not in placeholders.yaml"),
        ({"short": [{"en": "What is {object}?", "zh": "这是什么？"}]}, "placeholders differ: object and none"),
        ({"short": [{"en": "What is <object>?", "zh": "<object>是什么？"}]}, r"a placeholder is written \{name\}"),
        ({"short": [{"en": "Name the car.", "zh": "说出这辆车。"}]}, "ends neither as a question"),
        ({"short": [{"en": "The car?", "zh": "车？"}]}, "does not say what is asked for"),
        ({"judgement": [{"en": "What is it?", "zh": "这是什么？"}]}, "is no question for yes or no"),
        ({"choice": [{"en": "Is it red?", "zh": "它是红色的吗？"}]}, "is a question for yes or no, not for options"),
        (
            {"choice": [{"en": "Why is it what it is?", "zh": "为什么它是什么？"}]},
            "no answer that could be one of four",
        ),
        ({"choice": [GOOD["short"][0]]}, "short 1: the same in en as choice 1"),
    ],
)
def test_every_fault_is_named(tmp_path, change, fault):
    with pytest.raises(SeedError, match=fault):
        load_domains(with_fields(tmp_path, {**GOOD, **change}))


def test_a_file_that_is_no_yaml(tmp_path):
    with pytest.raises(SeedError, match=r"cars.yaml: not YAML"):
        load_domains(with_fields(tmp_path, "domain: ["))
