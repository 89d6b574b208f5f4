"""The reference pages say what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

from fastapi.routing import APIRoute

from tidegate.cli.dev import examples
from tidegate.devstack.ready_file import Admin, Mail, Nats, Replica, Running
from tidegate.devstack.tour import STEPS
from tidegate.edge.http import openapi
from tidegate.edge.http.admin_routes import AdminRoutes
from tidegate.edge.http.auth_routes import AuthRoutes
from tidegate.edge.http.control import Caller, create_app
from tidegate.edge.http.problems import STATUSES
from tidegate.edge.http.routing_routes import RoutingRoutes
from tidegate.edge.http.system_routes import SystemRoutes
from tidegate.kernel.clock import SystemClock
from tidegate.kernel.errors import CODES
from tidegate.store import schema

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "docs" / "reference"

_NOBODY = cast("Any", None)


def rows(page: Path) -> list[list[str]]:
    """The cells of every table row, without their backquotes."""
    return [
        [cell.strip().strip("`") for cell in line.strip("| ").split(" | ")]
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ")
    ]


def test_generated_pages_are_what_the_code_says() -> None:
    """`python docs/generate.py` writes them anew."""
    check = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_error_code_is_described_with_its_kind_and_status() -> None:
    described = {
        code: (kind, int(status))
        for code, kind, status, *_ in (
            row for row in rows(REFERENCE / "errors.md") if len(row) == 5
        )
        if code.isupper()
    }
    assert described == {
        word: (code.kind.value, STATUSES[code.kind]) for word, code in CODES.items()
    }


def test_every_call_is_described_and_nothing_else() -> None:
    text = (REFERENCE / "http.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`\s]*)`", text))
    app = create_app(SystemClock(), 1024)
    caller = Caller(_NOBODY)
    system = SystemRoutes(_NOBODY, list, _NOBODY, 0)
    app.include_router(AuthRoutes(_NOBODY, _NOBODY, _NOBODY, _NOBODY, caller).router())
    app.include_router(AdminRoutes(_NOBODY, _NOBODY, _NOBODY, _NOBODY, caller).router())
    app.include_router(RoutingRoutes(_NOBODY, _NOBODY, _NOBODY, caller).router())
    app.include_router(system.router(app))
    openapi.complete(app)
    there = {
        (method.upper(), path)
        for path, operations in app.openapi()["paths"].items()
        for method in operations
    }
    hidden = {
        (method, route.path)
        for route in app.routes
        for method in getattr(route, "methods", None) or ()
        if not (isinstance(route, APIRoute) and route.include_in_schema)
    }
    assert there <= described
    assert described - there <= hidden


def test_every_event_is_described_and_nothing_else() -> None:
    paths = [*(ROOT / "src" / "tidegate").rglob("*.py"), *(ROOT / "migrations").glob("*.py")]
    sources = "".join(path.read_text(encoding="utf-8") for path in paths)
    kinds = "|".join(set(re.findall(r"\bRecord\(\s*\"([a-z_]+)\.", sources)))
    # Rights have the same form: `routing.read`.
    recorded = set(re.findall(rf"\"((?:{kinds})\.(?!read\"|write\")[a-z_]+)\"", sources))
    described = {
        row[0]
        for row in rows(REFERENCE / "state.md")
        if len(row) == 4 and row[1] in {"iam", "routing"}
    }
    assert described == recorded


def test_every_stream_is_described_and_nothing_else() -> None:
    table = [row[0] for row in rows(REFERENCE / "state.md") if row[0].isupper() or "KV_" in row[0]]
    assert sorted(table) == sorted(schema._STREAMS)


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["devstack"],
        *project["dependency-groups"]["check"],
    ]
    names = {re.split(r"[<>=]", requirement)[0] for requirement in wanted}
    page = ROOT / "docs" / "dependencies.md"
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    described = {name for line in lines for name in re.findall(r"`([\w-]+)`", line.split("|")[1])}
    assert described == names


def test_the_readme_shows_the_commands_that_dev_suggests() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    replicas = tuple(Replica(f"http://127.0.0.1:{port}", None, 1) for port in (8080, 8081))
    mail, admin = Mail("http://127.0.0.1:8090"), Admin("admin@example.org", "<as printed>")
    for what, command in examples(Running(replicas, Nats("", ()), mail, (), admin, ())):
        assert f"# {what}\n{command}\n" in readme


def test_the_readme_knows_how_long_the_tour_is() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"The tour prints {len(STEPS)} steps" in readme
