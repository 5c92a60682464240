"""
The admin: to look at the main tables, and to do what an operator has to do to an account.

What operations guard is only shown, because a row changed behind their back is a change that no app hears of. Lists of
large tables are ordered by their primary key, which begins with the time, and are never counted beyond a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast
from uuid import UUID

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode

from models.conversation import Conversation, Member
from models.deliveries import State
from models.device import Device, Session
from models.message import Message
from models.notification import Delivery, PushCursor
from models.operations import pushes, sessions, users
from models.queries import push_figures
from models.queries.pushes import KINDS
from models.reasons import REASONS, explain
from models.user import Block, User

# Generic for the type checker alone.
if TYPE_CHECKING:
    AnyAdmin = admin.ModelAdmin[Any]
    AnyPaginator = Paginator[Any]
else:
    AnyAdmin = admin.ModelAdmin
    AnyPaginator = Paginator

MAX_COUNTED_ROWS = 10_000
PROVIDERS = ("fcm", "apns", "webpush", "console")


# Rights are given to people; there are few operators.
admin.site.unregister(Group)


class BoundedPaginator(AnyPaginator):
    """Pages of a table that may be huge: counting stops where nobody turns the page any more."""

    @property
    def count(self) -> int:
        rows = cast("QuerySet[Any]", self.object_list)
        return rows.order_by()[:MAX_COUNTED_ROWS].count()


class Shown(AnyAdmin):
    """A table that is only looked at. Ids are found by an index; what else can be searched for, ``find_text`` says."""

    id_fields: ClassVar[tuple[str, ...]] = ("id",)
    search_fields: ClassVar[tuple[str, ...]] = ("id",)
    search_help_text = "An id"
    ordering = ("-id",)
    list_per_page = 50
    show_full_result_count = False
    paginator = BoundedPaginator

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find an id, whichever column it is in."""
        if not search_term:
            return queryset, False
        try:
            id = UUID(search_term.strip())
        except ValueError:
            return self.find_text(queryset, search_term.strip()), False
        return queryset.filter(self.find_id(id)), False

    def find_id(self, id: UUID) -> Q:
        """Say which rows an id is about."""
        condition = Q()
        for field in self.id_fields:
            condition |= Q(**{field: id})
        return condition

    def find_text(self, queryset: QuerySet[Any], text: str) -> QuerySet[Any]:
        """Find what is no id."""
        return queryset.none()


class WithReceipts(AnyAdmin):
    """Above a list of pushes: what apps have reported about those of the last day."""

    change_list_template = "admin/messaging/delivery/change_list.html"

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        receipts = [
            {"platform": one.platform, "sent": one.sent, "reports": _reports(one)} for one in push_figures.receipts()
        ]
        return super().changelist_view(request, {"receipts": receipts, **(extra_context or {})})


def _reports(receipts: push_figures.Receipts) -> list[tuple[str, str]]:
    """The share that was received, displayed and opened, and after how long."""
    figures = (
        (receipts.received_ratio, receipts.received_seconds),
        (receipts.displayed_ratio, receipts.displayed_seconds),
        (receipts.opened_ratio, receipts.opened_seconds),
    )
    return [(f"{ratio:.1%}", "" if seconds is None else f"{seconds:.1f} s") for ratio, seconds in figures]


