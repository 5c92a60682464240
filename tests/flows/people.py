"""People of a deployment under test: made in its database as an operator would, each with a token to connect with."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from tests.servers import Deployment, ServerProcess

# How often a request is made again that was answered with "try again in a moment".
MAX_TRIES = 10
MAKE_PEOPLE = """
import json
from tests.factories import make_logged_in_user
print(json.dumps([make_logged_in_user(name=name) for name in {names!r}]))
"""


@dataclass(frozen=True)
class Person:
    """A user with one device; ``token`` opens both doors."""

    id: str
    name: str
    token: str
    device: str

    def call(self, web: ServerProcess, method: str, path: str, **body: Any) -> Any:
        """Make one HTTP request, again where the answer says so, and return its JSON; fails on an error answer."""
        for _ in range(MAX_TRIES):
            answer = httpx.request(
                method,
                f"{web.url}/v1{path}",
                json=body or None,
                headers={"Authorization": f"Bearer {self.token}"},
                timeout=20,
            )
            if answer.status_code != 503:
                break
            time.sleep(float(answer.headers["Retry-After"]))
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def log_out(self, web: ServerProcess) -> None:
        """End the session, as the app's button does; that nobody is logged in any more is said by a 401."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx.delete(f"{web.url}/_allauth/app/v1/auth/session", headers=headers, timeout=20)
        assert answer.status_code == 401, answer.text

    def make_group(self, web: ServerProcess, title: str, *others: Person) -> str:
        """Make a group and return its id."""
        members = [other.id for other in others]
        return str(self.call(web, "POST", "/conversations/group", title=title, members=members)["id"])

    def send(self, web: ServerProcess, conversation: str, text: str) -> int:
        """Send over HTTP and return the seq."""
        return int(
            self.call(web, "POST", f"/conversations/{conversation}/messages", client_id=str(uuid4()), text=text)["seq"]
        )

    def history(self, web: ServerProcess, conversation: str) -> list[dict[str, Any]]:
        """All messages, oldest first, page by page."""
        messages: list[dict[str, Any]] = []
        before: int | None = None
        while True:
            query = "?limit=100" + (f"&before={before}" if before else "")
            page = self.call(web, "GET", f"/conversations/{conversation}/messages{query}")["messages"]
            if not page:
                return messages
            page = sorted(page, key=lambda message: message["seq"])
            messages = page + messages
            before = page[0]["seq"]


def make_people(deployment: Deployment, *names: str) -> list[Person]:
    """Make users that are logged in."""
    printed = deployment.manage("shell", "--verbosity", "0", "--command", MAKE_PEOPLE.format(names=list(names)))
    return [Person(**fields) for fields in json.loads(printed.strip().splitlines()[-1])]
