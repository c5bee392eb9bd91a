"""Links over real sockets: who may speak, what is bounded, and what happens when a peer goes or misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import StorageError, TooLarge, Unreachable, VerificationError, WireError
from tocsin.runtime.tcp_bus import LinkOptions, Node, TcpBus
from tocsin.trust.keyring import deterministic_signers
from tocsin.wire.limits import MAX_MESSAGE_BYTES
from tocsin.wire.link import BODY, HELLO, MAX_HANDSHAKE_BYTES, PING, PONG, PROOF, Frames, Handshake, frame

PATIENCE_SECONDS = 20
FLEET = b"f" * 32
SIGNERS = deterministic_signers(b"tcp bus", 5)
KEYS = [signer.public_key for signer in SIGNERS]
QUICK = LinkOptions(first_redial_seconds=0.005, last_redial_seconds=0.02)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On both event loops: servers run on the second, and the two differ in more than speed."""
    for loop_factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(scenario())


def key_of(number: int) -> bytes | None:
    return KEYS[number] if 0 <= number < len(KEYS) else None


class End:
    """A bus with everything it heard, and something to wait on."""

    def __init__(self, me: int, ports: list[int], options: LinkOptions = QUICK, **more: object) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self.up: set[int] = set()
        self.news = asyncio.Event()
        nodes = [Node("127.0.0.1", port, key) for port, key in zip(ports, KEYS, strict=False)]
        self.bus = TcpBus(me, SIGNERS[me], nodes, FLEET, self._hear, options=options, on_change=self._change, **more)

    def _hear(self, peer: int, body: bytes) -> None:
        self.heard.append((peer, body))
        self.news.set()

    def _change(self, peer: int, up: bool) -> None:
        (self.up.add if up else self.up.discard)(peer)
        self.news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():
                self.news.clear()
                await self.news.wait()


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextlib.asynccontextmanager
async def linked(n: int, options: LinkOptions = QUICK, **more: object) -> AsyncIterator[list[End]]:
    ports = free_ports(n)
    ends = [End(i, ports, options, **more) for i in range(n)]
    for end in ends:
        await end.bus.start()
    try:
        for end in ends:
            await end.until(lambda end=end: len(end.up) == n - 1)
        yield ends
    finally:
        for end in ends:
            await end.bus.close()


# --- what works


def test_messages_arrive_in_order_from_whom_they_say():
    async def scenario() -> None:
        async with linked(4) as ends:
            for k in range(50):
                ends[1].bus.broadcast(b"%d" % k)
                ends[2].bus.send(0, b"x%d" % k)
            for end in ends:
                expected = [(1, b"%d" % k) for k in range(50)] if end is not ends[1] else []
                await end.until(lambda end=end, e=expected: [h for h in end.heard if h[0] == 1] == e)
            await ends[0].until(lambda: len(ends[0].heard) == 100)
            assert [h for h in ends[0].heard if h[0] == 2] == [(2, b"x%d" % k) for k in range(50)]
            state = ends[1].bus.links()[0]
            assert (state.up, state.opened, state.sent, state.lost) == (True, 1, 50, 0)
            assert ends[0].bus.links()[1].received == 50

    run(scenario)


def test_empty_and_largest_messages_cross_and_larger_ones_are_not_sent():
    async def scenario() -> None:
        async with linked(2) as (a, b):
            big = bytes(MAX_MESSAGE_BYTES)
            a.bus.send(1, b"")
            a.bus.send(1, big)
            with pytest.raises(TooLarge):
                a.bus.send(1, big + b"x")
            await b.until(lambda: b.heard == [(0, b""), (0, big)])

    run(scenario)


def test_round_trips_are_measured_and_a_delayed_link_is_longer():
    async def scenario() -> None:
        async with linked(2) as (a, _):
            assert 0 < await a.bus.ping(1) < 1e9
        async with linked(2, delay_ns=lambda peer: 15_000_000) as (a, b):
            assert 29e6 <= await a.bus.ping(1) < 1e9
            for k in range(20):
                a.bus.send(1, b"%d" % k)
            await b.until(lambda: b.heard == [(0, b"%d" % k) for k in range(20)])

    run(scenario)


def test_a_ping_to_a_node_that_is_away_says_so():
    async def scenario() -> None:
        end = End(1, free_ports(2))
        await end.bus.start()
        with pytest.raises(Unreachable, match="node 0"):
            await end.bus.ping(0, timeout_seconds=0.05)
        await end.bus.close()

    run(scenario)


