"""The receiver's end of the decoder process (`tocsin.ingest.intake`): starts it, asks it, in order and without waiting.

A process that ends by itself is not started again: whoever reads from it is told, and stops. What it held of spans that
wait for their trace is in the ingest log, from where the next start takes it.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tocsin.errors import InternalError, StorageError, TocsinError
from tocsin.ingest.exchange import LENGTHS, Answer, Begin, Failed, Question, answer, frame

END_SECONDS = 10.0
GONE_SECONDS = 1.0  # from the end of its connection to that of the process
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Asked:
    then: Callable[[Answer, memoryview], Any]
    done: asyncio.Future[Any]


class Decoder:
    """Construct (the process begins to load), `begin`; on an event loop `connect`, `read` and `ask`; `close`."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            program = "from tocsin.ingest.intake import main; main()"
            command = [sys.executable, "-P", "-c", program, str(theirs.fileno())]
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL
            )
        self._asked: deque[_Asked] = deque()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._over = "the decoder is not connected"  # why nothing can be asked; empty while it can

    @property
    def process_id(self) -> int:
        """Of the decoder's process."""
        return self._process.pid

    def begin(self, salt: bytes, held: Iterable[bytes], now_ns: int, effects: Mapping[str, str] | None = None) -> None:
        """Hand over what an earlier decoder held, and what the operator says of tools; returns when it is ready.

        Raises WireError where a record is damaged, StorageError where the process did not start.
        """
        try:
            self._socket.sendall(frame(Begin(salt, list(held), now_ns, dict(effects or {})), 0))
            header_bytes, _ = LENGTHS.unpack(self._exactly(LENGTHS.size))
            reply = answer(self._exactly(header_bytes))
        except OSError as error:
            raise _over(self._end()) from error
        if isinstance(reply, Failed):
            raise reply.error()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionResetError("closed")
            data += piece
        return data

    async def connect(self) -> None:
        """From here on this event loop's."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)
        self._over = ""

    async def read(self) -> None:
        """Hand out answers until cancelled; however it ends, nobody waits for an answer afterwards.

        Raises StorageError when the process has ended, and what went wrong with an answer: one that was not taken is
        lost, and so nothing after it can be.
        """
        assert self._reader is not None
        try:
            while True:
                header_bytes, body_bytes = LENGTHS.unpack(await self._reader.readexactly(LENGTHS.size))
                data = memoryview(await self._reader.readexactly(header_bytes + body_bytes))
                self._hand_out(self._asked.popleft(), data[:header_bytes], data[header_bytes:])
        except (OSError, EOFError) as error:
            self._over = self._end()
            raise _over(self._over) from error
        finally:
            self._over = self._over or "the decoder's answers are no longer read"
            while self._asked:
                _settle(self._asked.popleft().done, error=_over(self._over))

    def _hand_out(self, asked: _Asked, header: memoryview, body: memoryview) -> None:
        try:
            reply = answer(header)
            if isinstance(reply, Failed):
                _settle(asked.done, error=reply.error())
            else:
                _settle(asked.done, asked.then(reply, body))
        except TocsinError as error:
            _settle(asked.done, error=error)
        except Exception as error:
            _settle(asked.done, error=InternalError(f"{type(error).__name__}: {error}"))
            raise RuntimeError(f"an answer of the decoder was not taken: {type(error).__name__}: {error}") from error

    async def ask(self, asked: Question, body: bytes, then: Callable[[Answer, memoryview], T]) -> T:
        """What `then` makes of the answer and its body. It is called whether or not anybody still waits for it.

        Raises what the answer says was wrong, or StorageError where there will be none.
        """
        if self._over or self._writer is None:
            raise _over(self._over)
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked(then, done))
        # Not drained: what may wait here is bounded by the bodies that are received at once.
        self._writer.write(frame(asked, len(body)))
        self._writer.write(body)
        return await done

    async def disconnect(self) -> None:
        """Ask nothing more; what was asked and not answered is forgotten by both ends."""
        self._over = self._over or "the decoder is not connected"
        if self._writer is not None:
            self._writer.close()

    def _end(self) -> str:
        """That the process has ended, and how."""
        try:
            code = self._process.wait(GONE_SECONDS)
        except subprocess.TimeoutExpired:
            return "the decoder process has ended its connection"
        if code >= 0:
            return f"the decoder process has ended with exit code {code}"
        hint = ": was the machine out of memory?" if code == -signal.SIGKILL else ""
        return f"the decoder process has ended by signal {-code}{hint}"

    def close(self) -> None:
        """Let the process end, and see it end."""
        self._socket.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _settle(done: asyncio.Future[Any], value: Any = None, *, error: TocsinError | None = None) -> None:
    if done.done():
        return  # whoever asked has gone
    if error is None:
        done.set_result(value)
    else:
        done.set_exception(error)


def _over(why: str) -> StorageError:
    return StorageError(why, remedy="see tocsin's log, then start it again")
