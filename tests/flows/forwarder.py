"""What stands between clients and servers in bad times: a TCP relay that changes its mind, and a Redis that forgets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Forwarder:
    """Passes connections on to ``target``, the address of a server, as it is when they come."""

    def __init__(self, target: Callable[[], str]) -> None:
        self.target = target
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()

    def through(self, url: str) -> str:
        """The same address, by way of this."""
        address = urlsplit(url)
        return address._replace(netloc=address.netloc.replace(f":{address.port}", f":{self.port}")).geturl()

    def cut(self) -> None:
        """Hang up on everyone."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = urlsplit(self.target())
        try:
            there, back = await asyncio.open_connection(address.hostname, address.port)
        except OSError:
            return writer.close()
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._up(reader, back, writer), _copy(there, writer), return_exceptions=True)
        finally:
            self._writers -= {writer, back}
            writer.close()
            back.close()

    async def _up(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: asyncio.StreamWriter
    ) -> None:
        await _copy(reader, writer)


class ForgetfulRedis(Forwarder):
    """
    A Redis that says it has published, and has not: what ``forgets`` says of a payload.

    Commands are RESP arrays of bulk strings, one at a time on the connections that publish.
    """

    def __init__(self, target: Callable[[], str]) -> None:
        super().__init__(target)
        self.forgets: Callable[[bytes], bool] = lambda payload: False
        self.forgotten = 0

    async def _up(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: asyncio.StreamWriter
    ) -> None:
        try:
            while head := await reader.readline():
                raw, words = [head], []
                for _ in range(int(head[1:])):
                    size = await reader.readline()
                    word = await reader.readexactly(int(size[1:]) + 2)
                    raw += [size, word]
                    words.append(word[:-2])
                if words[0].upper() == b"PUBLISH" and self.forgets(words[2]):
                    self.forgotten += 1
                    answers.write(b":1\r\n")
                    continue
                writer.write(b"".join(raw))
                await writer.drain()
        finally:
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