@admin.register(User)
class UserAdmin(Shown):
    """People: who they are and what they may; ending their sessions, deactivating and deleting them."""

    list_display = ("__str__", "email", "external_id", "is_active", "is_staff", "created_at")
    list_filter = ("is_active", "is_staff")
    search_help_text = "A whole e-mail address, external id or id, or the beginning of a name"
    fields = ("id", "email", "name", "external_id", "data", "created_at", "is_active", "is_staff", "is_superuser")
    readonly_fields = ("id", "email", "name", "external_id", "data", "created_at")
    actions = ("end_sessions",)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return super(Shown, self).has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return super(Shown, self).has_delete_permission(request, obj)

    def find_text(self, queryset: QuerySet[User], text: str) -> QuerySet[User]:
        if "@" in text:
            return queryset.filter(email=text.lower())
        return queryset.filter(Q(name__istartswith=text) | Q(external_id=text))

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Only a superuser makes operators."""
        if request.user.is_superuser:
            return self.readonly_fields
        return (*self.readonly_fields, "is_staff", "is_superuser")

    @admin.action(description="End all sessions", permissions=["change"])
    def end_sessions(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in queryset:
            sessions.revoke_all(actor=user.id)
        self.message_user(request, "Their devices are logged out.", messages.SUCCESS)

    @transaction.atomic
    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """Whoever is deactivated is logged out everywhere, at once."""
        super().save_model(request, obj, form, change)
        if not obj.is_active:
            sessions.revoke_all(actor=obj.id)

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        """Delete as people delete themselves."""
        users.delete_account(actor=obj.id)

    @transaction.atomic
    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        for user in queryset:
            users.delete_account(actor=user.id)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Say whom it is about; what belongs to them is removed by the operation, whoever may see it here."""
        names = [str(user) for user in objs]
        return names, {"people": len(names)}, set(), []


@admin.register(Block)
class BlockAdmin(Shown):
    list_display = ("blocker", "blocked", "created_at")
    list_select_related = ("blocker", "blocked")
    id_fields = ("id", "blocker", "blocked")
    search_help_text = "The id of a block or of one of the two"


@admin.register(Device)
class DeviceAdmin(Shown):
    """Installed apps. Where their pushes go is as good as a secret, and not shown."""

    list_display = ("user", "platform", "name", "app_version", "locale", "has_push_target", "last_seen_at")
    list_select_related = ("user",)
    list_filter = ("platform", "push_provider")
    id_fields = ("id", "user")
    search_help_text = "The id of a device or of its user"
    exclude = ("target", "voip_target", "push_key")

    @admin.display(boolean=True, description="push")
    def has_push_target(self, device: Device) -> bool:
        return bool(device.target)


@admin.register(Session)
class SessionAdmin(Shown):
    list_display = ("user", "device", "created_at", "rotated_at", "expires_at", "revoked_at")
    list_select_related = ("user", "device")
    list_filter = (("revoked_at", admin.EmptyFieldListFilter),)
    id_fields = ("id", "user", "device")
    search_help_text = "The id of a session, of its user or of its device"
    exclude = ("refresh_hash", "previous_hash")


@admin.register(Conversation)
class ConversationAdmin(Shown):
    list_display = ("__str__", "kind", "member_count", "created_at")
    list_filter = ("kind",)
    id_fields = ("id", "direct_low", "direct_high")
    search_help_text = "The beginning of a title, the id of a conversation, or of one of the two in a direct one"

    def find_text(self, queryset: QuerySet[Conversation], text: str) -> QuerySet[Conversation]:
        return queryset.filter(title__istartswith=text)


@admin.register(Member)
class MemberAdmin(Shown):
    list_display = ("user", "conversation", "role", "read_seq", "delivered_seq", "muted_until", "joined_at")
    list_select_related = ("user", "conversation")
    list_filter = ("role", "notification_level", "is_hidden")
    id_fields = ("id", "user", "conversation")
    search_help_text = "The id of a user or of a conversation"
    exclude = ("xid",)


@admin.register(Message)
class MessageAdmin(Shown):
    """Messages, found by ids: nobody reads through what people write to each other."""

    list_display = ("id", "conversation", "seq", "kind", "sender_id", "created_at", "edited_at", "deleted_at")
    list_select_related = ("conversation",)
    list_filter = ("kind",)
    id_fields = ("id", "conversation")
    search_help_text = "The id of a message or of a conversation"
    readonly_fields = ("pushes",)

    @admin.display(description="pushes")
    def pushes(self, message: Message) -> str:
        """The way to what became of them."""
        told_of_it: dict[str, str | int] = {
            "conversation_id": str(message.conversation_id),
            "first_seq__lte": message.seq,
            "seq__gte": message.seq,
            "kind__in": ",".join(KINDS),
        }
        address = reverse("admin:messaging_delivery_changelist")
        return format_html('<a href="{}?{}">What became of them</a>', address, urlencode(told_of_it))


