"""
What connections begin with: whose they are, where their channels are, and what they missed.

After a restart everybody comes back at once, so those who come while others are being read are read together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from models.errors import DomainError, SessionRevoked
from models.events import Publication
from models.operations import devices, users
from models.queries import admission
from models.queries import streams as stream_queries
from models.queries.connects import ConnectSnapshot, Wanted, connect_snapshots
from models.queries.streams import Position
from models.together import Together

from .identity import Identity
from .protocol.messages import SubscribeRequest
from .terms import Terms

# More in one round would keep the first of them waiting; two rounds at once keep the database and this process busy.
MOST_TOGETHER = 32
ROUNDS_AT_ONCE = 2
# Who comes when so many wait would be too late for any client's patience.
MOST_WAITING = 4_000

Run = Callable[..., Awaitable[Any]]


class Snapshot(NamedTuple):
    """One channel as it was read."""

    position: Position
    missed: list[Publication] | None


# Where a channel is that keeps no history.
NOWHERE = Snapshot(Position("", 0), None)


class Opening(NamedTuple):
    """What a new connection begins with; ``chat`` is None for those who are nobody in the chat."""

    identity: Identity
    chat: ConnectSnapshot | None
    granted: dict[str, tuple[Terms, Snapshot, bool]]


class Beginning(NamedTuple):
    """A connection that wants to begin: its positions in the chat, what its token grants it, what its app says."""

    identity: Identity
    positions: Mapping[str, tuple[int, str]]
    granted: Mapping[str, tuple[Terms, SubscribeRequest]]
    data: bytes

    @property
    def needs_database(self) -> bool:
        """Whether there is anything to be looked up."""
        identity = self.identity
        keeps = any(terms.keeps_history for terms, _ in self.granted.values())
        return identity.person is not None or bool(identity.external_id) or keeps


class Openings:
    """Reads what connections begin with."""

    def __init__(self, run: Run) -> None:
        def read_all(beginnings: Sequence[Beginning]) -> Awaitable[Sequence[Opening | Exception]]:
            return run(_read_all, beginnings)

        self._together: Together[Beginning, Opening] = Together(
            read_all, most=MOST_TOGETHER, at_once=ROUNDS_AT_ONCE, most_waiting=MOST_WAITING
        )

    async def read(self, beginning: Beginning) -> Opening:
        """
        Read what a connection begins with.

        Raises:
            SessionRevoked: its session has been ended, or its user may not be here any more.
            InvalidInput: the name that the app's own backend gives its user cannot be one.
        """
        if beginning.needs_database:
            return await self._together.ask(beginning)
        granted = {name: (terms, NOWHERE, False) for name, (terms, _) in beginning.granted.items()}
        return Opening(beginning.identity, None, granted)

    async def stop(self) -> None:
        await self._together.stop()


# --- in a thread


def _read_all(beginnings: Sequence[Beginning]) -> list[Opening | Exception]:
    """Each one's opening, or why it has none."""
    known = [_known_or_refused(beginning) for beginning in beginnings]
    people = [
        (number, Wanted(identity.person, identity.session, beginnings[number].positions))
        for number, identity in enumerate(known)
        if isinstance(identity, Identity) and identity.person is not None
    ]
    found = connect_snapshots([wanted for _, wanted in people]) if people else []
    snapshots = {number: snapshot for (number, _), snapshot in zip(people, found, strict=True)}
    openings: list[Opening | Exception] = []
    for number, identity in enumerate(known):
        if isinstance(identity, Exception):
            openings.append(identity)
        elif number in snapshots and snapshots[number] is None:
            openings.append(SessionRevoked())
        else:
            openings.append(Opening(identity, snapshots.get(number), _read_granted(beginnings[number])))
    return openings


def _read_granted(beginning: Beginning) -> dict[str, tuple[Terms, Snapshot, bool]]:
    found: dict[str, tuple[Terms, Snapshot, bool]] = {}
    for name, (terms, asked) in beginning.granted.items():
        since = (asked.offset, asked.epoch) if asked.recover and terms.is_recoverable else None
        snapshot = read_stream(name, since, terms.is_cache) if terms.keeps_history else NOWHERE
        found[name] = terms, snapshot, since is not None
    return found


class _DeviceDetails(msgspec.Struct):
    install_id: str = ""
    platform: str = ""
    name: str = ""


class _ConnectData(msgspec.Struct):
    """What an app may say when it connects."""

    device: _DeviceDetails | None = None


def _known_or_refused(beginning: Beginning) -> Identity | Exception:
    try:
        return _known(beginning.identity, beginning.data)
    except DomainError as error:
        return error


def _known(identity: Identity, data: bytes) -> Identity:
    """
    Find the chat's user of an identity, made if the app's own backend vouches for it.

    Raises:
        SessionRevoked: the user may not be here any more.
        InvalidInput: the backend's name for the user cannot be one.
    """
    if identity.external_id is None:
        return identity
    person = users.ensure_external(external_id=identity.external_id)
    if person is None:
        raise SessionRevoked
    try:
        details = msgspec.json.decode(data, type=_ConnectData).device if data else None
    except msgspec.MsgspecError:
        details = None
    device = None
    if details is not None and details.install_id:
        device = devices.ensure(user_id=person, **msgspec.structs.asdict(details))
    return msgspec.structs.replace(identity, person=person, device=device)


def read_chat(user: UUID, name: str, since: tuple[int, str] | None) -> Snapshot | None:
    """Read a channel of the chat as its member may see it; None if the user may not hear it."""
    floor = admission.floor(user_id=user, channel=name) if user is not None else None
    if floor is None:
        return None
    if since is None:
        position = stream_queries.read_positions([name]).get(name)
        return position and Snapshot(position, None)
    found = stream_queries.recover([(name, *since)], floors={name: floor}).get(name)
    return found and Snapshot(found.position, found.publications)


def read_stream(name: str, since: tuple[int, str] | None, is_cache: bool) -> Snapshot:
    """Read a channel of a namespace; with ``is_cache`` the newest publication is all that is wanted."""
    if since is None:
        return Snapshot(stream_queries.read_positions([name])[name], None)
    if is_cache:
        return Snapshot(*stream_queries.newest(name, since))
    found = stream_queries.recover([(name, *since)])[name]
    return Snapshot(found.position, found.publications)
