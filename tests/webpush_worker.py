"""
``python -m tests.webpush_worker CERTIFICATE worker``: ``manage.py worker`` that may push to this machine.

For stories with a push service of their own, whose certificate is given. The command has no switch for it, so that no
deployment can be told to ask addresses of its own network.
"""

from __future__ import annotations

import os
import ssl
import sys
from functools import partial

from django.core.management import execute_from_command_line

from push.providers import webpush


def main(certificate: str, *words: str) -> None:
    provider = partial(
        webpush.WebPushProvider,
        allows=lambda address: True,
        tls=ssl.create_default_context(cafile=certificate),
    )
    # The command looks the provider up when it starts.
    webpush.WebPushProvider = provider  # type: ignore[assignment, misc]
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "server.settings")
    execute_from_command_line(["manage.py", *words])


if __name__ == "__main__":
    main(*sys.argv[1:])
