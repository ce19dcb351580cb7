"""The card of a data set: a README.md for people, with a head that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mmfuser_jax.mminstruct.export import selection
from mmfuser_jax.mminstruct.export.loading import KINDS, front_matter, loading
from mmfuser_jax.mminstruct.export.markdown import percent, shares, table, usd
from mmfuser_jax.mminstruct.questions.items import LANGUAGES
from mmfuser_jax.mminstruct.reasons import MEANINGS
from mmfuser_jax.mminstruct.review import decisions

FOLDER = "card"
"""Of what the card shows."""

PLOTS = {
    "domains": "Items by domain and type",
    "review": "What people said of items that they looked at",
    "balance": "Answers of choices and judgements",
    "cost": "What an item cost",
}
"""Names of the plots, and what they show."""

_OUTCOMES = {
    "accepted": "taken as it was", "edited": "edited", "rejected": "rejected", "conflict": "disagreed on",
}  # fmt: skip
_MODELS = {
    "step": "step", "model": "model", "prompt": "prompt and hash", "asked": "asked", "failed": "in vain",
    "input_tokens": "tokens in", "output_tokens": "tokens out",
}  # fmt: skip


def card_text(
    name: str, slug: str, licence: str, formats: Sequence[str], plots: Collection[str], numbers: Mapping[str, Any]
) -> str:
    """The card.

    Args:
      name: of the data set.
      slug: that its files begin with.
      licence: of the set; "" where none was given.
      formats: that are there, of `exporting.FORMATS`.
      plots: that are there, of `PLOTS`.
      numbers: of `statistics.statistics`.
    """
    parts = (
        front_matter(name, slug, licence, formats, numbers), _summary(name, numbers), loading(slug, formats),
        _content(numbers, plots), _answers(numbers, plots), _selection(numbers), _review(numbers, plots),
        _provenance(licence, numbers), _cost(numbers["cost"], plots),
    )  # fmt: skip
    return "\n".join(parts)


def _titled(title: str, plot: str, plots: Collection[str]) -> str:
    """A heading, and the plot below it where there is one."""
    return f"{title}\n\n![{PLOTS[plot]}]({FOLDER}/{plot}.png)" if plot in plots else title


def _summary(name: str, numbers: Mapping[str, Any]) -> str:
    languages = " and ".join({"en": "English", "zh": "Chinese"}[x] for x in LANGUAGES if x in numbers["languages"])
    looked = numbers["looked_at"]
    people = "and people corrected them, " if looked else ""
    count = len(numbers["items_by_domain"])
    return f"""\
# {name}

{numbers["items"]:,} items ({numbers["exchanges"]:,} questions with answers) about {numbers["pictures"]:,} pictures of
{count} domain{"s" if count > 1 else ""}, in {languages}. People looked at {percent(looked, numbers["items"])} of them. An item is
an instruction: a question with its answer, or a conversation of several rounds. Models wrote them about collected pictures, programs
checked them, {people}in the steps of MMInstruct (arXiv 2407.15838).

All numbers below are in `{FOLDER}/statistics.json` too.
"""


def _content(numbers: Mapping[str, Any], plots: Collection[str]) -> str:
    columns = [(kind, x) for kind in KINDS for x in LANGUAGES if any(_of(row, kind, x) for row in _domains(numbers))]
    rows = []
    for domain, row in numbers["items_by_domain"].items():
        cells = [_of(row, *column) for column in columns]
        rows.append((domain, numbers["pictures_by_domain"].get(domain, 0), *cells, sum(cells)))
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    head = ("domain", "pictures", *(f"{kind} ({language})" for kind, language in columns), "items")
    lengths = [
        (kind, language, entry["question_median"], entry["question_most"], entry["answer_median"], entry["answer_most"])
        for kind in KINDS
        for language, entry in numbers["lengths"].get(kind, {}).items()
    ]
    titles = ("type", "language", "questions, median", "longest", "answers, median", "longest")
    return f"""\
{_titled("## What is in it", "domains", plots)}

{table(head, rows)}
Length of an item's questions and of its answers, in words and Chinese characters:

{table(titles, lengths)}"""


def _domains(numbers: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    rows: Iterable[Mapping[str, Any]] = numbers["items_by_domain"].values()
    return rows


def _of(row: Mapping[str, Any], kind: str, language: str) -> int:
    return int(row.get(kind, {}).get(language, 0))


def _answers(numbers: Mapping[str, Any], plots: Collection[str]) -> str:
    letters = shares(numbers["letters"])
    judged = [
        (language, row["yes"], row["no"], percent(row["yes"], row["yes"] + row["no"]))
        for language, row in sorted(numbers["yes_no"].items())
    ]
    return f"""\
{_titled("### Balance of the answers", "balance", plots)}

