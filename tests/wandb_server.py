"""A server on this machine that answers what wandb asks of its own, so that the real package can be used against it."""

import base64
import hashlib
import json
import os
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

import pytest

KEY = "0123456789" * 4
BEFORE = "2026-01-01T12:00:00Z"


@dataclass
class Run:
    """`files`: by name, what they hold and when they changed."""

    id: str
    name: str
    group: str
    files: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


class Server:
    """Of one project, me/lab."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.downloads: list[str] = []
        self.views: list[dict[str, Any]] = []
        self.entity: str | None = "me"
        self.page = 3
        """Entries at a time, whatever is asked for."""
        own = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                said = own.answer(json.loads(content)) if self.path == "/graphql" else {}
                self.send(json.dumps({"data": said}).encode())

            def do_GET(self) -> None:
                _, _, run, name = self.path.split("/", 3)
                own.downloads.append(unquote(name))
                self.send(next(r for r in own.runs if r.id == run).files[unquote(name)][0])

            def send(self, content: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        query, given = asked["query"], asked.get("variables") or {}
        if "upsertView" in query:
            self.views.append(given)
            return {"upsertView": {"view": {"id": "view1", "name": given["name"]}, "inserted": True}}
        if "viewer" in query:
            return {"viewer": {"id": "x", "entity": self.entity, "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if (given["entity"], given["project"]) != ("me", "lab"):
            return {"project": None}
        if "RunFiles" in query:
            run = next(run for run in self.runs if run.id == given["name"])
            files = [self._file(run, name) for name in run.files]
            return {"project": {"run": {"fileCount": len(files), "files": self._paged(files, given["fileCursor"])}}}
        (group,) = json.loads(given["filters"]).values()
        found = [self._run(run) for run in self.runs if run.group == group]
        return {"project": {"runCount": len(found), "runs": self._paged(found, given["cursor"])}}

    def _paged(self, nodes: list[dict[str, Any]], cursor: str | None) -> dict[str, Any]:
        start = int(cursor or 0)
        edges = [{"node": node, "cursor": str(start + i + 1)} for i, node in enumerate(nodes[start : start + self.page])]
        more = start + self.page < len(nodes)
        return {"edges": edges, "pageInfo": {"endCursor": str(start + len(edges)), "hasNextPage": more}}

    def _run(self, run: Run) -> dict[str, Any]:
        config = json.dumps({key: {"value": value} for key, value in run.config.items()})
        empty = dict.fromkeys(("tags", "sweepName", "jobType", "commit", "description", "notes", "heartbeatAt"))
        return empty | {
            "id": f"relay-{run.id}", "name": run.id, "displayName": run.name, "group": run.group, "state": "finished",
            "readOnly": False, "user": {"name": "Me", "username": "me"}, "createdAt": BEFORE, "historyLineCount": 1,
            "projectId": 1, "systemMetrics": "{}", "config": config, "summaryMetrics": json.dumps(run.summary),
            "historyKeys": {},
        }  # fmt: skip

    def _file(self, run: Run, name: str) -> dict[str, Any]:
        content, changed = run.files[name]
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        url = f"{self.url}/files/{run.id}/{quote(name, safe='')}"
        return {
            "id": name, "name": name, "url": url, "directUrl": url, "sizeBytes": str(len(content)), "mimetype": "",
            "updatedAt": changed, "md5": md5,
        }  # fmt: skip


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    """No key, and nothing of wandb's outside the folder of the test."""
    import wandb

    wandb.teardown()  # else its service, which is named in the environment, would be put back when it is gone
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, place in {"CACHE_DIR": "cache", "CONFIG_DIR": "config", "DIR": "runs"}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "home" / place))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))
    yield
    wandb.teardown()  # what it knows of keys and places


@pytest.fixture
def server(no_account, monkeypatch):
    own = Server()
    thread = threading.Thread(target=own.http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", own.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield own
    own.http.shutdown()
    own.http.server_close()
    thread.join()
