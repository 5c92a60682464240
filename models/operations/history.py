"""What the operator does to the history of channels of their own."""

from __future__ import annotations

from django.db import transaction

from .. import channels, streams
from ..stream import Publication, Stream


@transaction.atomic
def remove_history(*, channel: str) -> None:
    """
    Remove all publications of a channel, and begin a new epoch: clients load afresh. Without any it changes nothing.

    The offsets go on from where they were, so that no two publications of a channel ever had the same.
    """
    if not streams.lock([channel]):
        return
    id = channels.stream_id(channel)
    Publication.objects.filter(stream_id=id).delete()
    Stream.objects.filter(id=id).update(epoch=streams.new_epoch())


def trim_history(*, namespace: str, size: int, seconds: float) -> int:
    """
    Remove what a namespace's channels keep beyond their size and age; how many publications. For the worker.

    ``namespace`` is what stands before the first colon of a channel's name, empty for channels without one.
    """
    pattern = f"{namespace}:%" if namespace else "%"
    return streams.trim(pattern, is_unprefixed=not namespace, size=size, seconds=seconds)
