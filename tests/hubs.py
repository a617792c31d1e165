"""A hub on this machine that speaks the protocol of huggingface.co, as far as huggingface_hub needs it to load and to
upload models. It keeps everything in memory.
"""

import base64
import hashlib
import http.server
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_aSecretThatNobodyMaySee"


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    branches: dict = field(default_factory=lambda: {"main": None})
    commits: dict = field(default_factory=dict)  # hash -> file -> bytes

    def commit(self, files, branch="main"):
        content = {**self.commits.get(self.branches[branch], {}), **files}
        sha = hashlib.sha1(repr((len(self.commits), sorted(content))).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = content, sha
        return sha

    def at(self, revision):
        return self.branches.get(revision, revision)


class Hub:
    """The repositories, the large files, and what was asked for, as "METHOD path"."""

    def __init__(self):
        self.repositories, self.large, self.asked, self.sizes = {}, {}, [], {}
        self.url = ""

    def add(self, name, files, **facts):
        repository = self.repositories[name] = Repository(**facts)
        return repository.commit(files)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_any(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token != TOKEN:
            return self.answer(401, {"error": "x"}, X_Error_Message="Invalid credentials in Authorization header")
        for pattern, method in ROUTES.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return method(self, token, body, *found.groups())
        return self.answer(404, {"error": "no such page"})

    def opened(self, name, token):
        """The repository, or None once the refusal is sent."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not token):
            self.answer(404 if token else 401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        if found.gated and not token:
            self.answer(401, X_Error_Code="GatedRepo", X_Error_Message="Access to it is restricted")
            return None
        return found

    def content(self, name, token, revision):
        """The commit and its files, or None once the refusal is sent."""
        if (found := self.opened(name, token)) is None:
            return None
        if (sha := found.at(revision)) not in found.commits:
            self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            return None
        return sha, found.commits[sha]

    def resolve(self, token, body, name, revision, file):
        if (found := self.content(name, token, revision)) is None:
            return
        sha, files = found
        if file not in files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found", X_Repo_Commit=sha)
        oid = hashlib.sha256(files[file]).hexdigest()
        self.hub.large[oid] = files[file]
        size = self.hub.sizes.get(file, len(files[file]))
        linked = {"X_Repo_Commit": sha, "X_Linked_Etag": f'"{oid}"', "X_Linked_Size": size}
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # as large files are on another host
        self.answer(302, Location=f"{elsewhere}/cdn/{oid}", **linked)

    def cdn(self, token, body, oid):
        if token:  # which is none of that host's business
            return self.answer(500)
        self.answer(200, self.hub.large[oid], ETag=f'"{oid}"')

    def info(self, token, body, name, revision="main"):
        if (found := self.content(name, token, revision)) is None:
            return
        siblings = [{"rfilename": file} for file in found[1]]
        private = self.hub.repositories[name].private
        self.answer(200, {"id": name, "sha": found[0], "private": private, "siblings": siblings})

    def tree(self, token, body, name, revision):
        if (found := self.content(name, token, revision)) is not None:
            entries = [{"type": "file", "path": f, "size": len(x), "oid": "0" * 40} for f, x in found[1].items()]
            self.answer(200, entries)

    def create(self, token, body):
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if not token:
            return self.answer(401, {"error": "Invalid username or password."})
        if asked["organization"] != "me":
            return self.answer(403, {"error": "no rights"}, X_Error_Message="You have no rights there")
        if name in self.hub.repositories:
            return self.answer(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        private = asked.get("visibility") == "private" or asked.get("private", False)
        self.hub.add(name, {".gitattributes": b""}, private=private)
        self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def branch(self, token, body, name, branch):
        repository = self.hub.repositories[name]
        if branch in repository.branches:
            return self.answer(409, {"error": "exists"})
        repository.branches[branch] = repository.branches["main"]
        self.answer(200, {})

    def validate(self, token, body):
        head = json.loads(body)["content"].split("---\n")[1]
        wrong = [] if yaml.safe_load(head).get("license") in ("mit", "apache-2.0") else [{"message": "unknown license"}]
        body = {"errors": wrong, "warnings": []}
        as_text = "text/plain" in self.headers.get("Accept", "")
        self.answer(400 if wrong else 200, b"unknown license" if wrong and as_text else body)

    def preupload(self, token, body, name, revision):
        if self.content(name, token, revision) is None:
            return
        if not token:
            return self.answer(401, {"error": "Invalid username or password."})
        files = [
            {"path": x["path"], "uploadMode": "lfs" if x["path"].endswith(".safetensors") else "regular"}
            for x in json.loads(body)["files"]
        ]
        self.answer(200, {"files": [x | {"shouldIgnore": False, "oid": None} for x in files]})

    def batch(self, token, body, name):
        objects = []
        for x in json.loads(body)["objects"]:
            actions = {} if x["oid"] in self.hub.large else {"upload": {"href": f"{self.hub.url}/lfs/{x['oid']}"}}
            objects.append({**x, "actions": actions} if actions else x)
        self.answer(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def put(self, token, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.large[oid] = body
        self.answer(200)

    def commit(self, token, body, name, branch):
        lines = [json.loads(line) for line in body.splitlines()]
        files = {}
        for line in lines[1:]:
            value = line["value"]
            is_large = line["key"] == "lfsFile"
            files[value["path"]] = self.hub.large[value["oid"]] if is_large else base64.b64decode(value["content"])
        sha = self.hub.repositories[name].commit(files, branch)
        url = f"{self.hub.url}/{name}/commit/{sha}"
        self.answer(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


for verb in ("GET", "HEAD", "POST", "PUT"):
    setattr(Handler, f"do_{verb}", Handler.handle_any)

NAME = r"([^/]+/[^/]+)"
ROUTES = {
    rf"(?:HEAD|GET) /{NAME}/resolve/(refs/pr/\d+|[^/]+)/(.+)": Handler.resolve,
    r"(?:HEAD|GET) /cdn/(\w+)": Handler.cdn,
    rf"GET /api/models/{NAME}": Handler.info,
    rf"GET /api/models/{NAME}/revision/(.+)": Handler.info,
    rf"GET /api/models/{NAME}/tree/([^/]+)": Handler.tree,
    r"POST /api/repos/create": Handler.create,
    r"POST /api/validate-yaml": Handler.validate,
    rf"POST /api/models/{NAME}/branch/(.+)": Handler.branch,
    rf"POST /api/models/{NAME}/preupload/(.+)": Handler.preupload,
    rf"POST /api/models/{NAME}/commit/(.+)": Handler.commit,
    rf"POST /{NAME}\.git/info/lfs/objects/batch": Handler.batch,
    r"PUT /lfs/(\w+)": Handler.put,
}


@contextmanager
def serving():
    """Yield a hub that listens at its `url`."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
