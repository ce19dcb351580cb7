"""A server that speaks enough of OpenAI's protocol on the loopback, and misbehaves as it is told to."""

import asyncio
import contextlib
import json
import threading


class FakeServer:
    """Answers chat completions in a thread of its own.

    Attributes:
      reply: (body of the request, how often its words were asked before) → text, or (status, headers, JSON or text), or
        "hang" to say nothing.
      latency: seconds before each answer; or (body of the request) → seconds.
      bodies: of all requests; of questions in files too, with their `custom_id`.
      most: requests that were there at the same time.
      files: name → content of what was sent as a file, and of what was written about it.
      batches: files of questions, in the order in which they came.
      prefix: of their names.
      looks: how often a file of questions is looked at before it is done.
      ending: (number of a file of questions) → its state in the end, of "completed", "expired", "failed", "cancelled"; or
        a failure's code and message. One that expired or was cancelled has answers to its first half.
      trouble: (method, path) → (status, headers, JSON) instead of an answer to requests about files, or None.
      after: the same, but once it is done.
    """

    def __init__(self, reply=lambda body, before: "fine", latency=0.0):
        self.reply, self.latency = reply, latency
        self.bodies, self.most, self._now = [], 0, 0
        self._seen = {}
        self._open = set()
        self.files, self.batches, self.looks, self.prefix = {}, [], 1, "batch"
        self.ending = lambda number: "completed"
        self.trouble = self.after = lambda method, path: None

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        begun = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512), self._loop
        )
        self._server = begun.result()
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(self, *_):
        async def end():
            self._server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in self._open:
                writer.transport.abort()
            await asyncio.sleep(0.01)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader, writer):
        self._open.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                content = await self._content(reader, headers)
                method, path = head.split()[:2]
                if path.endswith("/chat/completions"):
                    writer.write(
                        await self._answer(json.loads(content) | {"authorization": headers.get("authorization", "")})
                    )
                else:
                    writer.write(self._about_files(method, path.removeprefix("/v1"), content))
                await writer.drain()
        writer.close()
        self._open.discard(writer)

    async def _content(self, reader, headers):
        if headers.get("transfer-encoding") != "chunked":
            return await reader.readexactly(int(headers.get("content-length", 0)))
        content = b""
        while size := int(await reader.readline(), 16):
            content += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return content

    def _about_files(self, method, path, content):
        if trouble := self.trouble(method, path):
            return response(*trouble)
        match [method, *path.partition("?")[0].strip("/").split("/")]:
            case ["POST", "files"]:
                answer = self._keep(part(content, b"file"))
            case ["GET", "files", name, "content"]:
                answer = self.files[name].decode()
            case ["POST", "batches"]:
                answer = self._begin_batch(json.loads(content))
            case ["GET", "batches"]:
                answer = self._list(path)
            case ["GET", "batches", name] if name in {batch["id"] for batch in self.batches}:
                answer = self._look(name)
            case _:
                return response(404, {}, {"error": {"message": f"no {path}"}})
        return response(*(self.after(method, path) or (200, {}, answer)))

    def _keep(self, content):
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "created_at": 0,
            "filename": "x",
            "purpose": "batch",
        }

    def _begin_batch(self, fields):
        ending = self.ending(len(self.batches))
        status, errors = (
            (ending, None)
            if isinstance(ending, str)
            else ("failed", {"data": [dict(zip(("code", "message"), ending, strict=True))]})
        )
        batch = {
            **fields, "id": f"{self.prefix}_{len(self.batches)}", "object": "batch", "created_at": 0, "status": "validating",
            "looks": self.looks, "then": {"status": status, "errors": errors},
        }  # fmt: skip
        lines = (
            [json.loads(line) for line in self.files[fields["input_file_id"]].splitlines()]
            if status != "failed"
            else []
        )
        output, error = [], []
        for number, line in enumerate(lines):
            half = status in ("expired", "cancelled") and number >= len(lines) / 2
            answer = {"code": f"batch_{status}", "message": "too late"} if half else self._reply(line)
            if answer is not None:
                (output if answer.get("status_code") == 200 else error).append(
                    {
                        "id": f"r{number}",
                        "custom_id": line["custom_id"],
                        "response": None if half else answer,
                        "error": answer if half else None,
                    }
                )
        for name, answers in (("output_file_id", output), ("error_file_id", error)):
            if answers:  # not in the order of the questions
                batch["then"][name] = self._keep("\n".join(map(json.dumps, answers[::-1])).encode())["id"]
        self.batches.append(batch)
        return shown(batch)

    def _reply(self, line):
        """As in the server's files; None where the line is lost."""
        self.bodies.append(line["body"] | {"custom_id": line["custom_id"]})
        words = json.dumps(line["body"]["messages"])
        before = self._seen[words] = self._seen.get(words, -1) + 1
        answer = self.reply(line["body"], before)
        if isinstance(answer, str):
            answer = 200, {}, completion(answer, line["body"])
        return answer and {"status_code": answer[0], "request_id": "x", "body": answer[2]}

    def _look(self, name):
        (batch,) = (batch for batch in self.batches if batch["id"] == name)
        batch["looks"] -= 1
        batch |= {"status": "in_progress"} if batch["looks"] >= 0 else batch["then"]
        return shown(batch)

    def _list(self, path):
        """Two at a time, the newest first."""
        names = [batch["id"] for batch in self.batches][::-1]
        after = path.partition("after=")[2].partition("&")[0]
        start = names.index(after) + 1 if after else 0
        rest = [shown(batch) for batch in self.batches[::-1][start:]]
        return {"object": "list", "data": rest[:2], "has_more": len(rest) > 2}

    async def _answer(self, body):
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            self.bodies.append(body)
            words = json.dumps(body["messages"])
            before = self._seen[words] = self._seen.get(words, -1) + 1
            await asyncio.sleep(self.latency(body) if callable(self.latency) else self.latency)
            answer = self.reply(body, before)
            if answer == "hang":
                await asyncio.sleep(3600)
            return response(*answer) if isinstance(answer, tuple) else response(200, {}, completion(answer, body))
        finally:
            self._now -= 1


def part(content, name):
    """A field of a form."""
    boundary = content.partition(b"\r\n")[0]
    (found,) = (x for x in content.split(boundary) if b'name="' + name + b'"' in x.partition(b"\r\n\r\n")[0])
    return found.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


def shown(batch):
    """A file of questions as the server shows it."""
    return {name: value for name, value in batch.items() if name not in ("looks", "then")}


def completion(text, body, finish="stop", **message):
    """What a server says to a chat request."""
    return {
        "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }  # fmt: skip


def response(status, headers, content):
    """Bytes of an HTTP answer."""
    kind = "text/html" if isinstance(content, str) else "application/json"
    data = (content if isinstance(content, str) else json.dumps(content)).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data
