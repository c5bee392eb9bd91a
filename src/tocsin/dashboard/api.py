"""The JSON interface of a running tocsin, version 1. Read-only but for the POSTs.

| path | answer |
|---|---|
| `GET /healthz` | `{"ok": true}` once recovery is over |
| `GET /api/v1/status` | counts: events, agents, evidence, epoch, verdicts, monitors |
| `GET /api/v1/agents?limit=N` | agents, most suspicious first |
| `GET /api/v1/agents/{agent_id}` | why; `agreed_confidence`: as agreed, `probability`: one monitor's latest |
| `GET /api/v1/verdicts?limit=N` | verdicts, latest first, with what moved them and what people said about them |
| `GET /api/v1/verdicts/{verdict_id}/certificate` | the certificate, byte for byte as stored |
| `GET /api/v1/quality` | target and realised share of false alarms, measured power |
| `GET /api/v1/feedback?limit=N` | what people said about alarms, latest first |
| `POST /api/v1/feedback` | `{"agent_id": "a", "outcome": "benign"}` (or `confirmed`; `note` if you like) |
| `GET /api/v1/roster` | the monitors' public keys |
| `GET /api/v1/baseline?level=L&agent=A&agent=B` | baseline of agents at a level of the tree |
| `POST /api/v1/baseline/seal` | end the learning phase of `{"agents": [...]}`, or of everybody |
| `POST /api/v1/baseline/refit` | begin the sums anew, on a grid fitted to the latest events: `{"discard": true}` |
| `POST /api/v1/baseline/retire` | take `{"agents": [...]}` out of every sum, until they act again |
| `GET /metrics` | Prometheus text |
| `GET /` | the status page |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any, TypeVar

import msgspec
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tocsin.analysis import check_cluster
from tocsin.consensus.certificate import COMPROMISED
from tocsin.dashboard.metrics import metrics_text
from tocsin.errors import InputError, TocsinError, Unavailable, UnknownAgent, UserError
from tocsin.runtime.feedback import take_feedback
from tocsin.runtime.pictures import agent_rows, explanation
from tocsin.runtime.quality import known_power, quality
from tocsin.runtime.service import FleetService
from tocsin.runtime.store import Store
from tocsin.trust.keyring import roster_to_dict
from tocsin.wire.baseline import encode as encode_baseline

MAX_LIMIT = 20_000
MAX_SEAL_BYTES = 16 << 20
MAX_FEEDBACK_BYTES = 64 << 10
WITHDRAWN = "its evidence no longer passes the fleet's alarm level"
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

Body = TypeVar("Body", bound=msgspec.Struct)
Handler = Callable[[Request], Awaitable[Response]]


class _Anything(Convertor[str]):
    """An agent's name in a path: slashes and line breaks too."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())


class SealRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a seal; no agents: everybody seen so far."""

    agents: tuple[str, ...] | None = None


class RefitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a refit; `discard` says that what it costs is known."""

    discard: bool = False


class RetireRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a retirement."""

    agents: tuple[str, ...]


class FeedbackRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of feedback about an agent's latest alarm."""

    agent_id: str
    outcome: str
    note: str = ""


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON that nobody caches."""
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def _answered(handler: Handler) -> Handler:
    """Errors of tocsin's own become JSON with a status that fits."""

    async def run(request: Request) -> Response:
        try:
            return await handler(request)
        except TocsinError as error:
            status = 404 if isinstance(error, UnknownAgent) else 400 if isinstance(error, UserError) else 500
            status = 503 if isinstance(error, Unavailable) else status
            body = {"error": type(error).__name__, "cause": error.cause, "remedy": error.remedy}
            return json_response(body, status)

    return run


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "1000")
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= MAX_LIMIT:
        raise InputError(f"limit={text[:40]!r} is not a number from 1 to {MAX_LIMIT}")
    return int(text)