def test_a_node_that_comes_back_is_dialled_again_and_gets_what_waited():
    async def scenario() -> None:
        ports = free_ports(2)
        a, b = End(0, ports), End(1, ports)
        await b.bus.start()
        b.bus.send(0, b"early")
        await a.bus.start()
        await a.until(lambda: a.heard == [(1, b"early")])
        await a.bus.close()
        await b.until(lambda: not b.up)
        b.bus.send(0, b"between")
        again = End(0, ports)
        await again.bus.start()
        await again.until(lambda: again.heard == [(1, b"between")])
        assert b.bus.links()[0].opened == 2
        await again.bus.close()
        await b.bus.close()

    run(scenario)


def test_a_port_in_use_is_named():
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            end = End(0, [taken.getsockname()[1]])
            with pytest.raises(StorageError, match="cannot listen"):
                await end.bus.start()

    run(scenario)


# --- bounds


def test_what_an_absent_peer_does_not_take_is_bounded_and_the_oldest_is_lost_and_counted():
    async def scenario() -> None:
        ports = free_ports(2)
        options = LinkOptions(queue_frames=10, first_redial_seconds=0.005, last_redial_seconds=0.02)
        a, b = End(0, ports), End(1, ports, options)
        await b.bus.start()
        for k in range(25):
            b.bus.send(0, b"%d" % k)
        state = b.bus.links()[0]
        assert (state.queued, state.lost, state.up) == (10, 15, False)
        await a.bus.start()
        await a.until(lambda: a.heard == [(1, b"%d" % k) for k in range(15, 25)])
        assert b.bus.links()[0].queued_bytes == 0
        await a.bus.close()
        await b.bus.close()

    run(scenario)


def test_a_peer_that_reads_nothing_costs_a_bounded_amount_of_memory():
    async def scenario() -> None:
        """A node that proves itself and then stops reading."""
        ports = free_ports(2)
        options = LinkOptions(queue_bytes=1 << 20, unsent_bytes=1 << 16)
        a = End(0, ports, options)
        await a.bus.start()
        _, writer = await deaf(ports[0])
        await a.until(lambda: a.up == {1})
        for _ in range(400):
            a.bus.send(1, bytes(100_000))  # 40 MB
        state = a.bus.links()[1]
        assert state.lost > 0
        assert state.queued_bytes <= 1 << 20
        assert state.sent + state.lost + state.queued == 400
        await shut(writer)
        await a.bus.close()

    run(scenario)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What was still read before the other end closed or reset the connection."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while data := await reader.read(4096):
                got += data
    return got


