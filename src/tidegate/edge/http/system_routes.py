"""What is always there: health, readiness, version, metrics, keys, and what error codes mean."""

from collections.abc import Callable
from dataclasses import dataclass

import yaml
from fastapi import APIRouter, FastAPI, Response

from tidegate.edge.http.control import Refused, StrictRoute
from tidegate.edge.http.problems import STATUSES
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.observability import metrics
from tidegate.sessions.keys import SigningKeyView


@dataclass(frozen=True, slots=True)
class Version:
    """What is running."""

    version: str
    git_revision: str
    build_time: str


@dataclass(frozen=True, slots=True)
class SystemRoutes:
    """The routes and what they report. `not_ready` lists the reasons; none: ready."""

    version: Version
    not_ready: Callable[[], list[str]]
    signing_keys: SigningKeyView
    jwks_max_age_s: int

    def router(self, app: FastAPI) -> APIRouter:
        router = APIRouter(tags=["system"], route_class=StrictRoute)

        async def health() -> dict[str, str]:
            """The process lives."""
            return {"status": "ok"}

        async def ready(response: Response) -> dict[str, object]:
            """It may take traffic; if not, the reasons."""
            reasons = self.not_ready()
            if reasons:
                response.status_code = 503
            return {"status": "not_ready" if reasons else "ready", "reasons": reasons}

        for path in ("/health", "/health/live"):
            router.add_api_route(path, health, include_in_schema=path == "/health")
        for path in ("/ready", "/startup", "/health/ready", "/health/startup"):
            router.add_api_route(path, ready, include_in_schema=path == "/ready")

        @router.get("/version")
        async def version() -> dict[str, str]:
            """What is running."""
            return {
                "version": self.version.version,
                "git_revision": self.version.git_revision,
                "build_time": self.version.build_time,
            }

        @router.get("/metrics", response_class=Response)
        async def exposition() -> Response:
            """All metrics in the Prometheus text format."""
            self.not_ready()  # The lag of the views is measured when it is asked for.
            return Response(metrics.exposition(), media_type="text/plain; version=0.0.4")

        @router.get("/.well-known/jwks.json")
        async def jwks(response: Response) -> dict[str, list[dict[str, str]]]:
            """The public keys of access tokens (RFC 7517)."""
            response.headers["cache-control"] = f"public, max-age={self.jwks_max_age_s}"
            return self.signing_keys.jwks()

        @router.get("/errors/{code}")
        async def error(code: str) -> dict[str, object]:
            """What an error code means; the `type` of every problem points here."""
            found = errors.CODES.get(code)
            if found is None:
                raise Refused(Refusal(errors.NOT_FOUND, "There is no such error code."))
            return {
                "code": found.word,
                "title": found.title,
                "kind": found.kind.value,
                "status": STATUSES[found.kind],
            }

        @router.get("/openapi.yaml", include_in_schema=False)
        async def openapi_yaml() -> Response:
            document = yaml.safe_dump(app.openapi(), sort_keys=False, allow_unicode=True)
            return Response(document, media_type="application/yaml")

        return router
