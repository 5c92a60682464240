"""What the soak asks a web process about itself: an extension, loaded by ``ROOST_EXTENSIONS``."""

from __future__ import annotations

import asyncio
import gc

import psutil

from consumers.engine import current
from consumers.extensions import Call, extend


@extend.rpc("bench.watch")
async def watch(call: Call) -> object:
    """Count what may grow."""
    gc.collect()
    hub = current().hub
    return {
        "memory": psutil.Process().memory_info().rss,
        "tasks": len(asyncio.all_tasks()),
        "objects": len(gc.get_objects()),
        "clients": sum(map(len, hub.names.values())),
        "channels": len(hub.channels),
        "known": len(hub.known),
    }
