"""Columns that Django does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models


class TransactionId(models.Func):
    """The id of the running transaction, 64 bits wide, so that it never wraps."""

    function = "pg_current_xact_id"
    template = "%(function)s()"
    output_field = models.TextField()


if TYPE_CHECKING:
    IntegerColumn = models.Field[int, int]
else:
    IntegerColumn = models.Field


class TransactionIdField(IntegerColumn):
    """The transaction that wrote a row (``xid8``); what a snapshot can be asked about."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("db_default", TransactionId())
        kwargs.setdefault("editable", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def db_type(self, connection: object) -> str:
        return "xid8"
