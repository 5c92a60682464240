"""What one subscription has been given: what it hears, what it shows of itself, when it ends. Pure."""

from __future__ import annotations

import msgspec

from .filters import BadFilter, Predicate, compile_filter
from .identity import NEVER, Grant
from .namespaces import Namespace
from .protocol.messages import SubscribeRequest
from .views import View


class Terms(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    The terms of a subscription. Most of a namespace's subscribers have the same, and share one of these.

    ``keeps_history``: the channel has a stream. ``is_present``: others see it in presence. ``announces``: others hear
    it come and go. ``watches``: it hears the others.
    """

    keeps_history: bool = True
    is_positioned: bool = True
    is_recoverable: bool = True
    is_cache: bool = False
    is_present: bool = False
    announces: bool = False
    watches: bool = False
    has_delta: bool = False
    admits: Predicate | None = None
    info: bytes = b""
    data: bytes = b""
    expires_at: float = NEVER

    @property
    def needs_view(self) -> bool:
        return self.has_delta or self.admits is not None

    def view(self, upto: int) -> View | None:
        """What the subscription sees, None for everything as it is."""
        return View(upto, admits=self.admits, has_delta=self.has_delta) if self.needs_view else None


# Conversations, feeds and personal channels.
CHAT = Terms()


def make_terms(namespace: Namespace, request: SubscribeRequest, grant: Grant) -> Terms:
    """
    Join what a namespace offers, a client asks for and a grant overrides.

    Raises:
        BadFilter: the tags filter is malformed, or not allowed here.
    """
    if request.tf is not None and not namespace.allow_tags_filter:
        raise BadFilter("not allowed here")

    def option(name: str) -> bool:
        return bool(grant.override.get(name, getattr(namespace, name)))

    recovers = namespace.keeps_history and (
        option("force_recovery") or (namespace.allow_recovery and request.recoverable)
    )
    is_positioned = recovers or (
        namespace.keeps_history
        and (option("force_positioning") or (namespace.allow_positioning and request.positioned))
    )
    announces = option("join_leave")
    terms = Terms(
        keeps_history=namespace.keeps_history,
        is_positioned=is_positioned,
        is_recoverable=recovers,
        is_cache=namespace.is_cache,
        is_present=option("presence"),
        announces=announces,
        watches=announces and (option("force_push_join_leave") or request.join_leave),
        # A filter may keep from a client what a patch would be made on.
        has_delta=request.delta in namespace.allowed_delta_types and request.tf is None,
        admits=compile_filter(request.tf) if request.tf is not None else None,
        info=grant.info,
        data=grant.data,
        expires_at=grant.expires_at,
    )
    return _shared.setdefault(terms, terms) if grant == _PLAIN and request.tf is None else terms


_PLAIN = Grant()
# There are as many as there are combinations of flags in use.
_shared: dict[Terms, Terms] = {}
