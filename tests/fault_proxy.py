"""An S3 endpoint that misbehaves now and then: a proxy in front of one that does not."""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class FaultProxy:
    """Context manager: passes requests on, but fails a fraction of the object reads (GET of a key).

    Args:
        upstream: URL of the endpoint that answers.
        every_request: Fail that fraction of writes, listings and all else, too.
        slow_down: Fraction of the reads answered with 503 SlowDown.
        reset: Fraction whose connection is reset instead of answered.
        delay: Fraction answered late.
        delay_seconds: How late.
        seed: Of the order in which the faults come.

    Attributes:
        url: The endpoint to use instead of `upstream`.
        faults: How often it did what: `reads` (requests that it may fail), and of them `slow_down`,
            `reset`, `delay`.
        most_at_once: The most object reads that were being answered at one time.
    """

    def __init__(
        self,
        upstream: str,
        *,
        every_request: bool = False,
        slow_down: float = 0.05,
        reset: float = 0.01,
        delay: float = 0.01,
        delay_seconds: float = 5.0,
        seed: int = 0,
    ) -> None:
        self._upstream = upstream.rstrip("/")
        self._every_request = every_request
        self._kinds = ["slow_down", "reset", "delay", "none"]
        self._weights = [slow_down, reset, delay, 1 - slow_down - reset - delay]
        self._delay_seconds = delay_seconds
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""
        self.faults: Counter[str] = Counter()
        self.at_once = 0
        self.most_at_once = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
        )
        # Ends a handler whose client has gone, so that reads under way are counted truly.
        self._server = web.ServerRunner(
            web.Server(self._answer, handler_cancellation=True, access_log=None),
            shutdown_timeout=0,
        )
        await self._server.setup()
        site = web.TCPSite(self._server, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*self._server.addresses[0][:2])

    async def _stop(self) -> None:
        await self._server.cleanup()
        await self._client.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
            # Clients hold the body of a PUT back until they are asked for it.
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not (self._every_request or _reads_an_object(request)):
            return await self._pass_on(request)
        with self._counted():
            self.faults["reads"] += 1
            [kind] = self._random.choices(self._kinds, self._weights)
            if kind != "none":
                self.faults[kind] += 1
            if kind == "slow_down":
                return web.Response(status=503, body=SLOW_DOWN, content_type="application/xml")
            if kind == "reset":
                return _reset(request)
            if kind == "delay":
                await asyncio.sleep(self._delay_seconds)
            return await self._pass_on(request)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield
        finally:
            self.at_once -= 1

    async def _pass_on(self, request: web.BaseRequest) -> web.StreamResponse:
        async with self._client.request(
            request.method,
            URL(self._upstream + request.raw_path, encoded=True),
            headers=_end_to_end(request.headers, but="expect"),
            data=await request.read() if request.body_exists else None,
            allow_redirects=False,
        ) as answer:
            body = await answer.read()
            if request.method == "HEAD":
                return web.Response(status=answer.status, headers=_end_to_end(answer.headers))
            headers = _end_to_end(answer.headers, but="content-length")
            return web.Response(status=answer.status, headers=headers, body=body)


def _reads_an_object(request: web.BaseRequest) -> bool:
    _, _, key = request.path.lstrip("/").partition("/")
    return bool(request.method == "GET" and key and not set(request.query) - {"x-id", "versionId"})


def _reset(request: web.BaseRequest) -> web.Response:
    transport = request.transport
    if transport is not None:
        # Closing with a linger time of zero sends RST instead of FIN.
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response()


def _end_to_end(headers, *, but: str = "") -> list[tuple[str, str]]:
    return [(k, v) for k, v in headers.items() if k.lower() not in {*HOP_BY_HOP, but}]
