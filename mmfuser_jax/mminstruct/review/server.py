"""A page in the browser on which people judge items; for this machine alone, unless it is told otherwise."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import secrets
import socket
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

from mmfuser_jax.mminstruct.ledger import Ledger
from mmfuser_jax.mminstruct.project import Project
from mmfuser_jax.mminstruct.review.guard import Guard
from mmfuser_jax.mminstruct.review.queue import Queue
from mmfuser_jax.mminstruct.review.routes import Reviewing, person


class ReviewError(RuntimeError):
    """The review cannot begin; the message says what to do."""


@contextlib.contextmanager
def opened_review(
    project: Project, reviewer: str, host: str, port: int, token: str
) -> Iterator[tuple[uvicorn.Server, socket.socket]]:
    """A server that is ready to run, and the socket at which it will listen.

    Args:
      project: whose items are judged.
      reviewer: as of `serve_review`.
      host, port: to listen at; port 0 takes a free one.
      token: without which nothing is served.

    Raises:
      ReviewError: see `serve_review`.
    """
    reviewer = person(reviewer) if reviewer else ""
    with Ledger(project.ledger) as ledger:
        if not ledger.query("SELECT 1 FROM items LIMIT 1"):
            command = f"python launch/mminstruct.py run --project={project.folder}"
            raise ReviewError(f"{project.folder}: there are no items yet; make some first: {command}")
        queue = Queue(ledger, project.config.review)
        if not len(queue):
            raise ReviewError(
                f"{project.folder}: nothing to review: no item is doubtful, and review.share and review.least draw no good one"
            )
        with _listening(host, port) as listening:
            app = Starlette(routes=Reviewing(project, ledger, queue, reviewer, token).routes())
            config = uvicorn.Config(
                Guard(app, token, host), log_level="warning", access_log=False, lifespan="off", ws="none",
                server_header=False,
            )  # fmt: skip
            yield uvicorn.Server(config), listening


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ReviewError(f"port {port} is in use; give another --port, or 0 for a free one") from None
        raise ReviewError(f"cannot listen at {host}:{port}: {error.strerror or error}") from None


def addresses(listening: socket.socket, token: str) -> list[str]:
    """Where the page is. Of a server that listens everywhere: under this machine's name, and under its address in the network."""
    host, port = listening.getsockname()[:2]
    hosts = [host]
    if ipaddress.ip_address(host).is_unspecified:
        hosts = [socket.gethostname(), *_own_addresses(listening.family)]
    return [f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}" for host in hosts]


def _own_addresses(family: socket.AddressFamily) -> list[str]:
    """The one from which this machine would send to others, if there is any. Nothing is sent."""
    far = "2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1"  # addresses for documentation
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((far, 9))
        except OSError:
            return []
        return [str(asking.getsockname()[0])]


def serve_review(project: Project, reviewer: str, host: str = "127.0.0.1", port: int = 8765) -> None:
    """Serves the page until Ctrl-C. Its address, with the token without which nothing is served, is printed.

    Args:
      project: whose items are judged.
      reviewer: name of the person; "" asks for it in the page, where it can be changed in any case.
      host: address to listen at; any but 127.0.0.1 lets other machines in, unencrypted.
      port: to listen at.

    Raises:
      ReviewError: there is nothing to review, or the port is taken.
      ValueError: the name is none.
    """
    token = secrets.token_urlsafe()
    print("review: planning who looks at what ...", flush=True)
    with opened_review(project, reviewer, host, port, token) as (server, listening):
        for address in addresses(listening, token):
            print(f"review: {address}", flush=True)
        print("review: Ctrl-C ends it; every verdict is on the disk, nothing is lost", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    command = f"python launch/mminstruct.py export --project={project.folder} --to=DIR"
    print(f"review: ended; go on with it by the same command, or write what passed: {command}")
