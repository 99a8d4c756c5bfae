"""A stand-in for the Hugging Face hub, in memory: the part of its HTTP interface for push, hub: and `datasets`."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


def digest_of(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@dataclass
class Repo:
    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1] if self.commits else {}

    def sha(self, number: int = -1) -> str:
        return digest_of(str(range(len(self.commits))[number]).encode())

    def at(self, revision: str) -> int | None:
        known = {self.sha(i): i for i in range(len(self.commits))} | {"main": len(self.commits) - 1, "v1": 0}
        return known.get(revision)


class Hub:
    """Repositories by USER/NAME; ``url`` is the value for HF_ENDPOINT."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(code)
                self.send_header("Content-Length", headers.pop("length", str(len(body))))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def say(self, content: Any, code: int = 200) -> None:
                self.answer(code, json.dumps(content).encode(), Content_Type="application/json")

            def missing(self) -> None:
                self.answer(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = urlsplit(self.path).path
                hub.asked.append(f"POST {path}")
                if path == "/api/repos/create":
                    asked = json.loads(body)
                    name = f"{asked.get('organization') or 'me'}/{asked['name'].split('/')[-1]}"
                    if name in hub.repos:
                        return self.say({"url": f"{hub.url}/datasets/{name}", "error": "exists"}, 409)
                    hub.repos[name] = Repo(asked.get("private") or asked.get("visibility") == "private")
                    return self.say({"url": f"{hub.url}/datasets/{name}"})
                if path == "/api/validate-yaml":
                    return self.say({"errors": [], "warnings": []})
                match = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit)/main", path)
                if match and match[2] == "preupload":
                    files = [
                        {**one, "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]
                    ]
                    return self.say({"files": files})
                if match:
                    repo = hub.repos[match[1]]
                    files = dict(repo.files)
                    for line in map(json.loads, body.decode().splitlines()):
                        if line["key"] == "deletedFile":
                            files.pop(line["value"]["path"])
                        if line["key"] == "file":
                            files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    repo.commits.append(files)
                    url = f"{hub.url}/datasets/{match[1]}/commit/{repo.sha()}"
                    return self.say({"success": True, "commitOid": repo.sha(), "commitUrl": url})
                return self.say({"error": f"unknown {path}"}, 404)

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.asked.append(f"{self.command} {path}")
                if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/revision/(.+))?", path):
                    return self.info(match[1], match[3] or "main")
                if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", path):
                    return self.tree(hub.repos[match[1]], match[2], match[3])
                if match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                    repo = hub.repos[match[1]]
                    number = repo.at(match[2])
                    data = None if number is None else repo.commits[number].get(match[3])
                    if data is None:
                        return self.answer(404, X_Error_Code="EntryNotFound")
                    etag = f'"{digest_of(data)}"'
                    return self.answer(200, data, X_Repo_Commit=repo.sha(number), ETag=etag)
                return self.missing()

            do_HEAD = do_GET

            def tree(self, repo: Repo, revision: str, place: str) -> None:
                """Files and folders below a place, at all depths if requested."""
                number = repo.at(revision)
                files = repo.commits[number] if repo.commits and number is not None else {}
                found: dict[str, dict[str, Any]] = {}
                below = f"{place}/" if place else ""
                for name, data in files.items():
                    if name.startswith(below):
                        parts = name.split("/")
                        for depth in range(below.count("/") + 1, len(parts)):
                            folder = "/".join(parts[:depth])
                            found[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
                        found[name] = {"type": "file", "path": name, "size": len(data), "oid": digest_of(data)}
                if "recursive=true" not in self.path.lower():
                    found = {name: one for name, one in found.items() if "/" not in name[len(below) :]}
                if not found and place:
                    self.answer(404, b"{}", X_Error_Code="EntryNotFound")
                else:
                    self.say(list(found.values()))

            def info(self, name: str, revision: str) -> None:
                repo = hub.repos.get(name)
                number = repo.at(revision) if repo is not None and repo.commits else None
                if repo is None or (repo.commits and number is None):
                    self.missing()
                    return
                files = repo.commits[number] if number is not None else {}
                self.say({
                    "id": name, "sha": repo.sha(number) if number is not None else None, "private": repo.private,
                    "siblings": [{"rfilename": file, "size": len(data)} for file, data in files.items()],
                })  # fmt: skip

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
