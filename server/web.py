"""
A web process: one uvloop under Twisted's asyncio reactor, the front door, its layers, and the engine.

Started by ``manage.py serve``. Importing this module installs the loop, so nothing else may import it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from ipaddress import ip_network

import uvloop

loop = uvloop.new_event_loop()
asyncio.set_event_loop(loop)

from twisted.internet import asyncioreactor  # noqa: E402

asyncioreactor.install(loop)

from django.conf import settings  # noqa: E402

from consumers.protocol.codes import Disconnect  # noqa: E402

from . import wiring  # noqa: E402
from .asgi import application  # noqa: E402
from .daphne import DaphneServer  # noqa: E402
from .env import Env  # noqa: E402
from .frames import LaneSettings, PicowsLane  # noqa: E402
from .front import FrontDoor, Layer  # noqa: E402

log = logging.getLogger(__name__)

WEBSOCKET = b"GET /connection/websocket"
# What serving makes is mostly freed by reference counts; full collections of a large, stable heap only cost.
GC_THRESHOLDS = (50_000, 20, 100)
# After the drain the engine finishes what the writer has taken.
ENGINE_STOP_SECONDS = 5.0


def serve(host: str, port: int) -> None:
    """
    Serve until SIGTERM or SIGINT.

    Raises:
        OSError: the address cannot be had.
    """
    from twisted.internet import reactor

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # The reactor and the loop are one; started this way, both run until the task ends.
    reactor.startRunning(installSignalHandlers=False)  # type: ignore[attr-defined]
    try:
        loop.run_until_complete(_run(settings.ROOST, host, port, stop))
    finally:
        reactor.fireSystemEvent("shutdown")  # type: ignore[attr-defined]
        loop.close()


async def _run(env: Env, host: str, port: int, stop: asyncio.Event) -> None:
    proxies = tuple(ip_network(network) for network in env.words(env.trusted_proxies))
    daphne = DaphneServer(application, trusted_proxies=proxies)
    daphne.start()
    lane = PicowsLane(
        application,
        LaneSettings(
            max_message=env.max_frame_bytes,
            max_unsent=env.max_unsent_bytes,
            max_connections=env.max_connections,
            allowed_origins=frozenset(env.words(env.allowed_origins)),
            trusted_proxies=proxies,
        ),
    )
    engine = wiring.engine()
    await engine.start()
    layers: dict[bytes, Layer] = {WEBSOCKET: _to(lane)} if env.socket_lane == "picows" else {}
    door = FrontDoor(layers, daphne.adopt)
    try:
        door.listen(host, port)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        log.info("listening on %s:%s", host, port)
        await stop.wait()
    finally:
        door.close()
        code = Disconnect.SHUTDOWN
        await asyncio.gather(
            lane.drain(env.drain_seconds, code.value, code.reason),
            daphne.drain(env.drain_seconds, code.value, code.reason),
        )
        await engine.stop(ENGINE_STOP_SECONDS)
        daphne.stop()


def _to(lane: PicowsLane) -> Layer:
    handing_over: set[asyncio.Task[object]] = set()

    def hand_over(client: socket.socket) -> None:
        task = loop.create_task(loop.connect_accepted_socket(lane.protocol, client))
        handing_over.add(task)
        task.add_done_callback(handing_over.discard)

    return hand_over
