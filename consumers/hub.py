"""
Which connections of this process listen to which channel. Bookkeeping only: nothing here awaits.

``relay`` feeds it, in the order of offsets and without holes; ``subscriptions`` attach and detach. The publications of
one loop turn are written together: encoded once per encoding, one frame, the same bytes for everyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar
from uuid import UUID

from models.events import Publication

from .info import Info
from .protocol.codec import Codec, Unsuitable
from .protocol.codes import Disconnect
from .protocol.messages import Presence, Push, Reply
from .protocol.messages import Publication as WirePublication
from .views import Patches, View, to_wire

# Hints about who is there: written to those who want them only.
JOIN, LEAVE = "join", "leave"
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
    database: they are left out up to their offset. ``views`` are those who do not see everything as it is, ``watchers``
    those who hear who comes and goes.
    """

    __slots__ = ("epoch", "is_closed", "late", "listeners", "name", "pending", "top", "used_at", "views", "watchers")

    def __init__(self, name: str, epoch: str, top: int) -> None:
        self.name = name
        self.epoch = epoch
        self.top = top
        self.listeners: set[Listener] = set()
        self.late: dict[Listener, int] = {}
        self.views: dict[Listener, View] | None = None
        self.watchers: set[Listener] | None = None
        self.pending: list[Publication] = []
        self.used_at = 0.0
        self.is_closed = False

    @property
    def everyone(self) -> list[Listener]:
        return [*self.listeners, *self.late, *(self.views or ())]

    @property
    def is_empty(self) -> bool:
        return not self.listeners and not self.late and not self.views


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
        # By the chat's id, and by the name that the protocol shows.
        self.users: dict[UUID, set[Listener]] = {}
        self.names: dict[str, set[Listener]] = {}
        self.effects: dict[str, Effect] = {}
        self._call_soon = call_soon
        self._now = now
        self._ready: list[Channel] = []

    # --- who is here

    def arrive(self, user: UUID | None, name: str, listener: Listener) -> None:
        """A connection has an owner now."""
        self.names.setdefault(name, set()).add(listener)
        if user is not None:
            self.users.setdefault(user, set()).add(listener)

    def depart(self, user: UUID | None, name: str, listener: Listener) -> None:
        """A connection has ended."""
        _discard(self.names, name, listener)
        if user is not None:
            _discard(self.users, user, listener)

    # --- channels

    def open(self, name: str, epoch: str, top: int) -> Channel:
        """Return the channel, taken in from ``top`` on if nobody listened to it so far."""
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name, epoch, top)
        return channel

    def attach(
        self, channel: Channel, listener: Listener, upto: int, *, view: View | None = None, is_watcher: bool = False
    ) -> None:
        """Let a connection listen that has everything up to ``upto`` already."""
        if upto < channel.top:
            raise AssertionError(f"{channel.name}: a listener at {upto} would miss up to {channel.top}")
        if is_watcher:
            channel.watchers = channel.watchers or set()
            channel.watchers.add(listener)
        if view is not None:
            channel.views = channel.views or {}
            channel.views[listener] = view
            return
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
        if channel.views is not None:
            channel.views.pop(listener, None)
        if channel.watchers is not None:
            channel.watchers.discard(listener)
        self.release(channel)

    def release(self, channel: Channel) -> None:
        """Close a channel if nobody listens to it."""
        if channel.is_empty and not channel.is_closed:
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
        return channel.everyone

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
            kind = publication.kind
            if kind in effects:
                # What follows an effect may no longer be for everyone, so it goes into a frame of its own.
                self._write_to_everyone(channel, publications[start : number + 1])
                effects[kind](publication)
                start = number + 1
                if channel.is_closed:
                    return
            elif kind in (JOIN, LEAVE):
                if start < number:
                    self._write_to_everyone(channel, publications[start:number])
                self._write_presence(channel, publication)
                start = number + 1
        if start < len(publications):
            self._write_to_everyone(channel, publications[start:] if start else publications)
        if channel.late:
            self._settle(channel)

    def _write_to_everyone(self, channel: Channel, publications: list[Publication]) -> None:
        encoded: dict[Codec, list[bytes]] = {}
        codec: Codec | None = None
        # The way of every delivery: nothing is asked for each listener that can be asked for many. A copy, because
        # writing may cut off a slow connection, which then leaves.
        for listener in tuple(channel.listeners):
            if listener.codec is not codec:
                codec = listener.codec
                if codec not in encoded:
                    encoded[codec] = encode(codec, channel.name, publications)
                frames = encoded[codec]
                only = frames[0] if len(frames) == 1 else None
            if only is not None:
                listener.write(only)
            else:
                _write_frames(listener, frames)
        for listener, upto in tuple(channel.late.items()):
            if rest := [p for p in publications if p.offset > upto or not p.offset]:
                _write_frames(listener, encode(listener.codec, channel.name, rest))
        if channel.views:
            patches: Patches = {}
            for listener, view in tuple(channel.views.items()):
                _write_frames(listener, _encode_view(listener.codec, channel.name, view, publications, patches))

    def _write_presence(self, channel: Channel, publication: Publication) -> None:
        """Tell who has come or gone; ``data`` is the stored info."""
        info = Info.read(publication.data)
        frames: dict[str, bytes] = {}
        for listener in tuple(channel.watchers or ()):
            codec = listener.codec
            if codec.name not in frames:
                about = Presence(info.to_wire(codec))
                push = (
                    Push(channel=channel.name, join=about)
                    if publication.kind == JOIN
                    else Push(channel=channel.name, leave=about)
                )
                frames[codec.name] = codec.frame([codec.encode(Reply(push=push))])
            listener.write(frames[codec.name])

    def _settle(self, channel: Channel) -> None:
        for listener, upto in tuple(channel.late.items()):
            if upto <= channel.top and not channel.pending:
                del channel.late[listener]
                channel.listeners.add(listener)


def encode(codec: Codec, channel: str, publications: Iterable[Publication]) -> list[bytes]:
    """Put publications into as few frames as their size allows; none if one of them does not suit the encoding."""
    try:
        return _frames(codec, channel, (to_wire(publication, codec) for publication in publications))
    except Unsuitable:
        return []


def _encode_view(
    codec: Codec, channel: str, view: View, publications: list[Publication], patches: Patches
) -> list[bytes] | None:
    """The same for a view; None if it shows nothing."""
    try:
        shown = view.live(publications, codec, patches)
        return _frames(codec, channel, shown) if shown else None
    except Unsuitable:
        return []


def _frames(codec: Codec, channel: str, publications: Iterable[WirePublication]) -> list[bytes]:
    frames: list[bytes] = []
    pushes: list[bytes] = []
    size = 0
    for publication in publications:
        push = codec.encode_publication(channel, publication)
        if pushes and size + len(push) > MAX_FRAME_BYTES:
            frames.append(codec.frame(pushes))
            pushes, size = [], 0
        pushes.append(push)
        size += len(push)
    frames.append(codec.frame(pushes))
    return frames


def _write_frames(listener: Listener, frames: list[bytes] | None) -> None:
    if frames is None:
        return
    for frame in frames:
        listener.write(frame)
    if not frames:
        listener.disconnect(Disconnect.INAPPROPRIATE_PROTOCOL)


Key = TypeVar("Key")


def _discard(there: dict[Key, set[Listener]], key: Key, listener: Listener) -> None:
    listeners = there.get(key)
    if listeners:
        listeners.discard(listener)
        if not listeners:
            del there[key]
