"""Items to Label Studio and verdicts back, for teams that work with it: its JSON tasks with pre-annotation, its JSON export.

Pictures are named, not copied into the tasks: a task stays small however large its picture is. What Label Studio needs to
show them is said by `Written.settings`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import IMAGES, Project
from mmfuser_jax.mminstruct.questions.benchmarks import benchmark_questions
from mmfuser_jax.mminstruct.review.decisions import ACCEPT, EDIT, MOST_SECONDS, REJECT, REJECTIONS, verdicts_of
from mmfuser_jax.mminstruct.review.edits import EditError, edited
from mmfuser_jax.mminstruct.review.label_studio_text import as_text, comes_back, from_text
from mmfuser_jax.mminstruct.review.queue import Queue
from mmfuser_jax.mminstruct.review.views import item_view
from mmfuser_jax.mminstruct.schema import ItemRow, Verdict

CONFIG = """\
<View>
  <View style="display: flex; gap: 24px">
    <View style="flex: 55%"><Image name="picture" value="$image" zoom="true"/></View>
    <View style="flex: 45%">
      <Text name="about" value="$about"/>
      <TextArea name="text" toName="picture" rows="10" editable="true" maxSubmissions="1" required="true"/>
      <Choices name="verdict" toName="picture" choice="single" showInline="true" required="true">
        <Choice value="accept" hint="as it is, or as you have changed it"/>
        <Choice value="reject"/>
      </Choices>
      <Choices name="reason" toName="picture" choice="single" visibleWhen="choice-selected" whenTagName="verdict"
          whenChoiceValue="reject">
        {reasons}
      </Choices>
    </View>
  </View>
  <Text name="caption" value="$caption"/>
</View>
"""

SETTINGS = """\
start Label Studio so that it may show the pictures:
  LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={folder} label-studio start
in its project: Settings > Cloud Storage > Add Source Storage > Local Files, with the path {images}, saved but not synchronised;
Settings > Labeling Interface > Code: what is in {config}; then import the tasks"""


class LabelStudioError(ValueError):
    """A file cannot be written, or is not what Label Studio exports; the message names the file and what is wrong with it."""


AT_A_TIME = 100
"""Verdicts that are written in one change of the ledger."""


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
      tasks: number of them.
      config: file with the labelling config.
      left_out: ids of items that have a line which would be taken for a heading.
      settings: lines that say how Label Studio is set up to show them.
    """

    tasks: int
    config: Path
    left_out: tuple[str, ...]
    settings: str


@dataclasses.dataclass(frozen=True)
class Imported:
    """What was read.

    Attributes:
      counts: "accept", "edit", "reject" of new verdicts; "unchanged" of those that were there; "cancelled" of skipped tasks.
      errors: a line for each annotation that could not be taken, naming its task.
    """

    counts: Mapping[str, int]
    errors: tuple[str, ...]


def write_tasks(project: Project, ledger: Ledger, path: Path) -> Written:
    """Writes the items that people are still to look at as tasks, and beside them the labelling config, an XML file.

    Args:
      project: whose items they are.
      ledger: of the project.
      path: of the JSON file; the config has the same name with the ending .xml.

    Raises:
      LabelStudioError: there is no such folder, or nothing can be written there.
    """
    try:
        return _write_tasks(project, ledger, path)
    except OSError as error:  # of a file beside it, whose name nobody has given
        raise LabelStudioError(
            f"{path}: cannot be written ({error.strerror}); name a file in a folder that there is"
        ) from None


def _write_tasks(project: Project, ledger: Ledger, path: Path) -> Written:
    config = path.with_suffix(".xml")
    reasons = (f"<Choice alias={quoteattr(code)} value={quoteattr(words)}/>" for code, words in REJECTIONS.items())
    queue = Queue(ledger, project.config.review)
    tasks, left_out = 0, []
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for name in queue.open_items():
            item = queue.item(name)
            if not comes_back(item.body):
                left_out.append(name)
                continue
            file.write(",\n" if tasks else "\n")
            json.dump(_task(ledger, item), file, ensure_ascii=False)
            tasks += 1
        file.write("\n]\n")
    os.replace(temporary, path)
    config.write_text(CONFIG.format(reasons="\n        ".join(reasons)), encoding="utf-8")
    folder, images = (shlex.quote(str(place.resolve())) for place in (project.folder, project.images))
    settings = SETTINGS.format(folder=folder, images=images, config=config)
    return Written(tasks, config, tuple(left_out), settings)


def _task(ledger: Ledger, item: ItemRow) -> dict[str, Any]:
    view = item_view(ledger, item, "", conflict=False)
    image = ledger.image(item.image)
    place = store.place(Path(IMAGES), item.image, image.suffix if image else "")
    about = [item.domain, item.type, item.language, *([f"doubtful: {view['doubt']}"] if view["doubt"] else [])]
    text = {"from_name": "text", "to_name": "picture", "type": "textarea", "value": {"text": [as_text(item.body)]}}
    return {
        "data": {
            "item": item.id,
            "image": f"/data/local-files/?d={quote(place.as_posix())}",
            "about": " · ".join(about),
            "caption": "\n\n".join(caption["text"] for caption in view["captions"]),
        },
        "predictions": [{"model_version": view["model"] or item.step, "result": [{"id": item.id, **text}]}],
    }


