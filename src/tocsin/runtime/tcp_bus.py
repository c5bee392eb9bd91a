"""Nodes that talk over TCP: authenticated links, bounded queues, redialling. asyncio; one bus is one node's end.

    bus = TcpBus(me, signer, nodes, fleet, on_message)     # nodes[i] = Node(host, port, public_key)
    await bus.start()
    bus.send(peer, body); bus.broadcast(body)              # never wait, never raise for a peer that is away
    rtt_ns = await bus.ping(peer)
    await bus.close()

Of two nodes the one with the higher number dials, again and again with jittered back-off, so there is one connection a
pair. Delivery is at most once, in order while a connection lasts. What a peer does not take in time waits in a bounded
queue, and beyond that is lost and counted, the oldest first: a protocol that repeats itself needs the newest most.
Whoever breaks the protocol loses the connection, and is counted; no bytes received raise anything out of here.

`delay_ns(peer)` holds back everything sent to `peer` for so long, in order: links of another length, for tests and
measurements. A round trip is delayed by both ends. It is accurate to about a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from tocsin.errors import StorageError, Unreachable, WireError
from tocsin.runtime.tcp_link import Events, Link
from tocsin.trust.signing import Signer
from tocsin.wire.link import BODY, NONCE_BYTES, PING, PONG, TOKEN_BYTES, Handshake, frame

OnMessage = Callable[[int, bytes], None]


@dataclass(frozen=True, slots=True)
class Node:
    """Where a node listens and the key it proves itself with. Port 0: any free one (see `TcpBus.port`)."""

    host: str
    port: int
    public_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """Bounds of every link. Times in seconds."""

    queue_frames: int = 4096  # waiting for one peer, connected or not
    queue_bytes: int = 4 << 20
    unsent_bytes: int = 256 << 10  # handed to the kernel's side before the queue fills
    handshake_seconds: float = 5.0
    pending: int = 256  # connections in a handshake at a time, opened by others; the oldest makes room for one more
    first_redial_seconds: float = 0.05
    last_redial_seconds: float = 2.0
    heartbeat_seconds: float = 2.0  # a silent link is asked, and after three of these given up


@dataclass(slots=True)
class LinkState:
    """What one end knows about the link to a peer, counted since the start."""

    up: bool = False
    opened: int = 0  # connections that passed the handshake
    queued: int = 0  # frames waiting now
    queued_bytes: int = 0
    sent: int = 0  # frames handed over to the connection
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    lost: int = 0  # frames dropped because the queue was full


@dataclass(slots=True)
class _Peer:
    """The lasting side of a link: survives its connections."""

    number: int
    state: LinkState = field(default_factory=LinkState)
    queue: deque[bytes] = field(default_factory=deque[bytes])
    held: deque[tuple[float, bytes]] = field(default_factory=deque[tuple[float, bytes]])  # due, frame
    link: Link | None = None
    heard: float = 0.0  # loop time
    pings: dict[bytes, asyncio.Future[int]] = field(default_factory=dict[bytes, "asyncio.Future[int]"])


class TcpBus:
    """Node `me` of `nodes`. `fleet`: 32 bytes that all ends must share, such as the roster's hash.

    `peers`: with whom there is a link at all, such as the neighbours in a tree; without it, with everybody.

    `on_message(peer, body)` is called on the event loop for each message; the body is anything the peer chose to send.
    """

    def __init__(
        self,
        me: int,
        signer: Signer,
        nodes: Sequence[Node],
        fleet: bytes,
        on_message: OnMessage,
        *,
        options: LinkOptions | None = None,
        delay_ns: Callable[[int], int] | None = None,
        on_change: Callable[[int, bool], None] | None = None,
        peers: Collection[int] | None = None,
    ) -> None:
        self.me = me
        self.options = options or LinkOptions()
        self.refused: Counter[str] = Counter()
        self._signer = signer
        self._nodes = list(nodes)
        self._fleet = fleet
        self._on_message = on_message
        self._on_change = on_change
        self._delay_ns = delay_ns
        self._peers = {i: _Peer(i) for i in (range(len(nodes)) if peers is None else sorted(peers)) if i != me}
        self._links: dict[Link, None] = {}  # in a handshake too, oldest first
        self._events = Events(
            self._connected, self._proven, self._received, self._writable, self._lost, self._count_refusal
        )
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._jitter = random.Random(os.urandom(8))  # noqa: S311 - spreads redialling

    # --- life

    async def start(self) -> None:
        """Listen, and dial every node with a lower number. Returns when listening. Raises StorageError."""
        loop = asyncio.get_running_loop()
        here = self._nodes[self.me]
        try:
            self._server = await loop.create_server(lambda: self._new_link(None), here.host, here.port, backlog=1024)
        except OSError as error:
            cause = f"cannot listen on {here.host}:{here.port}: {error.strerror or error}"
            raise StorageError(cause, remedy="choose another port, or stop what listens there") from error
        self._tasks = [loop.create_task(self._dial(peer)) for i, peer in self._peers.items() if i < self.me]
        self._tasks.append(loop.create_task(self._watch()))

    @property
    def port(self) -> int:
        """The port listened on."""
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    def move(self, number: int, host: str, port: int) -> None:
        """Node `number` listens elsewhere now; takes effect at the next dialling."""
        self._nodes[number] = Node(host, port, self._nodes[number].public_key)

    async def close(self) -> None:
        """Close every connection and stop dialling. What still waits to be sent is lost."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        links = list(self._links)
        for link in links:
            link.abort()
        await asyncio.gather(*(link.closed for link in links))
        if self._server is not None:
            await self._server.wait_closed()

    # --- sending

    def send(self, peer: int, body: bytes) -> None:
        """Queue `body` for `peer`. Raises TooLarge."""
        self._post(self._peers[peer], frame(BODY, body))

    def broadcast(self, body: bytes) -> None:
        """Queue `body` for every other node, starting behind this one. Raises TooLarge."""
        data = frame(BODY, body)
        for i in sorted(self._peers, key=lambda i: (i < self.me, i)):
            self._post(self._peers[i], data)

    def links(self) -> dict[int, LinkState]:
        """The state of the link to each peer."""
        for peer in self._peers.values():
            peer.state.queued = len(peer.queue) + len(peer.held)
        return {i: peer.state for i, peer in self._peers.items()}

    async def ping(self, peer: int, timeout_seconds: float = 5.0) -> int:
        """Round trip in nanoseconds, through the queues at both ends. Raises Unreachable."""
        one = self._peers[peer]
        token = os.urandom(TOKEN_BYTES)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        one.pings[token] = answer
        began = time.perf_counter_ns()
        try:
            self._post(one, frame(PING, token))
            return await asyncio.wait_for(answer, timeout_seconds) - began
        except TimeoutError:
            raise Unreachable(f"node {peer} does not answer", remedy="check its address and that it runs") from None
        finally:
            del one.pings[token]

    def _post(self, peer: _Peer, data: bytes) -> None:
        delay_ns = self._delay_ns(peer.number) if self._delay_ns is not None else 0
        if delay_ns <= 0 and not peer.held:
            self._write(peer, data)
            return
        loop = asyncio.get_running_loop()
        due = max(loop.time() + delay_ns / 1e9, peer.held[-1][0] if peer.held else 0.0)
        peer.held.append((due, data))
        if len(peer.held) == 1:
            loop.call_at(due, self._release, peer)

    def _release(self, peer: _Peer) -> None:
        loop = asyncio.get_running_loop()
        soon = loop.time() + 0.0005  # timers are that coarse
        while peer.held and peer.held[0][0] <= soon:
            self._write(peer, peer.held.popleft()[1])
        if peer.held:
            loop.call_at(peer.held[0][0], self._release, peer)

    def _write(self, peer: _Peer, data: bytes) -> None:
        state = peer.state
        if not peer.queue and self._hand_over(peer, data):
            return
        peer.queue.append(data)
        state.queued_bytes += len(data)
        while len(peer.queue) > self.options.queue_frames or state.queued_bytes > self.options.queue_bytes:
            state.queued_bytes -= len(peer.queue.popleft())
            state.lost += 1

    def _flush(self, peer: _Peer) -> None:
        while peer.queue and self._hand_over(peer, peer.queue[0]):
            peer.state.queued_bytes -= len(peer.queue.popleft())

    def _hand_over(self, peer: _Peer, data: bytes) -> bool:
        if peer.link is None or peer.link.paused:
            return False
        peer.link.write(data)
        peer.state.sent += 1
        peer.state.sent_bytes += len(data)
        return True

    # --- receiving

    def _received(self, number: int, kind: int, body: bytes) -> None:
        peer = self._peers[number]
        peer.heard = asyncio.get_running_loop().time()
        if kind == BODY:
            peer.state.received += 1
            peer.state.received_bytes += len(body)
            self._on_message(number, body)
        elif kind == PING and len(body) == TOKEN_BYTES:
            self._post(peer, frame(PONG, body))
        elif kind == PONG and len(body) == TOKEN_BYTES:
            if (answer := peer.pings.get(body)) is not None and not answer.done():
                answer.set_result(time.perf_counter_ns())
        else:
            raise WireError("a frame that means nothing here", remedy="run one version everywhere")

    # --- connections

    def _key_of(self, number: int) -> bytes | None:
        return self._nodes[number].public_key if number in self._peers else None

    def _new_link(self, dialled: int | None) -> Link:
        nonce = os.urandom(NONCE_BYTES)
        handshake = Handshake(self._fleet, self.me, self._signer, self._key_of, nonce, dialled)
        return Link(self._events, handshake, dialled is not None, self.options.handshake_seconds)

    def _count_refusal(self, reason: str) -> None:
        self.refused[reason] += 1

    def _connected(self, link: Link) -> None:
        """Idle connections must not keep out who has something to say, so of too many the oldest goes."""
        assert link.transport is not None
        link.transport.set_write_buffer_limits(high=self.options.unsent_bytes)
        self._links[link] = None
        greeting = [one for one in self._links if one.peer is None and not one.dialled]
        if len(greeting) > self.options.pending:
            greeting[0].refuse("too many handshakes at a time")

    def _proven(self, link: Link, number: int) -> None:
        peer = self._peers[number]
        if not link.dialled and number < self.me:
            link.refuse("the wrong end dialled")
            return
        if peer.link is not None:  # the other end has given that one up
            peer.link.peer = None
            peer.link.abort()
        link.peer, peer.link = number, link
        peer.heard = asyncio.get_running_loop().time()
        peer.state.opened += 1
        if not peer.state.up:
            peer.state.up = True
            self._tell(number, True)
        self._flush(peer)

    def _writable(self, number: int) -> None:
        self._flush(self._peers[number])

    def _lost(self, link: Link) -> None:
        self._links.pop(link, None)
        if link.peer is not None:
            peer = self._peers[link.peer]
            peer.link = None
            peer.state.up = False
            self._tell(link.peer, False)

    def _tell(self, number: int, up: bool) -> None:
        if self._on_change is not None:
            self._on_change(number, up)

    async def _dial(self, peer: _Peer) -> None:
        loop = asyncio.get_running_loop()
        wait = self.options.first_redial_seconds
        while True:
            node = self._nodes[peer.number]
            opened = peer.state.opened
            with contextlib.suppress(OSError):
                _, link = await loop.create_connection(lambda: self._new_link(peer.number), node.host, node.port)
                await asyncio.shield(link.closed)
            wait = self.options.first_redial_seconds if peer.state.opened > opened else wait * 2
            wait = min(wait, self.options.last_redial_seconds)
            await asyncio.sleep(wait * self._jitter.uniform(0.5, 1.0))

    async def _watch(self) -> None:
        """Ask silent peers for a sign of life, and give up links that show none."""
        period = self.options.heartbeat_seconds
        while True:
            await asyncio.sleep(period)
            now = asyncio.get_running_loop().time()
            for peer in self._peers.values():
                if peer.link is None:
                    continue
                if now - peer.heard > 3 * period:
                    peer.link.refuse("no sign of life")
                elif now - peer.heard > period / 2:
                    self._post(peer, frame(PING, os.urandom(TOKEN_BYTES)))
