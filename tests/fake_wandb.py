"""A server that speaks as much of W&B's protocol as its clients need here: runs, their files, views, artifacts.

It knows nothing of this project; it keeps what it is told, so that tests can compare it with the records. `answers`
holds HTTP statuses to answer with before it does its work; `gate`, called with each request, may block or raise.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KEY = "0123456789" * 4


ENTITY = "me"


@dataclass
class Run:
    name: str
    project: str
    display_name: str = ""
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "running"
    exit_code: int | None = None
    opened: int = 0
    """How often a client has begun to write it."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history without W&B's own keys."""
        return [{key: value for key, value in row.items() if not key.startswith("_")} for row in self.history]

    @property
    def settings(self) -> dict[str, Any]:
        return {key: entry["value"] for key, entry in self.config.items() if not key.startswith("_")}


@dataclass
class Artifact:
    id: str
    name: str
    type: str
    digest: str
    metadata: dict[str, Any]
    description: str | None
    run: str
    manifest: dict[str, Any] = field(default_factory=dict)
    version: int = 0
    committed: bool = False


@dataclass
class FakeWandb:
    """The server's state, by project `bsnn` of the entity `me`."""

    url: str = ""
    runs: dict[str, Run] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: list[Artifact] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """What it was asked and doesn't know: a test should find nothing here."""
    answers: list[tuple[str, int]] = field(default_factory=list)
    """(part of the request's name, HTTP status): used up one by one by the requests that they fit."""
    gate: Callable[[str], object] = lambda name: None
    known_key: str = KEY
    projects: set[str] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def count(self, name: str) -> int:
        return sum(request == name for request in self.requests)

    def refusal(self, name: str) -> int | None:
        for place, (part, status) in enumerate(self.answers):
            if part in name:
                del self.answers[place]
                return status
        return None

    # --- GraphQL: one method for each operation, by its name ---

    def graphql(self, operation: str, query: str, v: dict[str, Any]) -> dict[str, Any]:
        method = getattr(self, f"do_{operation}", None)
        if method is None:
            self.unknown.append(f"{operation}: {query}\n{v}")
            return {}
        answer: dict[str, Any] = method(v)
        return answer

    def do_Viewer(self, v: Any) -> Any:
        return {"viewer": {"id": "VXNlcjox", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "flags": "{}",
                           "email": "me@example.org", "admin": False, "deletedAt": None,
                           "teams": {"edges": []}, "apiKeys": {"edges": []}}}  # fmt: skip

    do_GetViewer = do_GetDefaultEntity = do_VerifyLogin = do_Viewer

    def do_ServerFeaturesQuery(self, v: Any) -> Any:
        return {"serverInfo": {"features": []}}

    def do_RunResumeStatus(self, v: Any) -> Any:
        run = self.runs.get(v["name"])
        if run is None:
            return {"model": {"id": "P", "name": v["project"], "entity": _entity(), "bucket": None}}
        bucket = self.node(run) | {
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "wandbConfig": json.dumps(run.config.get("_wandb", {}).get("value", {})),  # without it nothing is resumed
        }
        return {"model": {"id": "P", "name": v["project"], "entity": _entity(), "bucket": bucket}}

    def do_UpsertBucket(self, v: Any) -> Any:
        if "display_name" in v:  # of the public API, a run that is there
            [run] = [run for run in self.runs.values() if _gid(run.name) == v["id"]]
            run.tags, run.config = v["tags"], json.loads(v["config"])
            return {"upsertBucket": {"bucket": self.node(run), "inserted": False}}
        if v.get("summaryMetrics"):  # the same, as it was
            return {"upsertBucket": {"bucket": {"id": v["id"]}, "inserted": False}}
        name = v["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(name, v["project"]))
        self.projects.add(v["project"])
        if v.get("displayName"):  # as a client begins, not as it tells more
            run.display_name, run.group, run.job_type = v["displayName"], v.get("groupName"), v.get("jobType")
            run.tags = v.get("tags") or []
            run.opened += 1
            run.state = "running"
        if v.get("config"):
            run.config = json.loads(v["config"])
        project = {"id": "P", "name": run.project, "entity": _entity()}
        bucket = {"id": _gid(name), "name": name, "displayName": run.display_name, "description": "",
                  "config": json.dumps(run.config), "sweepName": None, "project": project,
                  "historyLineCount": len(run.history)}  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def do_CreateRunFiles(self, v: Any) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{v['run']}/{name}"} for name in v["files"]]
        return {"createRunFiles": {"runID": _gid(v["run"]), "uploadHeaders": [], "files": files}}

    def do_Runs(self, v: Any) -> Any:
        if v["project"] not in self.projects:
            return {"project": None}
        wanted = json.loads(v.get("filters") or "{}")
        assert set(wanted) <= {"tags"}, wanted
        found = [run for run in self.runs.values() if "tags" not in wanted or wanted["tags"] in run.tags]
        start = int(v.get("cursor") or 0)
        page = found[start : start + v["perPage"]]
        end = start + len(page)
        edges = [{"node": {"projectId": 1, **self.node(run)}, "cursor": str(end)} for run in page]
        info = {"endCursor": str(end), "hasNextPage": end < len(found)}
        runs = {"edges": edges, "pageInfo": info}
        return {"project": {"internalId": "UA==", "runCount": len(found), "readOnly": False, "runs": runs}}

    def node(self, run: Run) -> dict[str, Any]:
        return {"id": _gid(run.name), "tags": run.tags, "name": run.name, "displayName": run.display_name,
                "sweepName": None, "state": run.state, "config": json.dumps(run.config), "group": run.group,
                "jobType": run.job_type, "commit": None, "readOnly": False, "createdAt": "2026-01-01T00:00:00Z",
                "heartbeatAt": "2026-01-01T00:00:00Z", "description": "", "notes": None, "systemMetrics": "{}",
                "summaryMetrics": json.dumps(run.summary), "historyLineCount": len(run.history),
                "user": {"name": ENTITY, "username": ENTITY}, "historyKeys": None}  # fmt: skip

    # --- projects and views ---

    def do_UpsertView2(self, v: Any) -> Any:
        """A workspace: renewed if its id is told."""
        known = v.get("id") or str(len(self.views) + 1)
        inserted = known not in self.views
        self.views[known] = {"id": known, **{key: value for key, value in v.items() if key != "id"}}
        project = {"id": "P", "name": v["projectName"], "entityName": v["entityName"]}
        view = self.views[known] | {"project": project, "updatedAt": "2026-01-01T00:00:00Z"}
        return {"upsertView": {"view": view, "inserted": inserted}}

    do_upsertView = do_UpsertView2  # a report

    def do_GetProjects(self, v: Any) -> Any:
        user = self.do_Viewer(v)["viewer"]
        nodes = [{"__typename": "Project", "id": "P", "name": name, "entityName": ENTITY, "isBenchmark": False,
                  "createdAt": "2026-01-01T00:00:00Z", "user": user} for name in sorted(self.projects)]  # fmt: skip
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node} for node in nodes]}}

    def do_CreateProject(self, v: Any) -> Any:
        name = v["input"]["name"]
        self.projects.add(name)
        project = {"id": "P", "name": name, "entityName": ENTITY, "description": None, "access": None, "views": None}
        return {"result": {"project": project, "model": project, "inserted": True}}

    def do_ProjectInternalId(self, v: Any) -> Any:
        return {"project": {"id": "P", "internalId": "I"} if v["projectName"] in self.projects else None}

    def do_ProjectViews(self, v: Any) -> Any:
        reports = [view for view in self.views.values() if view["type"] == "runs"]
        user = {"username": ENTITY, "photoUrl": None, "email": None}
        edges = [
            {"node": {**view, "user": user, "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None}, "cursor": "1"}
            for view in reports
        ]
        page = {"endCursor": "1", "hasNextPage": False}
        return {"project": {"allViews": {"edges": edges, "pageInfo": page}}}

    def do_View(self, v: Any) -> Any:
        found = [one for one in self.views.values() if one["name"] == v["viewName"]]
        edges = [{"node": {key: one[key] for key in ("id", "displayName", "spec")}} for one in found]
        return {"project": {"allViews": {"edges": edges}}}

    # --- artifacts ---

    def do_CreateArtifact(self, v: Any) -> Any:
        told = v["input"]
        name = told["artifactCollectionName"]
        before = [one for one in self.artifacts if one.name == name and one.committed]
        if before and before[-1].digest == told["digest"]:
            found, state = before[-1], "COMMITTED"
        else:
            found, state = self._new_artifact(told, len(before)), "PENDING"
        latest = {"id": before[-1].id} if before else None
        return {"createArtifact": {"artifact": {"id": found.id, "state": state,
                                                "artifactSequence": {"latestArtifact": latest}}}}  # fmt: skip

    def _new_artifact(self, told: dict[str, Any], version: int) -> Artifact:
        number = str(len(self.artifacts))
        new = Artifact(id=base64.b64encode(f"Artifact:{number}".encode()).decode(),
                       name=told["artifactCollectionName"], type=told["artifactTypeName"], digest=told["digest"],
                       metadata=json.loads(told["metadata"] or "{}"), description=told["description"],
                       run=told["runName"], version=version)  # fmt: skip
        self.artifacts.append(new)
        return new

    def do_CreateArtifactManifest(self, v: Any) -> Any:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(v["artifactID"], v["includeUpload"])}}

    def do_UpdateArtifactManifest(self, v: Any) -> Any:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(v["artifactManifestID"], True)}}

    def _manifest(self, artifact: str, upload: bool) -> dict[str, Any]:
        file = {"id": "F"}
        if upload:
            file |= {"uploadUrl": f"{self.url}/upload/manifest/{artifact}", "uploadHeaders": []}
        return {"id": artifact, "file": file}

    def do_CreateArtifactFiles(self, v: Any) -> Any:
        nodes = []
        for told in v["input"]["artifactFiles"]:
            path = f"{told['artifactID']}/{told['name']}"
            nodes.append({"storagePath": path, "uploadUrl": f"{self.url}/upload/{path}", "uploadHeaders": [],
                          "uploadMultipartUrls": None, "artifact": {"id": told["artifactID"]}})  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def do_CommitArtifact(self, v: Any) -> Any:
        [found] = [one for one in self.artifacts if one.id == v["artifactID"]]
        found.committed = True
        found.manifest = json.loads(self.blobs[f"manifest/{found.id}"])
        return {"commitArtifact": {"artifact": {"id": found.id, "digest": found.digest}}}

    def do_ArtifactType(self, v: Any) -> Any:
        found = self._named(v["name"])
        return {"project": {"artifact": found and {"artifactType": {"name": found.type}}}}

    def do_ArtifactMembershipByName(self, v: Any) -> Any:
        found = self._named(v["name"])
        if found is None:
            return {"project": {"artifactCollectionMembership": None}}
        artifact = self._described(found)
        membership = {"__typename": "ArtifactCollectionMembership", "id": "M", "versionIndex": found.version,
                      "createdAt": "2026-01-01T00:00:00Z", "aliases": [{"id": "A", "alias": "latest"}],
                      "artifactCollection": artifact["artifactSequence"], "artifact": artifact}  # fmt: skip
        return {"project": {"artifactCollectionMembership": membership}}

    def do_ArtifactByID(self, v: Any) -> Any:
        [found] = [one for one in self.artifacts if one.id == v["id"]]
        return {"artifact": self._described(found)}

    def _described(self, found: Artifact) -> dict[str, Any]:
        project = {"id": "P", "internalId": "P", "name": "bsnn", "entity": _entity()}
        collection = {"__typename": "ArtifactSequence", "id": "C", "name": found.name, "project": project,
                      "type": {"id": "T", "name": found.type}}  # fmt: skip
        return {"__typename": "Artifact", "id": found.id, "artifactSequence": collection,
                    "versionIndex": found.version, "artifactType": {"name": found.type},
                    "description": found.description, "metadata": json.dumps(found.metadata),
                    "ttlDurationSeconds": -2, "ttlIsInherited": True, "tags": [], "historyStep": 0,
                    "state": "COMMITTED", "size": 1, "digest": found.digest, "digestAlgorithm": "MANIFEST_MD5",
                    "commitHash": found.id, "fileCount": 1, "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None,
                    "aliases": []}  # fmt: skip

    def _named(self, name: str) -> Artifact | None:
        collection, _, alias = name.partition(":")
        assert alias == "latest", name
        found = [one for one in self.artifacts if one.name == collection and one.committed]
        return found[-1] if found else None

    def do_FetchArtifactDigestAlgorithm(self, v: Any) -> Any:
        return {"project": None}

    # --- HTTP beside GraphQL ---

    def file_stream(self, name: str, told: dict[str, Any]) -> None:
        run = self.runs[name]
        for file, chunk in (told.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]] if file.endswith((".json", ".jsonl")) else []
            if file == "wandb-history.jsonl":
                run.history[chunk["offset"] :] = lines  # a repeated chunk is no second one
            elif file == "wandb-summary.json":
                run.summary = lines[-1]
        if told.get("complete"):
            run.exit_code = told.get("exitcode")
            run.state = "finished" if run.exit_code == 0 else "failed"


def _entity() -> dict[str, str]:
    return {"id": "E", "name": ENTITY}


def _gid(name: str) -> str:
    return base64.b64encode(f"Run:v1:{name}:bsnn:{ENTITY}".encode()).decode()
