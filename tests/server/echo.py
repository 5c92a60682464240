"""A server of our picows lane with an echo application, run as a process: ``python -m tests.server.echo PORT [BYTES]``."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import uvloop

from consumers.lane import EXTENSION
from consumers.protocol.framing import binary_frame, text_frame
from server.frames import LaneSettings, PicowsLane
from server.front import FrontDoor


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Echo through the extension; at ``/asgi`` through plain ASGI events; at ``/flood`` write without end."""
    await receive()
    lane = scope["extensions"][EXTENSION]
    if scope["query_string"] == b"asgi":
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})
        return
    lane.attach(lambda payload, is_text: lane.write((text_frame if is_text else binary_frame)(payload)))
    await send({"type": "websocket.accept"})
    await receive()


async def main(port: int, max_message: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    lane = PicowsLane(application, LaneSettings(max_message=max_message, max_unsent=64 << 20))
    tasks: set[asyncio.Task[Any]] = set()

    def hand_over(client: Any) -> None:
        task = loop.create_task(loop.connect_accepted_socket(lane.protocol, client))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    door = FrontDoor({b"GET /": hand_over}, lambda client: client.close())
    print(door.listen("127.0.0.1", port), flush=True)
    await stop.wait()
    door.close()
    await lane.drain(2, 3001, "shutdown")


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 65536))
