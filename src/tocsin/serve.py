"""A tocsin that listens: OTLP in, the interface and the status page out, over one `FleetService`.

`tocsin up` runs it until interrupted; the demo runs it in a thread and talks to it from another process.
"""

from __future__ import annotations

import gc
import hmac
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tocsin.config import Settings
from tocsin.errors import ConfigError, StorageCorrupt, StorageError, Unavailable, WireError
from tocsin.monitor.monitor import Transform
from tocsin.runtime.datadir import DataDir, open_datadir, write_durably
from tocsin.runtime.service import FleetService

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from tocsin.ingest.decoder import Decoder

STOPPING = (signal.SIGINT, signal.SIGTERM)
SHUTDOWN_SECONDS = 5
WATCH_SECONDS = 0.5
COLLECT = (50_000, 50, 50)  # allocations before a collection: batches and statements make many objects and few cycles
OPEN_PATHS = frozenset(("/healthz", "/", "/page.js", "/page.css"))


class AddressInUse(Unavailable):
    """The address cannot be listened on."""

    exit_code = 1


class BearerToken:
    """Refuses requests without the token, except for the page's own files, which hold no data."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                body = b'{"code": 16, "message": "this tocsin asks for a bearer token"}'
                headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
        await self._app(scope, receive, send)


def _demand_sendable(token: str) -> None:
    """Raises ConfigError where no sender could present the token: a header's value is trimmed and is ASCII."""
    if not token.isascii() or not token.isprintable() or token != token.strip():
        raise ConfigError(
            "server.token cannot be sent in a header",
            remedy="use ASCII letters, digits and punctuation, and no space at either end",
        )


def _stated_effects(file: str) -> dict[str, str]:
    """What the operator says of tools. Raises ConfigError."""
    if not file:
        return {}
    from tocsin.ingest.tool_effects import read_effects

    try:
        text = Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}", remedy="correct tools.effects_file") from error
    return read_effects(text, file)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises AddressInUse with what to do about it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(2048)  # from here on a sender waits instead of being refused
    except OSError as error:
        raise AddressInUse(
            f"cannot listen on {host}:{port}: {error.strerror}",
            remedy="is another tocsin or collector running? choose another with --port, or --port 0",
        ) from error
    return bound


class TocsinServer:
    """Construct (opens directory and port), `start`, then `run_until_signalled` or `run_in_thread`, then `close`."""

    def __init__(
        self, settings: Settings, *, alter: Mapping[int, Transform] | None = None, accelerated: bool = False
    ) -> None:
        """`alter` makes monitors lie; `accelerated` takes event times as they come, not comparing them with now."""
        self.settings = settings
        _demand_sendable(settings.server.token)
        self._effects = _stated_effects(settings.tools.effects_file)
        self._socket = listen(settings.server.host, settings.server.port)
        try:
            self.data: DataDir = open_datadir(
                Path(settings.data.dir),
                monitors=settings.consensus.monitors,
                alpha_ppm=settings.detection.alpha_ppm,
                prior_ppm=settings.detection.prior_ppm,
            )
        except BaseException:
            self._socket.close()
            raise
        from tocsin.ingest.admission import Admission, AdmissionConfig

        limits = settings.limits
        admission = Admission(
            AdmissionConfig(
                warmup_events=settings.learning.warmup_events,
                max_agents=limits.max_agents,
                late_seconds=limits.late_seconds,
            ),
            None if accelerated else time.time_ns,
        )
        try:
            self.service = FleetService(settings, self.data, admission, alter=alter)
        except BaseException:
            self.data.close()
            self._socket.close()
            raise
        self._learning = admission.learning
        self._received: Callable[[], dict[str, int]] | None = None
        self._decoder: Decoder | None = None
        self._uvicorn: Any = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
        return f"http://{shown}:{port}"

    def start(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Recover and begin to analyse; requests are answered once it runs."""
        import uvicorn

        from tocsin.dashboard.api import routes
        from tocsin.ingest.decoder import Decoder
        from tocsin.ingest.http_patience import patient
        from tocsin.ingest.otlp_http import build_app

        self._decoder = Decoder()  # loads while the service recovers
        self.service.start(progress)
        gc.freeze()  # what recovery built stays: the collector need not walk it again and again
        gc.set_threshold(*COLLECT)
        try:
            self._decoder.begin(self.data.salt, self.service.held(), time.time_ns(), self._effects)
        except WireError as error:
            raise StorageCorrupt(
                f"what {self.data.ingest} holds of unfinished traces is damaged: {error}",
                remedy="restore the data directory from a copy, or start with another --data directory",
            ) from error

        served = build_app(self.service, self._decoder, routes(self.service, self._learning, self.status))
        self._received = served.state.receiver.counters
        app: Any = served
        if self.settings.server.token:
            app = BearerToken(app, self.settings.server.token)
        config = uvicorn.Config(
            app,
            http=patient(served.state.receiver.counts),
            log_level="warning",
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            server_header=False,
        )
        self._uvicorn = uvicorn.Server(config)
        write_durably(self.data.endpoint, msgspec.json.encode({"url": self.url}))

    def status(self) -> dict[str, Any]:
        """Counts of what came, what was analysed and who is still learned about; from any thread."""
        received = self._received() if self._received is not None else {}
        return {**self.service.status(), "agents_learning": len(self._learning()), "received": received}

    def run_until_signalled(self) -> None:
        """Serve until SIGINT or SIGTERM, or until serving fails. Call on the main thread, then `close`.

        Raises StorageError where it ended because nothing can be made durable, or judged, any more.

        From its end on this process ignores both signals: an impatient second one must not break off the finishing.

        The web server runs on a thread of its own because it would raise the signal again when it has stopped, and
        what was accepted must still be finished after that.
        """
        stop = threading.Event()
        for number in STOPPING:
            signal.signal(number, lambda _number, _frame: stop.set())
        try:
            self.run_in_thread()
            while not stop.wait(WATCH_SECONDS):
                self.service.check_alive()
                if self._thread is None or not self._thread.is_alive():
                    break
        finally:
            for number in STOPPING:
                signal.signal(number, signal.SIG_IGN)

    def run_in_thread(self) -> None:
        """Serve on a thread of its own."""
        run = partial(self._uvicorn.run, sockets=[self._socket])
        self._thread = threading.Thread(target=run, name="tocsin-http")
        self._thread.start()

    def close(self) -> None:
        """Stop serving, finish what was accepted, release everything. Safe to call at any stage.

        SIGINT and SIGTERM are ignored meanwhile.
        """
        with _undisturbed():
            if self._uvicorn is not None:
                self._uvicorn.should_exit = True
            if self._thread is not None:
                self._thread.join()
            if self._decoder is not None:
                self._decoder.close()
            self.service.stop()
            self.data.endpoint.unlink(missing_ok=True)
            self._socket.close()
            self.data.close()


@contextmanager
def _undisturbed() -> Generator[None]:
    """SIGINT and SIGTERM are ignored; does nothing where it cannot, which is off the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_server(
    settings: Settings, *, alter: Mapping[int, Transform] | None = None, accelerated: bool = False
) -> TocsinServer:
    """Open, or say why not: OSErrors become StorageError."""
    try:
        return TocsinServer(settings, alter=alter, accelerated=accelerated)
    except OSError as error:
        raise StorageError(
            f"cannot use the data directory {settings.data.dir}: {error}", remedy="choose another with --data"
        ) from error
