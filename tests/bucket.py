"""An S3 server (moto's) that counts its requests; run as a script it is a process of its own.

``python bucket.py PORT LOG [DELAY]`` serves on 127.0.0.1, appends a line of JSON per request to LOG and takes DELAY
seconds for each.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
"""Credentials come by the environment, and the client asks no cloud for others."""


@dataclass(frozen=True)
class Bucket:
    """A running server, with a bucket called ``shelf``."""

    port: int
    log: Path

    def uri(self, prefix: str = "store", bucket: str = "shelf") -> str:
        return f"s3://{bucket}/{prefix}?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"

    def requests(self) -> list[dict[str, Any]]:
        """All requests so far: method, path, query, bytes in, bytes out, status."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def refuses(self) -> bool:
        """Send a request: whether it is turned away."""
        from pyarrow import fs

        with contextlib.suppress(OSError):
            filesystem, place = fs.FileSystem.from_uri(self.uri())
            filesystem.get_file_info(place)
        return self.requests()[-1]["status"] == 403

    def counted(self, since: int = 0) -> Counter[str]:
        """How many requests of each method, from the n-th on."""
        return Counter("LIST" if "list-type" in r["query"] else r["method"] for r in self.requests()[since:])


def free_port() -> int:
    """A port at which no server listens, and that no connection gets in the next moment."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def serving(folder: Path, delay: float = 0.0, **settings: str) -> Iterator[Bucket]:
    """A server with an empty bucket, for the length of a block; the settings are moto's environment variables."""
    from pyarrow import fs

    bucket = Bucket(free_port(), folder / "requests.jsonl")
    bucket.log.touch()
    line = [sys.executable, __file__, str(bucket.port), str(bucket.log), str(delay)]
    with (folder / "server.txt").open("w") as output:
        server = subprocess.Popen(line, env={**os.environ, **KEYS, **settings}, stdout=output, stderr=output)
    try:
        limit = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", bucket.port)):
            assert server.poll() is None and time.monotonic() < limit, (folder / "server.txt").read_text()
            time.sleep(0.1)
        maker = fs.S3FileSystem(
            access_key="tester", secret_key="secret", region="us-east-1", scheme="http",
            endpoint_override=f"127.0.0.1:{bucket.port}", allow_bucket_creation=True,
        )  # fmt: skip
        maker.create_dir("shelf")
        yield bucket
    finally:
        server.kill()
        server.wait(60)


class Gate:
    """A way to a server that can be shut: then no server answers, and open connections are cut off."""

    def __init__(self, server: int) -> None:
        self.server, self.port = server, free_port()
        self.connections: list[socket.socket] = []
        self.listening: socket.socket | None = None

    def open(self) -> None:
        listening = self.listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        listening.listen(100)
        threading.Thread(target=self._welcome, args=(listening,), daemon=True).start()

    def shut(self) -> None:
        listening, self.listening = self.listening, None
        for one in (listening, *self.connections):
            with contextlib.suppress(OSError):
                if one is not None:
                    one.shutdown(socket.SHUT_RDWR)
            if one is not None:
                one.close()
        self.connections = []

    def _welcome(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                guest, _ = listening.accept()
                host = socket.create_connection(("127.0.0.1", self.server))
                self.connections += [guest, host]
                for a, b in ((guest, host), (host, guest)):
                    threading.Thread(target=self._carry, args=(a, b), daemon=True).start()

    @staticmethod
    def _carry(a: socket.socket, b: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := a.recv(1 << 16):
                b.sendall(data)
        with contextlib.suppress(OSError):
            b.shutdown(socket.SHUT_WR)


def _counting(app: Callable[..., Any], log: Path, delay: float) -> Callable[..., Any]:
    """A WSGI application that notes each request once it is answered."""

    def counted(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        time.sleep(delay)
        status: list[str] = []

        def begin(line: str, headers: Any, *rest: Any) -> Any:
            status.append(line)
            return start_response(line, headers, *rest)

        body = list(app(environ, begin))
        entry = {
            "method": environ["REQUEST_METHOD"],
            "path": environ["PATH_INFO"],
            "query": environ.get("QUERY_STRING", ""),
            "in": int(environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH") or 0),
            "out": 0 if environ["REQUEST_METHOD"] == "HEAD" else sum(map(len, body)),
            "status": int(status[0].split()[0]),
            "time": time.time(),
        }
        with log.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
        return body

    return counted


def _serve(port: int, log: Path, delay: float) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, run_simple

    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections stay open, as a real bucket's do
    app = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", port, _counting(app, log, delay), threaded=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
