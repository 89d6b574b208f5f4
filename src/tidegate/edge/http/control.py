"""The control plane: FastAPI with our codec and our errors in place of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from tidegate import __version__
from tidegate.edge.http import asgi, codec, problems
from tidegate.edge.http.asgi import CLIENT_GONE, INTERNAL, ClientGone
from tidegate.gateway.admission import Admission, Principal
from tidegate.kernel import errors
from tidegate.kernel.clock import Clock
from tidegate.kernel.errors import FieldProblem, Refusal
from tidegate.observability import context
from tidegate.observability.context import RequestContext
from tidegate.store.bucket import Done, Revision
from tidegate.store.events import Origin

REVISION_HEADER = "x-tidegate-revision"
# How many replicas did not say in time that they have an addition.
UNCONFIRMED_HEADER = "x-tidegate-unconfirmed"
_MOST_PROBLEMS = 50
_NOT_JSON = Refusal(errors.MEDIA_TYPE, "Send `Content-Type: application/json`.")


class Refused(Exception):
    """Carries a refusal out of a route or a dependency to the handler that answers it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code.word)
        self.refusal = refusal


def accepted(result: Done[Any] | Refusal, response: Response) -> Any:
    """The outcome of a command, its revision put into the answer. Raises Refused."""
    if isinstance(result, Refusal):
        raise Refused(result)
    set_revision(response, result.revision)
    if result.unconfirmed:
        response.headers[UNCONFIRMED_HEADER] = str(result.unconfirmed)
    return result.outcome


def set_revision(response: Response, revision: Revision) -> None:
    response.headers[REVISION_HEADER] = str(revision)


def request_context() -> RequestContext:
    """The context that the front made. Raises LookupError outside of a request."""
    request = context.current.get()
    if request is None:
        raise LookupError("no request is being served")
    return request


def origin() -> Origin:
    """Where the request being served came from."""
    request = request_context()
    return Origin(request.request_id, request.address, request.user_agent)


class Caller:
    """The dependency of every route that needs a token."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def __call__(self, request: Request) -> Principal:
        authorization = request.headers.getlist("authorization")
        principal = await self._admission.after_loading(
            lambda: self._admission.authenticate(authorization)
        )
        if isinstance(principal, Refusal):
            raise Refused(principal)
        request_context().principal_id = principal.id
        return principal

    async def must(self, principal: Principal, action: str) -> None:
        """Raises Refused unless the principal has the right in the platform's scope."""
        because = await self._admission.after_loading(
            lambda: self._admission.authorize(principal, None, action, {})
        )
        if isinstance(because, Refusal):
            raise Refused(because)


class _StrictRequest(Request):
    """A request whose body is bounded, declared as JSON, and read by our codec."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            body = await asgi.read_body(self.scope, self.receive, self.app.state.max_body_bytes)
            if isinstance(body, Refusal):
                raise Refused(body)
            self._body = body
        return self._body

    async def json(self) -> Any:
        value = codec.loads(await self.body())
        if isinstance(value, Refusal):
            raise Refused(value)
        return value


class StrictRoute(APIRoute):
    """A route whose requests are strict, and which tells the context its template."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            request_context().route = self.path_format
            if self.body_field is not None:
                strict = _StrictRequest(request.scope, request.receive)
                if not codec.is_json(request.headers.get("content-type", "")):
                    raise Refused(_NOT_JSON)
                # FastAPI wraps what reading a body raises; read it before.
                await strict.json()
                request = strict
            return await handler(request)

        return handle


def create_app(clock: Clock, max_body_bytes: int) -> FastAPI:
    """An empty application with our errors."""
    app = FastAPI(
        title="tidegate",
        version=__version__,
        summary="API gateway and identity service",
        openapi_url="/openapi.json",
        docs_url="/docs",
        redoc_url=None,
        # The redirect would be built from the Host header, which anybody may choose.
        redirect_slashes=False,
    )
    app.state.max_body_bytes = max_body_bytes
    _answer_errors(app, clock)
    return app


def _answer_errors(app: FastAPI, clock: Clock) -> None:
    """Has every error of `app` answered as a problem document."""

    def problem(refusal: Refusal) -> Response:
        return Response(
            problems.body(refusal, clock),
            problems.status(refusal),
            headers=dict(problems.headers(refusal)),
        )

    @app.exception_handler(Refused)
    async def on_refused(_: Request, exc: Refused) -> Response:
        return problem(exc.refusal)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, exc: RequestValidationError) -> Response:
        found = tuple(
            FieldProblem(_pointer(error["loc"][1:]), error["msg"])
            for error in exc.errors()[:_MOST_PROBLEMS]
        )
        return problem(Refusal(errors.INVALID, "Some fields are wrong.", errors=found))

    @app.exception_handler(HTTPException)
    async def on_http(_: Request, exc: HTTPException) -> Response:
        code = {404: errors.NOT_FOUND, 405: errors.METHOD_NOT_ALLOWED}.get(
            exc.status_code, errors.MALFORMED
        )
        answer = problem(Refusal(code, "There is nothing here for this request."))
        if exc.headers and "Allow" in exc.headers:
            answer.headers["allow"] = exc.headers["Allow"]
        return answer

    @app.exception_handler(ClientGone)
    async def on_gone(_: Request, __: ClientGone) -> Response:
        # Nobody reads it; the status is for the log line and the metrics.
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(Exception)
    async def on_failure(_: Request, __: Exception) -> Response:
        # The framework raises it again after this answer, and the front logs it.
        return problem(INTERNAL)


def _pointer(path: Sequence[str | int]) -> str:
    """The JSON pointer (RFC 6901) of `path`, its parts cut where they are absurdly long."""
    parts = (str(part)[:128].replace("~", "~0").replace("/", "~1") for part in path)
    return "".join(f"/{part}" for part in parts)
