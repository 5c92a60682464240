"""``manage.py demo``: load the demo accounts once, and print their log-ins."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from server import demo


class Command(BaseCommand):
    """Safe to run again."""

    help = "Load the demo accounts, once, and print their log-ins."

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.ROOST.is_production:
            raise CommandError("Demo accounts have a password that everybody knows: not in production.")
        demo.load()
        log_ins = ", ".join(person.email for person in demo.PEOPLE)
        self.stdout.write(f"Log in as {log_ins}; the password is {demo.PASSWORD}.")
