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
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                answer = server.answer(json.loads(content)) if self.path == "/graphql" else {}
                self.send(json.dumps({"data": answer}).encode())

            def do_GET(self) -> None:
                _, _, run, name = self.path.split("/", 3)
                server.downloads.append(unquote(name))
                self.send(next(r for r in server.runs if r.id == run).files[unquote(name)][0])

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
        nodes = [self._run(run) for run in self.runs if run.group == group]
        return {"project": {"runCount": len(nodes), "runs": self._paged(nodes, given["cursor"])}}

    def _paged(self, nodes: list[dict[str, Any]], cursor: str | None) -> dict[str, Any]:
        start = int(cursor or 0)
        edges = [{"node": node, "cursor": str(start + i + 1)} for i, node in enumerate(nodes[start : start + self.page])]
        more = start + self.page < len(nodes)
        return {"edges": edges, "pageInfo": {"endCursor": str(start + len(edges)), "hasNextPage": more}}

    def _run(self, run: Run) -> dict[str, Any]:
        config = json.dumps({key: {"value": value} for key, value in run.config.items()})
        empty = dict.fromkeys(("tags", "sweepName", "jobType", "commit", "description", "notes", "heartbeatAt"))
        return empty | {
            "id": f"relay-{run.id}",
            "name": run.id,
            "displayName": run.name,
            "group": run.group,
            "state": "finished",
            "readOnly": False,
            "user": {"name": "Me", "username": "me"},
            "createdAt": BEFORE,
            "historyLineCount": 1,
            "projectId": 1,
            "systemMetrics": "{}",
            "config": config,
            "summaryMetrics": json.dumps(run.summary),
            "historyKeys": {},
        }

    def _file(self, run: Run, name: str) -> dict[str, Any]:
        content, changed = run.files[name]
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        url = f"{self.url}/files/{run.id}/{quote(name, safe='')}"
        return {
            "id": name,
            "name": name,
            "url": url,
            "directUrl": url,
            "sizeBytes": str(len(content)),
            "mimetype": "",
            "updatedAt": changed,
            "md5": md5,
        }


def end_service(patience: float = 5.0) -> None:
    """wandb.teardown, with a limit: a service process of wandb that has not ended after `patience` seconds is killed. wandb
    forgets keys and places."""
    import wandb
    from wandb.sdk import wandb_setup

    connection = getattr(wandb_setup._singleton, "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    late = threading.Timer(patience, process.kill) if process is not None else None
    if late is not None:
        late.start()
    try:
        wandb.teardown()
    except (Exception, SystemExit):  # of a process that was killed
        if late is None or late.is_alive():
            raise
    finally:
        if late is not None:
            late.cancel()


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    """No key, and nothing of wandb's outside the folder of the test."""
    end_service()  # else the environment would name it after its end
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, place in {"CACHE_DIR": "cache", "CONFIG_DIR": "config", "DIR": "runs"}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "home" / place))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))
    yield
    end_service()


@pytest.fixture
def server(no_account, monkeypatch):
    running = Server()
    thread = threading.Thread(target=running.http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("WANDB_BASE_URL", running.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield running
    running.http.shutdown()
    running.http.server_close()
    thread.join()
