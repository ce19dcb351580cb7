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
      latency: seconds before each answer.
      bodies: of all requests.
      most: requests that were there at the same time.
    """

    def __init__(self, reply=lambda body, before: "fine", latency=0.0):
        self.reply, self.latency = reply, latency
        self.bodies, self.most, self._now = [], 0, 0
        self._seen = {}
        self._open = set()

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
                body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))))
                body["authorization"] = headers.get("authorization", "")
                writer.write(await self._answer(body))
                await writer.drain()
        writer.close()
        self._open.discard(writer)

    async def _answer(self, body):
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            self.bodies.append(body)
            words = json.dumps(body["messages"])
            before = self._seen[words] = self._seen.get(words, -1) + 1
            await asyncio.sleep(self.latency)
            answer = self.reply(body, before)
            if answer == "hang":
                await asyncio.sleep(3600)
            return response(*answer) if isinstance(answer, tuple) else response(200, {}, completion(answer, body))
        finally:
            self._now -= 1


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
