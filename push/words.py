"""The words of notifications in the languages of their readers. Pure after loading."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """One language's words."""

    new_message: str = "New message"
    someone: str = "Someone"
    incoming_call: str = "Incoming call"
    summary_title: str = "While you were away"
    test_title: str = "Test"
    test_body: str = "Pushes reach this device."

    def says(self, sender: str, text: str) -> str:
        return f"{sender}: {text}"

    def new_messages(self, count: int) -> str:
        return self.new_message if count == 1 else f"{count} new messages"

    def messages_in_conversations(self, messages: int, conversations: int) -> str:
        return f"{messages} new messages in {conversations} conversations"


def words_of(locale: str) -> Words:
    """The words for a device's locale (``de``, ``pt-BR``); English where there are none."""
    return Words()
