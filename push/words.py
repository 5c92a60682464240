"""
The words of notifications, and of mails about unread messages, in the languages of their readers.

English stands here; the other languages in ``locale/``, one gettext catalog each. A deployment may change them, and add
some. All is read when the worker starts; from then on it is pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from gettext import GNUTranslations, NullTranslations
from io import BytesIO
from pathlib import Path

from babel.core import get_global
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

OURS = Path(__file__).resolve().parent / "locale"
SOURCE = "en"
# A title takes 256 bytes, and Arabic two for each letter; what is on a lock screen has to be shorter by far.
MAX_MESSAGE_BYTES = 160
# As long as the longest tag that a device may register; beyond it there is nothing to look for.
_MAX_LOCALE_CHARACTERS = 35
_KNOWN_LOCALES = 1_024

# Language, script and region. What follows (`-u-nu-latn`, `.UTF-8`, `@euro`) changes no words.
_LOCALE = re.compile(
    r"([a-z]{2,3})(?:[-_]([a-z]{4}))?(?:[-_]([a-z]{2}|[0-9]{3}))?(?:[-_.@].*)?", re.ASCII | re.DOTALL | re.IGNORECASE
)
# Marks that turn the direction of what follows. A name has no need of them, and can spoil the line with them.
_DIRECTIONS = re.compile("[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
_ISOLATE, _END = "\u2068", "\u2069"
_LEFT_TO_RIGHT, _RIGHT_TO_LEFT = {"L", "EN"}, {"R", "AL", "AN"}


class BadWords(Exception):
    """A catalog that cannot be used; the text says which, and why."""


class Words:
    """One language's words. Without a catalog: English."""

    def __init__(self, catalog: NullTranslations | None = None, language: str = SOURCE) -> None:
        catalog = catalog or NullTranslations()
        self._catalog = catalog
        # As HTML names it.
        self.language = language.replace("_", "-")
        self.new_message = catalog.gettext("New message")
        # The sender's name, when there is none.
        self.someone = catalog.gettext("Someone")
        self.incoming_call = catalog.gettext("Incoming call")
        # The title of what gathered in quiet hours.
        self.summary_title = catalog.gettext("While you were away")
        # Title and text of the push that somebody asked for, to see whether pushes arrive.
        self.test_title = catalog.gettext("Test")
        self.test_body = catalog.gettext("Notifications reach this device.")
        # A link in a mail and the page that it leads to, the button there, and what follows it.
        self.no_more_mails = catalog.gettext("No more e-mails about unread messages")
        self.unsubscribe = catalog.gettext("Unsubscribe")
        self.unsubscribed = catalog.gettext("You will get no more e-mails about unread messages.")
        self._says = catalog.gettext("{sender}: {text}")
        # "3 new messages" and "in 2 conversations", in the order of the language.
        self._messages_where = catalog.gettext("{messages} {conversations}")

    def says(self, sender: str, text: str) -> str:
        """
        A line of a conversation in which several people write.

        A Latin name before an Arabic text (or the other way round) would swap places with it, and take its punctuation
        along: the direction of a line is that of its first letter. So each is isolated, as Android and Signal do it;
        but only where directions meet, because isolates cost bytes, and show as boxes on old devices. A number counts
        as left to right: a phone number for a name is torn apart too.
        """
        sender = _DIRECTIONS.sub("", sender)
        if _has_two_directions(sender + text):
            sender, text = f"{_ISOLATE}{sender}{_END}", f"{_ISOLATE}{text}{_END}"
        return self._says.format(sender=sender, text=text)

    def new_messages(self, count: int) -> str:
        """How many there are in one conversation; a single one needs no number."""
        return self.new_message if count == 1 else self._counted(count)

    def messages_in_conversations(self, messages: int, conversations: int) -> str:
        """How many there are in several conversations."""
        where = self._catalog.ngettext("in {count} conversation", "in {count} conversations", conversations)
        return self._messages_where.format(
            messages=self._counted(messages), conversations=where.format(count=conversations)
        )

    def _counted(self, count: int) -> str:
        return self._catalog.ngettext("{count} new message", "{count} new messages", count).format(count=count)


class Dictionary:
    """Every language's words: ours, and before them those of the deployment's folder."""

    def __init__(self, folder: Path | None = None) -> None:
        """
        Read all catalogs.

        Raises:
            BadWords: the folder or a file of it cannot be used.
        """
        theirs = _read_folder(folder) if folder else {}
        ours = _read_folder(OURS)
        self._words = {SOURCE: Words()}
        for name in {*theirs, *ours}:
            # The most special first: what the words of `de_AT` lack, those of `de` have.
            sources = [catalogs[wider] for wider in _wider(name) for catalogs in (theirs, ours) if wider in catalogs]
            folder_of_it = folder if folder and name in theirs else OURS
            self._words[name] = _tried(_chain(sources), name, folder_of_it)
        self._find_known = lru_cache(_KNOWN_LOCALES)(self._find)

    @classmethod
    def of(cls, folder: str) -> Dictionary:
        """
        The words with those of a folder; without one, if its name is empty.

        Raises:
            BadWords
        """
        return cls(Path(folder) if folder else None)

    @property
    def locales(self) -> list[str]:
        """The languages there are."""
        return sorted(self._words)

    def words_of(self, locale: str) -> Words:
        """The words for a device's locale (``de``, ``pt-BR``); English where there are none."""
        # Before it is remembered: what devices say about themselves may be anything.
        return self._find_known(locale) if len(locale) <= _MAX_LOCALE_CHARACTERS else self._words[SOURCE]

    def _find(self, locale: str) -> Words:
        return next((self._words[name] for name in _wider(locale) if name in self._words), self._words[SOURCE])


