"""What the review page asks for, by address: items, pictures, and verdicts to be written down."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pydantic
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from mmfuser_jax.data.images import open_image
from mmfuser_jax.mminstruct import store
from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.questions.benchmarks import benchmark_questions
from mmfuser_jax.mminstruct.review.decisions import ACCEPT, EDIT, MOST_SECONDS, REJECT, REJECTIONS
from mmfuser_jax.mminstruct.review.edits import edited
from mmfuser_jax.mminstruct.review.queue import FILTERS, Queue
from mmfuser_jax.mminstruct.review.views import item_view, progress_view, start_view
from mmfuser_jax.mminstruct.schema import Verdict

PAGE = Path(__file__).parent / "page"
FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "clock.js": "text/javascript",
    "around.js": "text/javascript",
    "item.js": "text/javascript",
    "talk.js": "text/javascript",
    "words.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""Of the page, besides index.html."""

PICTURES = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".gif": "image/gif", ".bmp": "image/bmp"}
"""Suffixes in the store of what browsers can show; other pictures are sent as PNG."""

LARGEST = 1 << 18
"""Bytes of a request's body."""

NAME_LENGTH = 60


class _Said(pydantic.BaseModel):
    """What the page says of an item."""

    model_config = pydantic.ConfigDict(extra="forbid")

    item: str
    reviewer: str
    verdict: str = pydantic.Field(pattern=f"^({ACCEPT}|{EDIT}|{REJECT})$")
    reason: str = ""
    exchanges: Any = None
    final: bool = False
    seconds: float = pydantic.Field(default=0.0, ge=0, allow_inf_nan=False)


class Reviewing:
    """What the server does, by address."""

    def __init__(self, project: Project, ledger: Ledger, queue: Queue, reviewer: str, token: str) -> None:
        """Arguments:
        project, ledger, queue: whose items are judged.
        reviewer: name that the page begins with; "" has it ask.
        token: for the header of what the page posts.

        Raises:
          ProjectError: a file of `generate.benchmarks` cannot be read.
        """
        self._benchmark = benchmark_questions(project)
        self._project = project
        self._ledger = ledger
        self._queue = queue
        self._reviewer = reviewer
        self._token = token

    def routes(self) -> list[Route]:
        """Addresses."""
        return [
            Route("/", self.page),
            *(Route(f"/{name}", _file(name)) for name in FILES),
            Route("/picture/{sha}", self.picture),
            Route("/api/start", _answered(self.start)),
            Route("/api/next", _answered(self.next)),
            Route("/api/item/{id}", _answered(self.item)),
            Route("/api/progress", _answered(self.progress)),
            Route("/api/verdict", _answered(self.verdict), methods=["POST"]),
            Route("/api/undo", _answered(self.undo), methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        """The page, which needs the token for the header of what it posts."""
        del request
        text = (PAGE / "index.html").read_text(encoding="utf-8")
        return HTMLResponse(text.replace("{token}", html.escape(self._token, quote=True)))

    async def picture(self, request: Request) -> Response:
        """A picture of the store."""
        row = self._ledger.image(request.path_params["sha"])
        path = store.place(self._project.images, row.sha, row.suffix) if row else None
        if row is None or path is None or not path.exists():
            return Response("the store has no such picture", 404)
        if row.suffix in PICTURES:
            return FileResponse(path, media_type=PICTURES[row.suffix])
        shown = io.BytesIO()
        open_image(path).save(shown, "PNG")
        return Response(shown.getvalue(), media_type="image/png")

    async def start(self, request: Request) -> Any:
        """What does not change, but for the items that there are."""
        del request
        self._queue.renew()
        return {**start_view(self._project, self._queue, self._reviewer), "most_seconds": MOST_SECONDS}

    async def next(self, request: Request) -> Any:
        """The next item of a person; {"item": null} where there is none."""
        asked = request.query_params
        reviewer = person(asked.get("reviewer", ""))
        conflicts = asked.get("queue") == "conflicts"
        wanted = {name: asked[name] for name in FILTERS if asked.get(name)}
        found = self._queue.next(reviewer, wanted, conflicts=conflicts)
        return {"item": self._view(found, reviewer, conflicts) if found else None, **self._progress(reviewer)}

    async def item(self, request: Request) -> Any:
        """An item that the person has seen."""
        reviewer = person(request.query_params.get("reviewer", ""))
        conflicts = request.query_params.get("queue") == "conflicts"
        return {"item": self._view(request.path_params["id"], reviewer, conflicts), **self._progress(reviewer)}

    async def progress(self, request: Request) -> Any:
        """How far people are."""
        return self._progress(person(request.query_params.get("reviewer", "")))

    async def verdict(self, request: Request) -> Any:
        """Writes a verdict down."""
        said = _Said.model_validate(await _body(request))
        item = self._queue.item(said.item)
        if said.verdict == REJECT and said.reason not in REJECTIONS:
            raise ValueError(f"a rejection needs a reason of {', '.join(REJECTIONS)}")
        body = edited(self._ledger, item, said.exchanges, self._benchmark) if said.verdict == EDIT else ""
        same = body == item.body
        row = Verdict(
            item.id, person(said.reviewer), ACCEPT if same else said.verdict, said.reason if said.verdict == REJECT else "",
            "" if same else body, int(said.final), min(said.seconds, MOST_SECONDS),
        )  # fmt: skip
        self._queue.say(row)
        return self._progress(row.reviewer)

    async def undo(self, request: Request) -> Any:
        """Takes a person's last verdict back; gives its item."""
        fields = await _body(request)
        reviewer = person(str(fields.get("reviewer", "")))
        name = self._queue.undo(reviewer)
        view = self._view(name, reviewer, self._queue.to_settle(name)) if name else None
        return {"item": view, **self._progress(reviewer)}

    def _view(self, name: str, reviewer: str, conflicts: bool) -> Any:
        return item_view(self._ledger, self._queue.item(name), reviewer, conflict=conflicts)

    def _progress(self, reviewer: str) -> dict[str, Any]:
        return {"progress": progress_view(self._queue.progress(reviewer))}


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        del request
        return FileResponse(PAGE / name, media_type=FILES[name])

    return answer


def _answered(do: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    """What a function gives as JSON; what it refuses, as one line for the page."""

    async def answer(request: Request) -> Response:
        try:
            return JSONResponse(await do(request))
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 400)
        except ValueError as error:
            return JSONResponse({"error": " ".join(str(error).split())}, 400)

    return answer


async def _body(request: Request) -> dict[str, Any]:
    """The object that was posted.

    Raises:
      ValueError: it is none, or too large.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise ValueError("what is posted is application/json")
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LARGEST:
            raise ValueError(f"what is posted has at most {LARGEST:,} bytes")
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ValueError("what is posted is a JSON object")
    return fields


def person(text: str) -> str:
    """A person's name.

    Raises:
      ValueError: it is empty, too long, or has letters that cannot be seen.
    """
    name = " ".join(text.split())
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise ValueError(f"a reviewer has a name of 1 to {NAME_LENGTH} letters")
    return name