{table(("right option", "choices", "share"), letters)}
{table(("judgements", "yes", "no", "share of yes"), judged)}"""


def _selection(numbers: Mapping[str, Any]) -> str:
    def meant(counts: Mapping[str, int], meanings: Mapping[str, str]) -> str:
        return table(("reason", "items"), [(meanings.get(code, code), count) for code, count in counts.items()])

    return f"""\
## What is not in it, and why

Of all that was made, {sum(numbers["left_out"].values()):,} items are not in the set:

{meant(numbers["left_out"], selection.REASONS)}
Why the program refused items:

{meant(numbers["refused"], MEANINGS)}
Why people rejected items:

{meant(numbers["rejected"], decisions.REJECTIONS)}"""


def _review(numbers: Mapping[str, Any], plots: Collection[str]) -> str:
    review = numbers["review"]
    good = review["state"].get("good", {"looked_at": 0})
    unseen = numbers["items"] - numbers["looked_at"]
    guess = ""
    if good["looked_at"] and unseen:
        share = percent(good["rejected"] + good["edited"], good["looked_at"])
        guess = (
            f"Nobody looked at {unseen:,} items of the set. Of the items that the program had no doubt of and that people "
            f"did look at, they changed or rejected {share}: expect about as much among those.\n"
        )
    agreement = "".join(f"\nAgreement: {line}.\n" for line in numbers["agreement"])
    return f"""\
{_titled("## Who looked at it", "review", plots)}

Of all items that the program did not refuse; shares are of those that people looked at.

{_reviewed("domain", review["domain"])}
{_reviewed("type", review["type"])}
{_reviewed("the program said", review["state"])}
{guess}{agreement}"""


def _reviewed(title: str, groups: Mapping[str, Mapping[str, int]]) -> str:
    rows = []
    whole = {what: sum(counts[what] for counts in groups.values()) for what in ("items", "looked_at", *_OUTCOMES)}
    for name, counts in {**groups, "all": whole}.items():
        looked = counts["looked_at"]
        outcomes = [f"{counts[what]:,} ({percent(counts[what], looked)})" if looked else "" for what in _OUTCOMES]
        rows.append((name, counts["items"], f"{looked:,} ({percent(looked, counts['items'])})", *outcomes))
    return table((title, "items", "looked at", *_OUTCOMES.values()), rows)


def _provenance(licence: str, numbers: Mapping[str, Any]) -> str:
    models = [(*(row[name] for name in _MODELS), usd(row["usd"])) for row in numbers["models"]]
    sets = table(("set", "items"), numbers["sets"].items())
    return f"""\
## Where it comes from

Licence of the set: {licence or "none was stated"}. The pictures have their own:

{table(("licence of pictures", "pictures", "share"), shares(numbers["licences"], "not stated"))}
{table(("found at", "pictures", "share"), shares(numbers["hosts"]))}
{table((*_MODELS.values(), "US dollars"), models)}
Taken over from public sets:

{sets}"""


def _cost(cost: Mapping[str, Any], plots: Collection[str]) -> str:
    rows: list[tuple[object, ...]] = [
        (f"models, step {step}", usd(dollars), "tokens measured, price for a token stated")
        for step, dollars in cost["by_step"].items()
    ]
    rows.append(_people("people", cost["people"], cost))
    without = ""
    if cost["people_on_sets"]["verdicts"]:
        rows.append(_people("people, items of public sets", cost["people_on_sets"], cost))
        without = ", less the time on items of public sets,"
    rows.append(("together", usd(cost["total_usd"]), ""))
    each = cost["usd_per_item"]
    against = ""
    if each is not None:
        rows.append(("an item", usd(each), f"the sum{without} over {cost['made']:,} items that were made for this set"))
        against = f", which is {cost['manual_usd'] / each:,.1f} times as much" if each else ""
    rows.append(("an item written by hand", usd(cost["manual_usd"]), f"stated{against}"))
    return f"""\
{_titled("## What it cost", "cost", plots)}

{table(("what", "US dollars", "how this is known"), rows)}
Measured are tokens, as servers counted them, and seconds, as the review page counted them. Prices, the cost of an hour and of
handwork are what the maker of the set says. Machines, and the work of setting up the project, are not counted.
"""


def _people(what: str, people: Mapping[str, Any], cost: Mapping[str, Any]) -> tuple[object, ...]:
    hours, rate = people["seconds"] / 3600, cost["reviewer_usd_per_hour"]
    known = f"{hours:,.2f} hours over {people['verdicts']:,} verdicts measured, ${rate:,.2f} an hour stated"
    return what, usd(people["usd"]), known