def _wider(locale: str) -> list[str]:
    """
    The names that words for a locale may have, the most special first: ``pt_BR``, ``pt``.

    Never those of another script: who reads traditional Chinese is not given the simplified one, who writes Serbian in
    Latin letters gets no Cyrillic. The usual script goes without saying: ``zh-Hans-CN`` is ``zh``.
    """
    match = _LOCALE.fullmatch(locale)
    if match is None:
        return []
    language, script, region = (part or "" for part in match.groups())
    # Java's old names: `iw` for `he`, `in` for `id`.
    alias: str = get_global("language_aliases").get(language.lower(), language.lower())
    language, script, region = alias.partition("_")[0], script.capitalize(), region.upper()
    usual, regional = _usual_script(language), _usual_script(f"{language}_{region}") or _usual_script(language)
    script = script or regional
    names = [
        (f"{language}_{script}_{region}", bool(script and region)),
        (f"{language}_{region}", bool(region) and script == regional),
        (f"{language}_{script}", bool(script)),
        (language, script == usual),
    ]
    return [name for name, is_right in names if is_right]


def _usual_script(tag: str) -> str:
    parts: list[str] = get_global("likely_subtags").get(tag, "").split("_")
    return parts[1] if len(parts) > 1 else ""


def _read_folder(folder: Path) -> dict[str, bytes]:
    """Every catalog of a folder, compiled, under its language's name."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".po")
    except OSError as error:
        raise BadWords(f"{folder}: {error.strerror}") from None
    return dict(_read(path) for path in paths)


def _read(path: Path) -> tuple[str, bytes]:
    if path.stem not in _wider(path.stem):
        raise BadWords(f"{path}: not named after a locale, as de.po, pt_BR.po and zh_Hant.po are")
    try:
        with path.open("rb") as file:
            catalog = read_po(file, locale=path.stem, abort_invalid=True)
        if lacking := _leave_out_untranslated_plurals(catalog):
            raise BadWords(f"{path}: {lacking!r} needs {catalog.num_plurals} plural forms")
        compiled = BytesIO()
        write_mo(compiled, catalog)
        GNUTranslations(BytesIO(compiled.getvalue()))
    except BadWords:
        raise
    # The parser stumbles in many ways over what is no catalog; each of them means just that.
    except Exception as error:
        raise BadWords(f"{path}: not a catalog of gettext's: {error}") from None
    return path.stem, compiled.getvalue()


def _leave_out_untranslated_plurals(catalog: Catalog) -> str | None:
    """
    Take plurals without a translation out, so that they fall back; return one that is translated in part.

    The compiler would fill the gaps with English.
    """
    for message in [message for message in catalog if message.id and message.pluralizable]:
        forms = message.string or ()
        if not any(forms):
            catalog.delete(message.id, message.context)
        elif not all(forms):
            return str(message.id[0])
    return None


def _chain(compiled: list[bytes]) -> GNUTranslations:
    """Catalogs of which each has the words that those before it lack."""
    first, *others = (GNUTranslations(BytesIO(catalog)) for catalog in compiled)
    for catalog in others:
        first.add_fallback(catalog)
    return first


def _tried(catalog: NullTranslations, name: str, folder: Path) -> Words:
    """The words of a catalog, each of them tried once, so that no push fails over one."""
    try:
        words = Words(catalog, name)
        problem = next(_problems(words), None)
    # A name that we do not fill in, a brace that is not closed, a plural that divides by zero.
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise BadWords(f"{folder / name}.po: {problem}")
    return words


def _problems(words: Words) -> Iterator[str]:
    line = words.says("A", "B")
    if "A" not in line or "B" not in line:
        yield f"{line!r} lacks the sender or the text"
    for count in (*range(200), 1_000, 1_000_000):
        told = words.messages_in_conversations(count, count)
        # Small numbers have words of their own in some languages.
        if count > 2 and told.count(str(count)) != 2:
            yield f"{told!r} lacks a number"
        if len(told.encode()) > MAX_MESSAGE_BYTES:
            yield f"{told!r} is longer than {MAX_MESSAGE_BYTES} bytes"
    for text in (line, *(value for value in vars(words).values() if isinstance(value, str))):
        if not text.strip():
            yield "a message is blank"
        if len(text.encode()) > MAX_MESSAGE_BYTES:
            yield f"{text!r} is longer than {MAX_MESSAGE_BYTES} bytes"


def _has_two_directions(text: str) -> bool:
    if text.isascii():
        return False
    directions = {unicodedata.bidirectional(character) for character in text}
    return bool(directions & _LEFT_TO_RIGHT) and bool(directions & _RIGHT_TO_LEFT)
