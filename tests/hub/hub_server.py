"""Stands in for the Hugging Face Hub over HTTP: repositories, commits, LFS, files by revision.

It answers the calls that `huggingface_hub` makes (1.x and 2.x) for creating, committing and
downloading, and remembers them in `calls`. GGUF and safetensors files go by LFS, all others within
the commit, as on the Hub. Xet is not there: the client is told by HF_HUB_DISABLE_XET.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_stand_in"
_LFS = (".gguf", ".safetensors")


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit_of(self, revision: str) -> str | None:
        found = self.refs.get(revision, revision)
        return found if found in self.commits else None

    def add(self, files: dict[str, bytes]) -> str:
        before = self.commits.get(self.refs.get("main", ""), {})
        content = {**before, **files}
        digest = hashlib.sha1(repr((len(self.commits), sorted(content.items()))).encode())
        commit = digest.hexdigest()
        self.commits[commit] = content
        self.refs["main"] = commit
        return commit


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.calls: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.server.calls.append((self.command, path))
        for method, pattern, handle in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                return handle(self, *found.groups())
        self.fail(404, "EntryNotFound", "no such address")

    # --- what is asked ----------------------------------------------------------------------------

    def whoami(self) -> None:
        if not self.may_write():
            return self.fail(401, "", "Invalid credentials")
        self.reply({"type": "user", "name": "owner", "auth": {"type": "access_token"}})

    def create(self) -> None:
        if not self.may_write():
            return self.fail(401, "", "Invalid credentials")
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'owner'}/{asked['name']}"
        if name in self.server.repositories:
            url = f"{self.server.url}/{name}"
            return self.reply({"error": "You already created this model repo", "url": url}, 409)
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.server.repositories[name] = Repository(private)
        self.reply({"url": f"{self.server.url}/{name}", "id": name, "name": name})

    def info(self, name: str, revision: str = "main") -> None:
        if (repository := self.repository(name)) is None:
            return
        commit = repository.commit_of(revision)
        if commit is None and repository.commits:
            return self.fail(404, "RevisionNotFound", "Invalid rev id")
        self.reply({"id": name, "sha": commit, "private": repository.private, "siblings": []})

    def validate(self) -> None:
        self.reply({"errors": [], "warnings": []})

    def preupload(self, name: str) -> None:
        if self.repository(name) is None:
            return
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(_LFS) else "regular",
                "shouldIgnore": False,
            }
            for one in json.loads(self.body)["files"]
        ]
        self.reply({"files": files})

    def batch(self, name: str) -> None:
        objects = []
        for one in json.loads(self.body)["objects"]:
            known = one["oid"] in self.server.stored
            upload = {"href": f"{self.server.url}/storage/{one['oid']}"}
            objects.append({**one, **({} if known else {"actions": {"upload": upload}})})
        self.reply({"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.fail(400, "", "the digest differs")
        self.server.stored[oid] = self.body
        self.reply({})

    def commit(self, name: str) -> None:
        if not self.may_write():
            return self.fail(403, "", "Forbidden")
        if (repository := self.repository(name)) is None:
            return
        files: dict[str, bytes] = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        commit = repository.add(files)
        url = f"{self.server.url}/{name}/commit/{commit}"
        self.reply({"commitUrl": url, "commitOid": commit, "success": True})

    def resolve(self, name: str, revision: str, file: str) -> None:
        if (repository := self.repository(name)) is None:
            return
        commit = repository.commit_of(revision)
        if commit is None:
            return self.fail(404, "RevisionNotFound", "Invalid rev id")
        content = repository.commits[commit].get(file)
        if content is None:
            return self.fail(404, "EntryNotFound", "Entry not found", commit)
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # --- what is answered -------------------------------------------------------------------------

    def repository(self, name: str) -> Repository | None:
        """Return a repository, or answer as the Hub does to who may not see it."""
        found = self.server.repositories.get(name)
        if found is None or found.private and not self.may_write():
            return self.fail(401, "RepoNotFound", "Repository not found")
        return found

    def may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def fail(self, status: int, code: str, words: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": words, "X-Repo-Commit": commit}
        self.reply(
            {"error": words}, status, {key: value for key, value in headers.items() if value}
        )

    def reply(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *words: Any) -> None:
        pass


_NAME = r"([^/]+/[^/]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("GET", rf"/api/models/{_NAME}", Handler.info),
    ("GET", rf"/api/models/{_NAME}/revision/(.+)", Handler.info),
    ("POST", rf"/api/models/{_NAME}/preupload/.+", Handler.preupload),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/storage/([0-9a-f]{64})", Handler.store),
    ("POST", rf"/api/models/{_NAME}/commit/.+", Handler.commit),
    ("GET HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
)
