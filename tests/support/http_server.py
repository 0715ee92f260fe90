"""A web server of files that misbehaves as told."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FileServer:
    """Serves `files` at `url`/<name> within a with statement.

    Attributes:
        requests: (name, Range header or None) of each request.
        faults: taken from the front, one for each request; when there are none left it behaves. ("drop", n): the
            connection breaks off after n bytes; ("status", n); ("content-range", text): in place of the right one;
            ("unsized", n): n bytes and no length; ("hang", n): n bytes, then nothing more until the server ends.
        ranges: whether it knows of ranges at all.
    """

    def __init__(self, files: dict[str, bytes], port: int = 0) -> None:
        self.files = files
        self.requests: list[tuple[str, str | None]] = []
        self.faults: list[tuple[str, Any]] = []
        self.ranges = True
        self.closing = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # a client that has gone is what some tests are about

        self.http = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> FileServer:
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name, asked = request.path.lstrip("/"), request.headers.get("Range")
        self.requests.append((name, asked))
        fault, value = self.faults.pop(0) if self.faults else ("", 0)
        data = self.files.get(name)
        if data is None or fault == "status":
            request.send_error(404 if data is None else value)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", asked) if asked and self.ranges else None
        start = int(wanted[1]) if wanted else 0
        if start and start >= len(data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = data[start:]
        request.send_response(206 if start else 200)
        if start:
            right = f"bytes {start}-{len(data) - 1}/{len(data)}"
            request.send_header("Content-Range", str(value) if fault == "content-range" else right)
        if fault != "unsized":
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:value] if fault in ("drop", "unsized", "hang") else body)
        request.wfile.flush()
        if fault == "hang":
            self.closing.wait()
        request.close_connection = True
