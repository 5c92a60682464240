"""What a subscription sees that does not want everything as it is: through a filter, or as deltas. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from models.events import Publication

from .filters import Predicate
from .fossil import make_patch
from .info import Info
from .protocol.codec import Codec
from .protocol.messages import Publication as WirePublication
from .protocol.messages import Raw

# Publications of the operator's channels, whose data is any bytes.
RAW_KIND = "publication"

# Patches that were made in this turn already, by the two payloads; most subscribers have the same base.
Patches = dict[tuple[int, int, bool], bytes | None]


class View:
    """
    One subscription's view of its channel.

    ``upto`` is the offset of the last publication that it was shown, or that its filter kept from it.
    """

    __slots__ = ("_admits", "_base", "_has_delta", "upto")

    def __init__(self, upto: int, *, admits: Predicate | None = None, has_delta: bool = False) -> None:
        self.upto = upto
        self._admits = admits
        self._has_delta = has_delta
        self._base: bytes | None = None

    def recovered(self, publications: Iterable[Publication], codec: Codec) -> list[WirePublication]:
        """
        Show what was missed: all of it in full.

        Raises:
            Unsuitable: the encoding cannot carry it.
        """
        return [self._show(p, codec, {}) for p in publications if self._sees(p)]

    def live(self, publications: Iterable[Publication], codec: Codec, patches: Patches) -> list[WirePublication]:
        """
        Show what has just happened.

        Raises:
            Unsuitable: the encoding cannot carry it.
        """
        return [
            self._show(p, codec, patches)
            for p in publications
            if (not p.offset or p.offset > self.upto) and self._sees(p)
        ]

    def _sees(self, publication: Publication) -> bool:
        if publication.offset:
            self.upto = publication.offset
        return self._admits is None or self._admits(publication.tags or _NO_TAGS)

    def _show(self, publication: Publication, codec: Codec, patches: Patches) -> WirePublication:
        shown = to_wire(publication, codec)
        if not self._has_delta:
            return shown
        base, self._base = self._base, publication.data
        patch = None
        if publication.delta and base is not None:
            key = (id(base), id(publication.data), codec.is_text)
            if key not in patches:
                patches[key] = make_patch(base, publication.data, is_text=codec.is_text)
            patch = patches[key]
        shown.data = codec.wrap_delta(publication.data if patch is None else patch)
        shown.delta = patch is not None
        return shown


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


_NO_TAGS: Mapping[str, str] = {}