def routes(
    service: FleetService, learning: Callable[[], dict[str, int]], status: Callable[[], dict[str, Any]]
) -> list[Route]:
    """All routes; mount them beside the OTLP ones.

    `learning`: events still to be learned, by agent. `status`: the counts, those of the receiver among them.
    """
    api = _Api(service, learning, status)
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/healthz", api.health),
        ("GET", "/metrics", api.metrics),
        ("GET", "/api/v1/status", api.status),
        ("GET", "/api/v1/agents", api.agents),
        ("GET", "/api/v1/agents/{agent_id:anything}", api.agent),
        ("GET", "/api/v1/verdicts", api.verdicts),
        ("GET", "/api/v1/verdicts/{verdict_id}/certificate", api.certificate),
        ("GET", "/api/v1/quality", api.quality),
        ("GET", "/api/v1/feedback", api.feedback),
        ("POST", "/api/v1/feedback", api.take_feedback),
        ("GET", "/api/v1/roster", api.roster),
        ("GET", "/api/v1/baseline", api.baseline),
        ("POST", "/api/v1/baseline/seal", api.seal),
        ("POST", "/api/v1/baseline/refit", api.refit),
        ("POST", "/api/v1/baseline/retire", api.retire),
    ]
    found = [Route(path, _answered(handler), methods=[method]) for method, path, handler in table]
    pages = [
        ("/", "index.html", "text/html"),
        ("/page.js", "page.js", "text/javascript"),
        ("/page.css", "page.css", "text/css"),
    ]
    found.extend(Route(path, _static(name, kind), methods=["GET"]) for path, name, kind in pages)
    return found


def _static(name: str, kind: str) -> Handler:
    body = resources.files("tocsin.dashboard").joinpath("static", name).read_bytes()

    async def serve(_: Request) -> Response:
        return Response(body, 200, PAGE_HEADERS, kind)

    return serve