class ProviderFilter(admin.SimpleListFilter):
    """Providers by their names, for the same reason as below."""

    title = "provider"
    parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in dict.fromkeys((settings.ROOST.push_provider, *PROVIDERS))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(provider=self.value()) if self.value() else queryset


class ReasonFilter(admin.SimpleListFilter):
    """Reasons of ours by their codes; asking the table which it has would read all of it."""

    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(reason, reason.replace("_", " ").capitalize()) for reason in sorted(REASONS)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> QuerySet[Delivery]:
        return queryset.filter(reason=self.value()) if self.value() else queryset


@admin.register(Delivery)
class DeliveryAdmin(WithReceipts, Shown):
    """Pushes: what became of them, and why."""

    list_display = ("push_id", "kind", "user_id", "provider", "state", "why", "attempts", "receipts", "created_at")
    list_filter = ("state", "kind", ProviderFilter, ReasonFilter)
    search_help_text = "The id of a push, of its message, conversation, device or user"
    fields = (
        *("id", "push_id", "kind", "user_id", "device_id", "conversation_id", "first_seq", "seq", "provider"),
        *("state", "reason", "why", "answer", "attempts", "shown_tries", "created_at", "finished_at"),
        *("received_at", "displayed_at", "opened_at"),
    )
    readonly_fields = ("why", "shown_tries")
    actions = ("send_again",)

    def has_send_permission(self, request: HttpRequest) -> bool:
        """Whoever may change pushes; their rows nobody does."""
        return request.user.has_perm("messaging.change_delivery")

    def find_id(self, id: UUID) -> Q:
        """A person's pushes are found by the devices, a message's by its place."""
        # Asked before, because an index finds ids and no condition.
        devices = [id, *Device.objects.filter(user=id).values_list("id", flat=True)]
        condition = Q(id=id) | Q(push_id=id) | Q(device_id__in=devices) | Q(conversation_id=id)
        place = Message.objects.filter(id=id).values_list("conversation_id", "seq").first()
        if place:
            conversation, seq = place
            condition |= Q(conversation_id=conversation, first_seq__lte=seq, seq__gte=seq, kind__in=KINDS)
        return condition

    @admin.display(description="why")
    def why(self, delivery: Delivery) -> str:
        return explain(delivery.reason, State(delivery.state))

    @admin.display(description="receipts")
    def receipts(self, delivery: Delivery) -> str:
        """The furthest that the app has told."""
        steps = [step for step in pushes.STEPS if getattr(delivery, f"{step}_at")]
        return steps[-1] if steps else "-"

    @admin.display(description="tries")
    def shown_tries(self, delivery: Delivery) -> str:
        return (
            "\n".join(f"{entry.get('at')} {entry.get('code')} {entry.get('ms')} ms" for entry in delivery.tries) or "-"
        )

    @admin.action(description="Send again what is dead", permissions=["send"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        count = pushes.send_again(delivery_ids=list(queryset.values_list("id", flat=True)))
        self.message_user(request, f"{count} will be sent again.", messages.SUCCESS if count else messages.WARNING)


@admin.register(PushCursor)
class PushCursorAdmin(Shown):
    """What waits for devices, and how far they have been told. What a call says is between those who call."""

    list_display = ("device_id", "conversation_id", "provider", "pending_seq", "sent_seq", "not_before", "attempts")
    list_filter = (("not_before", admin.EmptyFieldListFilter), ProviderFilter)
    id_fields = ("id", "device", "conversation")
    search_help_text = "The id of a device or of a conversation"
    exclude = ("payload",)
