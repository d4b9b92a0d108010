"""A TCP proxy on loopback that puts a round trip's time between a client and a server, as a network would.

Every byte comes half of it later than it was sent, in each direction; how many bytes are under way is not limited.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"
READ_BYTES = 1 << 18


@contextmanager
def slow_network(port: int, round_trip_seconds: float) -> Iterator[int]:
    """Yields the port of a proxy before another port of this machine; it runs in a thread, and ends with the block."""
    loop = asyncio.new_event_loop()
    proxy = _Proxy(port, round_trip_seconds / 2)
    server = loop.run_until_complete(asyncio.start_server(proxy.serve, HOST, 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


class _Proxy:
    def __init__(self, port: int, delay_seconds: float) -> None:
        self._port = port
        self._delay_seconds = delay_seconds

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection in both directions until either side ends it."""
        there_reader, there_writer = await asyncio.open_connection(HOST, self._port)
        ways = [self._forward(reader, there_writer), self._forward(there_reader, writer)]
        try:
            await asyncio.gather(*ways)
        except ConnectionError:
            pass
        finally:
            writer.close()
            there_writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    return
                writer.write(data)
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        try:
            while data := await reader.read(READ_BYTES):
                under_way.put_nowait((loop.time() + self._delay_seconds, data))
            under_way.put_nowait((loop.time() + self._delay_seconds, b""))
            await delivering
            if writer.can_write_eof():
                writer.write_eof()
        finally:
            delivering.cancel()
