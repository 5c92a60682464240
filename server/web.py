"""
A web process: one event loop, the front door, its layers, and the engine behind them.

Started by ``manage.py serve``. Importing it makes the loop (``daphne.py``), so nothing else imports it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
from collections.abc import Callable
from typing import Protocol

from .daphne import DaphneServer, loop, running_reactor
from .env import Env
from .front import FrontDoor, Layer
from .peers import Origins, Proxies
from .picows_lane import Application, LaneSettings, PicowsLane
from .uvicorn_lane import UvicornLane

log = logging.getLogger(__name__)

# How a connection begins that the front door gives to a layer of its own; everything else is Daphne's.
WEBSOCKET = b"GET /connection/websocket"
BACKEND = b"POST /api/"
# What serving makes is mostly freed by reference counts; full collections of a large, stable heap only cost.
GC_THRESHOLDS = (50_000, 20, 100)
# After the drain: what the writer has taken is committed.
ENGINE_STOP_SECONDS = 5.0
# The protocol's code for "come back at once, to another process".
SHUTDOWN = (3001, "shutdown")


class Engine(Protocol):
    """What lives as long as the process: ``consumers.engine.Engine``."""

    async def start(self) -> None: ...
    async def stop(self, seconds: float) -> None: ...
    def end_streams(self) -> None: ...


class Web:
    """One web process, around an ASGI application and the engine that lives as long as it."""

    def __init__(self, application: Application, engine: Engine, env: Env) -> None:
        """
        Raises:
            ValueError: a setting does not make sense.
        """
        proxies = Proxies(env.words(env.trusted_proxies))
        self._env = env
        self._engine = engine
        self._daphne = DaphneServer(application, proxies=proxies, max_message=env.max_frame_bytes)
        self._uvicorn = UvicornLane(application, own="/api/", proxies=proxies)
        self._settings = LaneSettings(
            max_message=env.max_frame_bytes,
            max_unsent=env.max_unsent_bytes,
            max_connections=env.max_connections,
            may_compress=env.compress_websockets,
            origins=Origins(env.words(env.allowed_origins)),
            proxies=proxies,
        )
        self._application = application

    def serve(self, host: str, port: int, on_listening: Callable[[int], object]) -> None:
        """
        Serve until SIGTERM or SIGINT, then drain.

        Raises:
            CannotListen: the address cannot be had.
        """
        _allow_files(self._env.max_connections)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        with running_reactor():
            try:
                loop.run_until_complete(self._run(host, port, stop, on_listening))
            finally:
                loop.run_until_complete(_end_tasks())

    async def _run(self, host: str, port: int, stop: asyncio.Event, on_listening: Callable[[int], object]) -> None:
        lane = PicowsLane(self._application, self._settings)
        layers: dict[bytes, Layer] = {BACKEND: self._uvicorn.adopt}
        if self._env.socket_lane == "picows":
            layers[WEBSOCKET] = lane.adopt
        door = FrontDoor(layers, self._daphne.adopt)
        await self._engine.start()
        try:
            self._daphne.start()
            on_listening(door.listen(host, port))
            _calm_collector()
            await stop.wait()
            door.stop_listening()
            await self._drain(lane)
        finally:
            door.close()
            await self._engine.stop(ENGINE_STOP_SECONDS)

    async def _drain(self, lane: PicowsLane) -> None:
        log.info("draining: %d websockets in %g s", len(lane.connections), self._env.drain_seconds)
        self._engine.end_streams()
        layers = (lane, self._uvicorn, self._daphne)
        await asyncio.gather(*(layer.drain(self._env.drain_seconds, *SHUTDOWN) for layer in layers))


def _allow_files(connections: int) -> None:
    """Raise the limit of open files as far as the system allows; by default it is 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most != resource.RLIM_INFINITY and most < connections:
        log.warning("ROOST_MAX_CONNECTIONS is %d, but the system allows %d open files", connections, most)


def _calm_collector() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _end_tasks() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
