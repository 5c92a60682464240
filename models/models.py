"""Django's entry point: imports every table, nothing else."""

from .conversation import Conversation, DeviceReceipt, Member
from .device import Device, Session
from .message import Message
from .notification import Delivery, Notification, PushClear, PushCursor
from .stream import Deployment, Publication, Stream, WriterBatch
from .user import Block, User

__all__ = [
    "Block",
    "Conversation",
    "Delivery",
    "Deployment",
    "Device",
    "DeviceReceipt",
    "Member",
    "Message",
    "Notification",
    "Publication",
    "PushClear",
    "PushCursor",
    "Session",
    "Stream",
    "User",
    "WriterBatch",
]