class _Api:
    def __init__(
        self, service: FleetService, learning: Callable[[], dict[str, int]], status: Callable[[], dict[str, Any]]
    ) -> None:
        self._service = service
        self._learning = learning
        self._status = status
        self._reasons: dict[str, list[str]] = {}  # verdict id -> features that moved it; a certificate never changes

    async def health(self, _: Request) -> Response:
        self._service.check_alive()
        return json_response({"ok": True})

    async def status(self, _: Request) -> Response:
        return json_response(self._status())

    async def metrics(self, _: Request) -> Response:
        found = await self._service.ask(lambda engine, store: quality(store, engine.roster))
        return Response(metrics_text(self._status(), found["false_share"]), media_type="text/plain; version=0.0.4")

    async def agents(self, request: Request) -> Response:
        limit = _limit(request)
        rows = await self._service.ask(lambda engine, store: agent_rows(engine, store)[:limit])
        left = self._learning()
        return json_response([{**row, "learning_events_left": left.get(row["agent_id"], 0)} for row in rows])

    async def agent(self, request: Request) -> Response:
        name = request.path_params["agent_id"]
        told = await self._service.ask(lambda engine, store: explanation(engine, store, name))
        return json_response({**told, "learning_events_left": self._learning().get(name, 0)})

    async def verdicts(self, request: Request) -> Response:
        limit = _limit(request)
        return json_response(await self._service.ask(lambda _, store: self._told_verdicts(store, limit)))

    def _told_verdicts(self, store: Store, limit: int) -> list[dict[str, Any]]:
        """Verdicts with what moved them, largest first, and the last word that people had on them.

        A certificate of a clearing names what still stood out, which is not why the alarm was withdrawn.
        """
        told: list[dict[str, Any]] = []
        for verdict in store.verdicts(limit=limit):
            name = verdict["verdict_id"]
            if name not in self._reasons:
                body: dict[str, Any] = msgspec.json.decode(store.certificate(name) or b"{}")
                moved = [reason["feature"] for reason in body.get("reasons", [])]
                self._reasons[name] = moved if verdict["decision"] == COMPROMISED else [WITHDRAWN]
            feedback = store.last_word(verdict["agent_id"], name)
            told.append({**verdict, "reasons": self._reasons[name], "feedback": feedback})
        return told

    async def quality(self, _: Request) -> Response:
        found = await self._service.ask(lambda engine, store: quality(store, engine.roster))
        return json_response({**found, "known_power": known_power()})

    async def feedback(self, request: Request) -> Response:
        limit = _limit(request)
        return json_response(await self._service.ask(lambda _, store: store.feedback(limit=limit)))

    async def take_feedback(self, request: Request) -> Response:
        remedy = 'send {"agent_id": "a", "outcome": "benign"} (or "confirmed")'
        said = await _posted(request, FeedbackRequest, MAX_FEEDBACK_BYTES, remedy)
        stored = await self._service.ask(
            lambda engine, store: take_feedback(engine, store, said.agent_id, said.outcome, said.note)
        )
        return json_response(stored)

    async def certificate(self, request: Request) -> Response:
        name = request.path_params["verdict_id"]
        body = await self._service.ask(lambda _, store: store.certificate(name))
        if body is None:
            return json_response(
                {"error": "NotFound", "cause": "no such verdict", "remedy": "see /api/v1/verdicts"}, 404
            )
        return Response(body, media_type="application/json")

    async def roster(self, _: Request) -> Response:
        return json_response(roster_to_dict(self._service.engine.roster))

    async def baseline(self, request: Request) -> Response:
        level = request.query_params.get("level", "3")
        if level not in ("0", "1", "2", "3"):
            raise InputError(f"level={level[:40]!r} is not a level of the tree", remedy="use 0, 1, 2 or 3")
        chosen = request.query_params.getlist("agent")
        found = await self._service.ask(lambda engine, _: engine.establish(chosen or engine.placed, int(level)))
        return Response(encode_baseline(found), media_type="application/json")

    async def seal(self, request: Request) -> Response:
        remedy = 'send {"agents": ["a", "b"]} or nothing'
        wanted = await _posted(request, SealRequest, MAX_SEAL_BYTES, remedy)
        offset = await self._service.seal(wanted.agents)
        return json_response({"sealed_at_offset": offset})

    async def refit(self, request: Request) -> Response:
        wanted = await _posted(request, RefitRequest, MAX_SEAL_BYTES, 'send {"discard": true}')
        before = await self._service.ask(lambda engine, _: engine.learned())
        if not wanted.discard:
            saturating = ", ".join(before["saturating"]) or "none, so there is no reason to"
            raise InputError(
                f"a refit discards what is learned: {before['samples']:,} samples of {before['agents']:,} agents; the "
                f"latest {before['kept']:,} are counted again (features that leave the grid: {saturating})",
                remedy='send {"discard": true}, or `tocsin baseline refit --discard`, to do it; it cannot be undone',
            )
        offset = await self._service.refit()
        after = await self._service.ask(lambda engine, _: engine.learned())
        return json_response({"offset": offset, "before": before, "after": after})

    async def retire(self, request: Request) -> Response:
        wanted = await _posted(request, RetireRequest, MAX_SEAL_BYTES, 'send {"agents": ["a", "b"]}')
        check_cluster(wanted.agents, 0)
        offset = await self._service.retire(wanted.agents)
        after = await self._service.ask(lambda engine, _: engine.learned())
        return json_response({"offset": offset, "retired": list(wanted.agents), "after": after})


async def _posted(request: Request, shape: type[Body], most_bytes: int, remedy: str) -> Body:
    """The body, decoded; an empty one counts as `{}`. Raises InputError."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # A page of another site can make a browser post anything but this, so it can change nothing here.
        raise InputError("the content type is not application/json", remedy="send the body as application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise InputError(f"the body is larger than {most_bytes} bytes", remedy="send less at once")
    try:
        return msgspec.json.decode(bytes(body) or b"{}", type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"the body does not fit: {error}", remedy=remedy) from error
