"""A task that serves HTTP as well-behaved servers do: ``python web_task.py PORT VERSION``.

Told to end, it takes no new connections, answers what is asked on those that are open, says there that it closes, and leaves.
"""

from __future__ import annotations

import asyncio
import signal
import sys

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
"""Of the nodes of a test."""
GOODBYE_S = 5.0


class Server:
    """One HTTP/1.1 server with keep-alive, and nothing more than the tests need."""

    def __init__(self, version: str) -> None:
        self._version = version.encode()
        self._is_ending = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()

    async def run(self, port: int) -> None:
        """Serve until SIGTERM."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._is_ending.set)
        server = await asyncio.start_server(self._serve, ADDRESSES, port, backlog=1024)
        await self._is_ending.wait()
        server.close()
        try:
            async with asyncio.timeout(GOODBYE_S):
                await server.wait_closed()
                while self._open:
                    await asyncio.wait([asyncio.ensure_future(next(iter(self._open)).wait_closed())])
        except TimeoutError:
            return

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                closes = self._is_ending.is_set() or b"connection: close" in head.lower()
                words = b"Connection: close\r\n" if closes else b""
                length = str(len(self._version)).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n" + words + b"\r\n" + self._version
                )
                await writer.drain()
                if closes:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._open.discard(writer)


if __name__ == "__main__":
    asyncio.run(Server(sys.argv[2]).run(int(sys.argv[1])))