def read_tasks(project: Project, ledger: Ledger, path: Path, reviewer: str = "") -> Imported:
    """Reads the verdicts of an export in Label Studio's format "JSON". What was read before adds nothing.

    An item that is accepted with another text is edited. Skipped tasks and drafts are no verdicts.

    Args:
      project: that the tasks were written from.
      ledger: of the project.
      path: of the export.
      reviewer: name of the person who made all annotations; "" for the e-mail addresses or numbers that Label Studio has.

    Raises:
      LabelStudioError: it is no such file, or several people made it and one name is given.
    """
    benchmark = benchmark_questions(project)
    annotations = list(_annotations(path))
    people = {_person(annotation) for _, _, annotation in annotations}
    if reviewer and len(people) > 1:
        names = ", ".join(sorted(people))
        raise LabelStudioError(f"{path}: has annotations of several people ({names}); leave the reviewer's name out")
    counts: Counter[str] = Counter()
    errors = []
    for start in range(0, len(annotations), AT_A_TIME):  # so that others who write need not wait long
        with ledger.changes():
            for label, name, annotation in annotations[start : start + AT_A_TIME]:
                try:
                    counts[_take(ledger, name, annotation, reviewer or _person(annotation), benchmark)] += 1
                except ValueError as error:
                    errors.append(f"{path}: {label}: {error}")
    return Imported(dict(counts), tuple(errors))


def _take(ledger: Ledger, name: Any, annotation: Any, reviewer: str, benchmark: Collection[str]) -> str:
    """Writes an annotation's verdict down; what it is counted as.

    Raises:
      ValueError: it is none.
    """
    if annotation.get("was_cancelled"):
        return "cancelled"
    verdict = _verdict(ledger, name, annotation, reviewer, benchmark)
    if verdict in verdicts_of(ledger, verdict.item):
        return "unchanged"
    ledger.add(verdict)
    return verdict.verdict


def _annotations(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(what to call the task, id of its item, annotation) of every annotation of a file."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise LabelStudioError(f"{path}: not JSON ({error})") from None
    if not isinstance(tasks, list):
        raise LabelStudioError(f"{path}: not a list of tasks; export them in the format JSON")
    for number, task in enumerate(tasks, 1):
        label = f"task {task.get('id', number) if isinstance(task, dict) else number}"
        data, annotations = (task.get("data"), task.get("annotations")) if isinstance(task, dict) else (None, None)
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise LabelStudioError(
                f"{path}: {label}: no data and annotations; export the tasks in the format JSON, not JSON-MIN"
            )
        for annotation in annotations:
            if not isinstance(annotation, dict):
                raise LabelStudioError(f"{path}: {label}: an annotation is no object")
            yield label, str(data.get("item", "")), annotation


def _person(annotation: Mapping[str, Any]) -> str:
    """Who made an annotation: Label Studio writes a number or, if asked to, an object."""
    user = annotation.get("completed_by")
    if isinstance(user, dict):
        return str(user.get("email") or f"user {user.get('id')}")
    return f"user {user}"


def _verdict(
    ledger: Ledger, name: str, annotation: Mapping[str, Any], reviewer: str, benchmark: Collection[str]
) -> Verdict:
    item = ledger.row(ItemRow, "id = ? AND state <> 'refused'", (name,))
    if item is None:
        raise EditError(f"this project has no item {name!r}")
    said = _said(annotation)
    seconds = annotation.get("lead_time") or 0.0
    if not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise EditError(f"lead_time is {seconds!r} instead of seconds")
    verdict, reason, text = said.get("verdict", ""), said.get("reason", ""), said.get("text")
    if verdict == REJECT:
        by_words = {words: code for code, words in REJECTIONS.items()}
        code = by_words.get(reason, reason or "other")
        if code not in REJECTIONS:
            raise EditError(f"there is no reason {reason!r} to reject an item")
        return Verdict(item.id, reviewer, REJECT, code, seconds=min(float(seconds), MOST_SECONDS))
    if verdict != ACCEPT:
        raise EditError(f"it is neither accepted nor rejected ({verdict!r})")
    same = text is None or text.strip() == as_text(item.body).strip()
    body = "" if same else edited(ledger, item, from_text(text or ""), benchmark)
    kept = body in ("", item.body)
    return Verdict(
        item.id, reviewer, ACCEPT if kept else EDIT, "", "" if kept else body, seconds=min(float(seconds), MOST_SECONDS)
    )


def _said(annotation: Mapping[str, Any]) -> dict[str, str]:
    """Name of a field of CONFIG → what it says."""
    results = annotation.get("result")
    if not isinstance(results, list):
        raise EditError("an annotation has no list of results")
    said: dict[str, str] = {}
    for result in results:
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            raise EditError("a result has no value")
        texts = value.get("choices", value.get("text"))
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or len(texts) != 1 or not isinstance(texts[0], str):
            raise EditError(f"{result.get('from_name')!r} has not one text")
        said[str(result.get("from_name"))] = texts[0]
    return said
