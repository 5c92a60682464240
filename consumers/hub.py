"""
Which connections of this process listen to which channel. Bookkeeping only: nothing here awaits.

``relay`` feeds it, in the order of offsets and without holes; ``subscriptions`` attach and detach. The publications of
one loop turn are written together: encoded once per encoding, one frame, the same bytes for everyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol
from uuid import UUID

from models.events import Publication

from .info import Info
from .protocol.codec import Codec, Unsuitable
from .protocol.codes import Disconnect
from .protocol.messages import Publication as WirePublication
from .protocol.messages import Raw

# Publications of the operator's channels, whose data is any bytes.
RAW_KIND = "publication"
# A frame stays well below what clients take in one message (1 MiB in some SDKs).
MAX_FRAME_BYTES = 512 * 1024


class Listener(Protocol):
    """What the hub needs of a connection."""

    codec: Codec

    def disconnect(self, code: Disconnect) -> None:
        """Closes it."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """Writes one finished frame."""


class Channel:
    """
    One channel that somebody of this process listens to.

    ``top`` is the offset of the newest publication that was taken in, 0 for a channel without any; everyone in
    ``listeners`` has everything up to there once ``pending`` is written. ``late`` have more than that already, from the
    database: they are left out up to their offset.
    """

    __slots__ = ("epoch", "is_closed", "late", "listeners", "name", "pending", "top", "used_at")

    def __init__(self, name: str, epoch: str, top: int) -> None:
        self.name = name
        self.epoch = epoch
        self.top = top
        self.listeners: set[Listener] = set()
        self.late: dict[Listener, int] = {}
        self.pending: list[Publication] = []
        self.used_at = 0.0
        self.is_closed = False


class Known:
    """A channel that connections belong to without being subscribed: its next publication will subscribe them."""

    __slots__ = ("epoch", "listeners", "top")

    def __init__(self, epoch: str, top: int) -> None:
        self.epoch = epoch
        self.top = top
        self.listeners: set[Listener] = set()


# Called after a publication was written that every process has to act upon.
Effect = Callable[[Publication], None]


class Hub:
    """All channels and listeners of a process."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object], now: Callable[[], float]) -> None:
        self.channels: dict[str, Channel] = {}
        self.known: dict[str, Known] = {}
        self.users: dict[UUID, set[Listener]] = {}
        self.effects: dict[str, Effect] = {}
        self._call_soon = call_soon
        self._now = now
        self._ready: list[Channel] = []

    # --- who is here

    def arrive(self, user: UUID, listener: Listener) -> None:
        """A connection has an owner now."""
        self.users.setdefault(user, set()).add(listener)

    def depart(self, user: UUID, listener: Listener) -> None:
        """A connection has ended."""
        there = self.users.get(user)
        if there:
            there.discard(listener)
            if not there:
                del self.users[user]

    # --- channels

    def open(self, name: str, epoch: str, top: int) -> Channel:
        """Return the channel, taken in from ``top`` on if nobody listened to it so far."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name, epoch, top)
        return channel

    def attach(self, channel: Channel, listener: Listener, upto: int) -> None:
        """Let a connection listen that has everything up to ``upto`` already."""
        if upto < channel.top:
            raise AssertionError(f"{channel.name}: a listener at {upto} would miss up to {channel.top}")
        # What is still to be written in this turn is behind ``top``, so the newcomer has it.
        if channel.pending or upto > channel.top:
            channel.late[listener] = upto
        else:
            channel.listeners.add(listener)

    def detach(self, name: str, listener: Listener) -> None:
        """Let a connection listen no more."""
        channel = self.channels.get(name)
        if channel is None:
            return
        channel.listeners.discard(listener)
        channel.late.pop(listener, None)
        self.release(channel)

    def release(self, channel: Channel) -> None:
        """Close a channel if nobody listens to it."""
        if not channel.listeners and not channel.late and not channel.is_closed:
            channel.is_closed = True
            del self.channels[channel.name]

    def know(self, name: str, epoch: str, top: int, listener: Listener) -> None:
        """A connection is to be subscribed by this channel's first publication after ``top``."""
        known = self.known.get(name)
        if known is None:
            known = self.known[name] = Known(epoch, top)
        known.listeners.add(listener)

    def forget(self, name: str, listener: Listener) -> None:
        """The opposite of ``know``."""
        known = self.known.get(name)
        if known:
            known.listeners.discard(listener)
            if not known.listeners:
                del self.known[name]

    def end(self, name: str) -> list[Listener]:
        """Close a channel, and return who listened."""
        channel = self.channels.pop(name, None)
        if channel is None:
            return []
        channel.is_closed = True
        return [*channel.listeners, *channel.late]

    # --- publications

    def deliver(self, channel: Channel, publication: Publication) -> None:
        """Take in the next publication of a channel (or a hint): it is written at the end of this turn."""
        if publication.offset:
            channel.top = publication.offset
        if not self._ready:
            self._call_soon(self.flush)
        if not channel.pending:
            self._ready.append(channel)
        channel.pending.append(publication)

    def flush(self) -> None:
        """Write what this turn took in."""
        ready, self._ready = self._ready, []
        now = self._now()
        for channel in ready:
            pending, channel.pending = channel.pending, []
            channel.used_at = now
            self._write(channel, pending)

    def _write(self, channel: Channel, publications: list[Publication]) -> None:
        effects = self.effects
        start = 0
        for number, publication in enumerate(publications):
            # What follows an effect may no longer be for everyone, so it goes into a frame of its own.
            if publication.kind in effects:
                self._write_to_listeners(channel, publications[start : number + 1])
                effects[publication.kind](publication)
                start = number + 1
                if channel.is_closed:
                    return
        if start < len(publications):
            self._write_to_listeners(channel, publications[start:] if start else publications)
        if channel.late:
            self._settle(channel)

    def _write_to_listeners(self, channel: Channel, publications: list[Publication]) -> None:
        frames: dict[str, list[bytes]] = {}
        # A copy, because writing may cut off a slow connection, which then leaves.
        for listener in tuple(channel.listeners):
            codec = listener.codec
            encoded = frames.get(codec.name)
            if encoded is None:
                encoded = frames[codec.name] = encode(codec, channel.name, publications)
            for frame in encoded:
                listener.write(frame)
            if not encoded:
                listener.disconnect(Disconnect.INAPPROPRIATE_PROTOCOL)
        for listener, upto in tuple(channel.late.items()):
            if rest := [p for p in publications if p.offset > upto or not p.offset]:
                encoded = encode(listener.codec, channel.name, rest)
                for frame in encoded:
                    listener.write(frame)
                if not encoded:
                    listener.disconnect(Disconnect.INAPPROPRIATE_PROTOCOL)

    def _settle(self, channel: Channel) -> None:
        for listener, upto in tuple(channel.late.items()):
            if upto <= channel.top and not channel.pending:
                del channel.late[listener]
                channel.listeners.add(listener)


def encode(codec: Codec, channel: str, publications: Iterable[Publication]) -> list[bytes]:
    """Put publications into as few frames as their size allows; none if one of them does not suit the encoding."""
    frames: list[bytes] = []
    pushes: list[bytes] = []
    size = 0
    for publication in publications:
        try:
            push = codec.encode_publication(channel, to_wire(publication, codec))
        except Unsuitable:
            return []
        if pushes and size + len(push) > MAX_FRAME_BYTES:
            frames.append(codec.frame(pushes))
            pushes, size = [], 0
        pushes.append(push)
        size += len(push)
    frames.append(codec.frame(pushes))
    return frames


def to_wire(publication: Publication, codec: Codec) -> WirePublication:
    """
    A publication as the protocol has it.

    Raises:
        Unsuitable: this encoding cannot carry its data.
    """
    return WirePublication(
        # What we wrote ourselves is JSON on one line.
        data=codec.check(publication.data) if publication.kind == RAW_KIND else Raw(publication.data),
        offset=publication.offset,
        info=None if publication.info is None else Info.read(publication.info).to_wire(codec),
        tags=publication.tags,
    )