async def shut(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def deaf(port: int, number: int = 1, target: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to node `target` that has proven to be node `number`, by hand."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    shake = Handshake(FLEET, number, SIGNERS[number], key_of, bytes(32), target)
    writer.write(shake.opening())
    frames = Frames(MAX_HANDSHAKE_BYTES)
    while shake.peer is None:
        for kind, body in frames.feed(await reader.read(1024)):
            writer.write(shake.receive(kind, body))
    await writer.drain()
    return reader, writer


# --- hostility


def hello(magic: bytes = b"tocsin/1 link", fleet: bytes = FLEET, number: int = 1) -> bytes:
    return frame(HELLO, magic + fleet + struct.pack(">I", number) + bytes(32))


HOSTILE = {
    "noise": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "malformed handshake"),
    "long": (struct.pack(">IB", 1 << 31, HELLO), "malformed handshake"),
    "empty frame": (struct.pack(">I", 0) + b"x" * 9, "malformed handshake"),
    "body before hello": (frame(BODY, b"vote"), "malformed handshake"),
    "proof before hello": (frame(PROOF, bytes(64)), "malformed handshake"),
    "unknown kind": (struct.pack(">IB", 1, 77), "malformed handshake"),
    "short hello": (frame(HELLO, b"tocsin/1 link"), "malformed handshake"),
    "other protocol": (hello(magic=b"tocsin/2 link"), "malformed handshake"),
    "two hellos": (hello() + hello(), "malformed handshake"),
    "other fleet": (hello(fleet=b"g" * 32), "identity not proven"),
    "unknown node": (hello(number=99), "identity not proven"),
    "node itself": (hello(number=0), "identity not proven"),
    "wrong proof": (hello() + frame(PROOF, bytes(64)), "identity not proven"),
    "short proof": (hello() + frame(PROOF, b""), "identity not proven"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_stranger_is_refused_counted_and_disturbs_nobody(name):
    data, reason = HOSTILE[name]

    async def scenario() -> None:
        async with linked(2) as (a, b):
            reader, writer = await asyncio.open_connection("127.0.0.1", a.bus.port)
            writer.write(data)
            await ended(reader)
            await shut(writer)
            assert a.bus.refused == {reason: 1}
            assert a.heard == []
            b.bus.send(0, b"still here")
            await a.until(lambda: a.heard == [(1, b"still here")])

    run(scenario)


AFTER = {
    "too long": struct.pack(">IB", MAX_MESSAGE_BYTES + 2, BODY),
    "unknown kind": struct.pack(">IB", 1, 9),
    "hello again": frame(HELLO, b""),
    "ping of the wrong size": frame(PING, b""),
    "pong of the wrong size": frame(PONG, bytes(9)),
}


@pytest.mark.parametrize("name", AFTER)
def test_a_proven_node_that_breaks_the_protocol_loses_its_link(name):
    async def scenario() -> None:
        end = End(0, free_ports(2))
        await end.bus.start()
        _, writer = await deaf(end.bus.port)
        writer.write(frame(BODY, b"fine") + AFTER[name] + frame(BODY, b"never read"))
        await end.until(lambda: sum(end.bus.refused.values()) == 1 and not end.up)
        assert end.heard == [(1, b"fine")]
        assert end.bus.refused == {"malformed frame": 1}
        await shut(writer)
        await end.bus.close()

    run(scenario)


def test_the_key_holder_takes_over_its_own_link_and_the_wrong_end_may_not_dial():
    async def scenario() -> None:
        ports = free_ports(3)
        end = End(1, ports)
        await end.bus.start()
        _, first = await deaf(end.bus.port, 2, target=1)
        await end.until(lambda: end.up == {2})
        _, second = await deaf(end.bus.port, 2, target=1)
        second.write(frame(BODY, b"from the new one"))
        await end.until(lambda: end.heard == [(2, b"from the new one")])
        assert end.bus.links()[2].opened == 2
        reader, wrong = await deaf(end.bus.port, 0, target=1)
        await ended(reader)
        assert end.bus.refused == {"the wrong end dialled": 1}
        for writer in (first, second, wrong):
            await shut(writer)
        await end.bus.close()

    run(scenario)


def test_strangers_that_say_nothing_are_bounded_in_number_and_time():
    async def scenario() -> None:
        end = End(0, free_ports(2), LinkOptions(pending=3, handshake_seconds=0.4))
        await end.bus.start()
        writers = [(await asyncio.open_connection("127.0.0.1", end.bus.port)) for _ in range(7)]
        for reader, _ in writers:
            assert await ended(reader) == b""
        assert end.bus.refused == {"too many handshakes at a time": 4, "handshake took too long": 3}
        for _, writer in writers:
            await shut(writer)
        await end.bus.close()

    run(scenario)


def test_strangers_that_say_nothing_keep_no_peer_out():
    async def scenario() -> None:
        ports = free_ports(2)
        ends = [End(0, ports, LinkOptions(pending=3, handshake_seconds=PATIENCE_SECONDS)), End(1, ports)]
        await ends[0].bus.start()
        strangers = [(await asyncio.open_connection("127.0.0.1", ends[0].bus.port)) for _ in range(3)]
        await ends[1].bus.start()  # the higher number dials
        for end in ends:
            await end.until(lambda end=end: len(end.up) == 1)
        assert ends[0].bus.refused == {"too many handshakes at a time": 1}
        for _, writer in strangers:
            await shut(writer)
        for end in ends:
            await end.bus.close()

    run(scenario)


def test_a_link_that_falls_silent_is_given_up():
    async def scenario() -> None:
        end = End(0, free_ports(2), LinkOptions(heartbeat_seconds=0.02))
        await end.bus.start()
        reader, writer = await deaf(end.bus.port)
        await end.until(lambda: end.up == {1})
        await end.until(lambda: not end.up)
        assert end.bus.refused == {"no sign of life": 1}
        assert {kind for kind, _ in Frames().feed(await ended(reader))} == {PING}  # it was asked
        await shut(writer)
        await end.bus.close()

    run(scenario)


# --- the format


def converse(dialler: Handshake, acceptor: Handshake) -> None:
    """Carry bytes to and fro until nothing is left to say."""
    to_acceptor, to_dialler = dialler.opening(), b""
    while to_acceptor or to_dialler:
        for kind, body in Frames(MAX_HANDSHAKE_BYTES).feed(to_acceptor):
            to_dialler += acceptor.receive(kind, body)
        to_acceptor = b""
        for kind, body in Frames(MAX_HANDSHAKE_BYTES).feed(to_dialler):
            to_acceptor += dialler.receive(kind, body)
        to_dialler = b""


def shake(me: int, expected: int | None = None, *, key: int | None = None, nonce: bytes = b"n" * 32) -> Handshake:
    return Handshake(FLEET, me, SIGNERS[me if key is None else key], key_of, nonce, expected)


def test_both_ends_learn_who_the_other_is():
    dialler, acceptor = shake(3, 1), shake(1)
    converse(dialler, acceptor)
    assert (dialler.peer, acceptor.peer) == (1, 3)


def test_neither_end_can_borrow_a_name():
    for dialler, acceptor in [(shake(3, 1, key=2), shake(1)), (shake(3, 1), shake(1, key=2)), (shake(3, 2), shake(1))]:
        with pytest.raises(VerificationError):
            converse(dialler, acceptor)
    mirror = shake(3, 1)
    (hello_frame,) = Frames().feed(mirror.opening())
    with pytest.raises(VerificationError):
        mirror.receive(*hello_frame)  # reflected to its sender


def test_a_recorded_handshake_proves_nothing_to_a_fresh_nonce():
    dialler, acceptor = shake(3, 1), shake(1, nonce=b"a" * 32)
    (first,) = Frames().feed(dialler.opening())
    proof = b""
    for kind, body in Frames(MAX_HANDSHAKE_BYTES).feed(acceptor.receive(*first)):
        proof += dialler.receive(kind, body)
    (recorded,) = Frames().feed(proof)
    fresh = shake(1, nonce=b"b" * 32)
    fresh.receive(*first)
    with pytest.raises(VerificationError):
        fresh.receive(*recorded)
    acceptor.receive(*recorded)
    assert (fresh.peer, acceptor.peer) == (None, 3)


def proof_of_3_to_1() -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    """HELLO and PROOF of node 3, which dialled node 1. All nonces of these tests are equal: the worst case."""
    dialler, acceptor = shake(3, 1), shake(1)
    (first,) = Frames().feed(dialler.opening())
    answers = list(Frames(MAX_HANDSHAKE_BYTES).feed(acceptor.receive(*first)))
    (proof,) = Frames().feed(b"".join(dialler.receive(*answer) for answer in answers))
    acceptor.receive(*proof)
    assert acceptor.peer == 3
    return first, proof


def test_a_proof_is_for_one_acceptor_only():
    """Node 1 cannot pass what node 3 proves to it on to node 2."""
    first, proof = proof_of_3_to_1()
    target = shake(2)
    target.receive(*first)
    with pytest.raises(VerificationError):
        target.receive(*proof)


def test_a_dialler_s_proof_is_no_acceptor_s():
    first, proof = proof_of_3_to_1()
    dialler = shake(1, 3)
    dialler.receive(*first)
    with pytest.raises(VerificationError):
        dialler.receive(*proof)


def test_the_hello_is_these_bytes():
    assert shake(3, 1).opening().hex() == (
        "0000005200" + b"tocsin/1 link".hex() + FLEET.hex() + "00000003" + (b"n" * 32).hex()
    )


@given(st.lists(st.tuples(st.sampled_from([HELLO, PROOF, BODY, PING, PONG]), st.binary(max_size=40))), st.data())
def test_frames_come_out_however_the_stream_is_cut(frames, data):
    stream = b"".join(frame(kind, body) for kind, body in frames)
    reader, got = Frames(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += list(reader.feed(stream[:size]))
        stream = stream[size:]
    assert got == frames


@given(st.binary(max_size=200))
def test_any_bytes_give_frames_or_a_wire_error(noise):
    try:
        for kind, body in Frames(64).feed(noise):
            assert kind <= PONG
            assert len(body) <= 64
    except WireError:
        pass


@given(st.lists(st.tuples(st.integers(0, 4), st.binary(max_size=120)), max_size=4))
def test_any_frames_in_a_handshake_prove_nothing(frames):
    acceptor = shake(1)
    try:
        for kind, body in frames:
            acceptor.receive(kind, body)
    except (WireError, VerificationError):
        pass
    assert acceptor.peer is None
