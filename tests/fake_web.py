"""A host on the loopback that gives files, and misbehaves as it is told to."""

import asyncio
import contextlib

from tests.fake_openai import FakeServer


class Web(FakeServer):
    """Gives files.

    Attributes:
      pages: path → content, or (status, headers, content), or a list of these for one request after another (the last one
        stays), or a function that writes the answer to a stream.
      asked: (host, path) of all requests.
      heads: headers of all requests.
      sent: bytes of answers that functions write.
    """

    def __init__(self, pages=None, latency=0.0):
        super().__init__(latency=latency)
        self.pages, self.asked, self.heads, self.sent = dict(pages or {}), [], [], 0

    @property
    def port(self):
        return self._server.sockets[0].getsockname()[1]

    def url(self, path, host="127.0.0.1"):
        return f"http://{host}:{self.port}{path}"

    def paths(self):
        return [path for _, path in self.asked if path != "/robots.txt"]

    async def _serve(self, reader, writer):
        self._open.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *lines = head.split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
                path = line.split(" ")[1]
                self.asked.append((headers["host"].partition(":")[0], path))
                self.heads.append(headers)
                self._now += 1
                self.most = max(self.most, self._now)
                try:
                    await asyncio.sleep(self.latency if path != "/robots.txt" else 0)
                    await self._write(self.pages.get(path, (404, {}, b"no")), path, writer)
                finally:
                    self._now -= 1
        writer.close()
        self._open.discard(writer)

    async def _write(self, page, path, writer):
        if isinstance(page, list):
            before = self._seen[path] = self._seen.get(path, -1) + 1
            page = page[min(before, len(page) - 1)]
        if callable(page):
            return await page(self, writer)
        status, headers, content = page if isinstance(page, tuple) else (200, {}, page)
        headers = {"content-length": len(content), **headers}
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        return await writer.drain()


async def hang(web, writer):
    await asyncio.sleep(3600)


async def endless(web, writer):
    writer.write(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"%x\r\n" % 65536 + bytes(65536) + b"\r\n")
        web.sent += 65536
        await writer.drain()


async def cut_off(web, writer):
    writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 1000\r\n\r\nhalf")
    writer.close()
