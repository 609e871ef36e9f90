"""A web server on this machine that serves some texts, and serves them badly where a test asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Web:
    """A running server: what it serves, how, and what it was asked."""

    pages: dict[str, bytes]  # by path
    address: str = ""
    version: str | None = '"1"'  # the ETag
    has_ranges: bool = True  # whether it serves parts
    cuts: list[int] = field(default_factory=list)  # after so many bytes the next answers end
    errors: list[int] = field(default_factory=list)  # statuses of the next answers
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # paths and ranges


@contextmanager
def web(pages: dict[str, bytes]) -> Iterator[Web]:
    """A server of `pages` for the length of the block."""
    told = Web(dict(pages))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            told.asked.append((self.path, wanted))
            body = told.pages.get(self.path)
            status = told.errors.pop(0) if told.errors else 404 if body is None else 200
            if status != 200 or body is None:
                self.send_error(status)
                return
            tag, start = told.version, 0
            if wanted and told.has_ranges and self.headers["If-Range"] in (None, tag):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if tag:
                self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut = told.cuts.pop(0) if told.cuts else len(body)
            self.wfile.write(body[start : start + cut])

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        told.address = f"http://127.0.0.1:{server.server_port}"
        yield told
    finally:
        server.shutdown()
        server.server_close()
