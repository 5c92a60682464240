"""Above the list of pushes the admin shows what apps have reported, by platform."""

from __future__ import annotations

import re
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from models.notification import Delivery
from server.accounts import people
from tests.push.scene import make_person, make_phone

pytestmark = pytest.mark.django_db

LIST = "/admin/messaging/delivery/"


@pytest.fixture
def browser() -> Client:
    operator = people.create(email="olga@example.com", password="correct horse battery", name="Olga")
    operator.is_staff = operator.is_superuser = True
    operator.save()
    client = Client()
    client.force_login(operator)
    return client


def deliver(platform: str, received_after: float | None = None) -> None:
    phone = make_phone(make_person("Bea"), platform=platform)
    sent_at = timezone.now()
    Delivery.objects.create(
        push_id=uuid4(),
        device_id=phone.id,
        user_id=phone.user_id,
        conversation_id=uuid4(),
        kind="alert",
        provider="fcm",
        state="sent",
        finished_at=sent_at,
        received_at=None if received_after is None else sent_at + timedelta(seconds=received_after),
    )


def panel(page: str) -> list[list[str]]:
    """The cells of its lines."""
    table = page.partition('id="receipts"')[2].partition("</table>")[0]
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", line) for line in table.partition("<tbody>")[2].split("<tr>")[1:]]


def test_receipts_stand_above_the_pushes(browser: Client) -> None:
    deliver("android", 2.04)
    deliver("android", 1.96)
    deliver("android")
    deliver("ios")

    page = browser.get(LIST).text

    assert panel(page) == [
        ["android", "3", "66.7%", "2.0 s", "0.0%", "", "0.0%", ""],
        ["ios", "1", "0.0%", "", "0.0%", "", "0.0%", ""],
    ]


def test_where_nothing_was_sent_there_is_no_table(browser: Client) -> None:
    assert 'id="receipts"' not in browser.get(LIST).text


def test_they_cost_one_statement(browser: Client) -> None:
    deliver("ios", 1)

    with CaptureQueriesContext(connection) as queries:
        browser.get(LIST)

    assert len([query for query in queries if "TABLESAMPLE" in query["sql"]]) == 1
    assert len(queries) <= 8
