"""An S3 endpoint of one folder of images, whose mood a test can change while a job reads from it.

moto and the fault proxy in front of it answer as a store does; this one can also stop answering.
"""

import asyncio
import threading
import time
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Self

from aiohttp import web

DENIED = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
)


class Mood(Enum):
    SERVE = "serve"
    DENY = "deny"
    """403 for every object."""
    HANG = "hang"
    """Accepts a request and never answers it."""


class ObjectServer:
    """Context manager: answers GET /BUCKET/KEY with the file KEY of a folder.

    Args:
        folder: Of the objects.
        delay_seconds: Between a request and its answer, without load on the machine.

    Attributes:
        url: The endpoint.
        mood: What it does with requests from now on.
        delay_seconds: May be changed while it runs.
        reads: How often each key was asked for.
        times: When, by the monotonic clock.
    """

    def __init__(self, folder: Path, *, delay_seconds: float = 0.0) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.mood = Mood.SERVE
        self.delay_seconds = delay_seconds
        self.reads: Counter[str] = Counter()
        self.times: list[float] = []
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._server.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._server = web.ServerRunner(
            web.Server(self._answer, handler_cancellation=True, access_log=None),
            shutdown_timeout=0,
        )
        await self._server.setup()
        await web.TCPSite(self._server, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*self._server.addresses[0][:2])

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        _, _, key = request.path.lstrip("/").partition("/")
        self.reads[key] += 1
        self.times.append(time.monotonic())
        if self.mood is Mood.HANG:
            await asyncio.Event().wait()
        if self.mood is Mood.DENY:
            return web.Response(status=403, body=DENIED, content_type="application/xml")
        await asyncio.sleep(self.delay_seconds)
        try:
            return web.Response(body=(self._folder / key).read_bytes())
        except OSError:
            return web.Response(status=404)
