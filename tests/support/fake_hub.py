"""A Hugging Face Hub of one folder: what `huggingface_hub` asks of the real one to download a snapshot."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        models, path = self.server.models, self.path.partition("?")[0]
        repo = "/".join(path.removeprefix("/api/models").strip("/").split("/")[:2])
        if repo == "tiny/gated":
            return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="accept the terms")
        if repo not in models:
            return self.answer(404, X_Error_Code="RepoNotFound")
        rest = path[path.index(repo) + len(repo) :]
        files = {file.name: file.read_bytes() for file in models[repo].iterdir()}
        if rest in ("", "/revision/main", f"/revision/{COMMIT}"):
            told = {"_id": "1", "id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            return self.answer(200, json.dumps(told).encode(), Content_Type="application/json")
        if rest.startswith("/revision/"):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if rest.startswith("/tree/"):
            told = [
                {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for name, body in files.items()
            ]
            return self.answer(200, json.dumps(told).encode(), Content_Type="application/json")
        body = files[rest.removeprefix(f"/resolve/{COMMIT}/")]
        etag = f'"{hashlib.sha1(body).hexdigest()}"'
        return self.answer(200, body, ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@contextlib.contextmanager
def serve(models: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serves the folders of `models` by the name OWNER/NAME; tiny/gated is gated. Yields (URL, requests so far)."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.models, server.asked = models, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.asked
        finally:
            server.shutdown()
