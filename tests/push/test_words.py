"""The words of notifications: complete in every language, right for every number, and never a reason for a failure."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from babel import Locale
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from push import words
from push.words import MAX_MESSAGE_BYTES, BadWords, Dictionary, Words
from server import logs

OURS = ["ar", "de", "es", "fr", "zh"]
PORTUGUESE = """
msgid ""
msgstr ""
"Language: pt\\n"
"Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=2; plural=(n > 1);\\n"

msgid "New message"
msgstr "Nova mensagem"

msgid "{count} new message"
msgid_plural "{count} new messages"
msgstr[0] "{count} nova mensagem"
msgstr[1] "{count} novas mensagens"
"""


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    return Dictionary()


def catalog_of(language: str) -> Catalog:
    with (words.OURS / f"{language}.po").open("rb") as file:
        return read_po(file, locale=language, abort_invalid=True)


def messages_of(language: str) -> list[Message]:
    return [message for message in catalog_of(language) if message.id]


def fields_of(text: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}


# --- our catalogs


def test_there_are_six_languages(dictionary: Dictionary) -> None:
    assert dictionary.locales == sorted([*OURS, "en"])


@pytest.mark.parametrize("language", OURS)
def test_every_message_is_translated(language: str) -> None:
    used = {found[1] for found in extract_from_file("python", words.__file__)}

    assert {message.id for message in messages_of(language)} == used


@pytest.mark.parametrize("language", OURS)
def test_no_translation_is_empty_or_fuzzy(language: str) -> None:
    for message in messages_of(language):
        texts = message.string if message.pluralizable else (message.string,)
        assert all(texts), message.id
        assert not message.fuzzy, message.id


@pytest.mark.parametrize("language", OURS)
def test_every_plural_form_is_there(language: str) -> None:
    catalog = catalog_of(language)

    plurals = [message for message in messages_of(language) if message.pluralizable]

    assert len(plurals) == 2
    assert {len(message.string) for message in plurals} == {catalog.num_plurals}


def test_arabic_has_six_plural_forms() -> None:
    assert catalog_of("ar").num_plurals == 6


@pytest.mark.parametrize("language", OURS)
def test_a_plural_is_chosen_as_unicode_has_it(language: str, dictionary: Dictionary) -> None:
    rule = Locale(language).plural_form
    told = dictionary.words_of(language)

    forms = {
        (rule(count), told.messages_in_conversations(count, 1).replace(str(count), "#")) for count in range(3, 300)
    }

    # Two of Unicode's classes may read alike; numbers of one class never differ.
    assert len({category for category, _ in forms}) == len(forms)


@pytest.mark.parametrize("language", OURS)
def test_translations_fill_in_what_the_source_fills_in(language: str) -> None:
    for message in messages_of(language):
        if message.pluralizable:
            # Forms of "one" and "two" may say the number in words.
            assert all(fields_of(text) <= {"count"} for text in message.string)
            assert fields_of(message.string[-1]) == {"count"}
        else:
            assert fields_of(message.string) == fields_of(message.id)


@pytest.mark.parametrize("language", ["en", *OURS])
def test_words_are_short(language: str, dictionary: Dictionary) -> None:
    told = dictionary.words_of(language)

    assert len(told.messages_in_conversations(9_999, 999).encode()) < MAX_MESSAGE_BYTES // 2
    assert len(told.new_messages(9_999).encode()) < MAX_MESSAGE_BYTES // 3
    assert len(told.new_message.encode()) < MAX_MESSAGE_BYTES // 4


# --- numbers


@pytest.mark.parametrize(
    ("locale", "count", "text"),
    [
        ("en", 1, "New message"),
        ("en", 2, "2 new messages"),
        ("de", 2, "2 neue Nachrichten"),
        ("es", 5, "5 mensajes nuevos"),
        ("fr", 2, "2 nouveaux messages"),
        ("zh", 7, "7 条新消息"),
        ("ar", 1, "رسالة جديدة"),
        ("ar", 2, "رسالتان جديدتان"),
        ("ar", 3, "3 رسائل جديدة"),
        ("ar", 11, "11 رسالة جديدة"),
        ("ar", 100, "100 رسالة جديدة"),
        ("ar", 103, "103 رسائل جديدة"),
    ],
)
def test_new_messages_are_counted(locale: str, count: int, text: str, dictionary: Dictionary) -> None:
    assert dictionary.words_of(locale).new_messages(count) == text


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en", "3 new messages in 2 conversations"),
        ("de", "3 neue Nachrichten in 2 Unterhaltungen"),
        ("es", "3 mensajes nuevos en 2 conversaciones"),
        ("fr", "3 nouveaux messages dans 2 conversations"),
        ("zh", "2 个会话中有 3 条新消息"),
        ("ar", "3 رسائل جديدة في محادثتين"),
    ],
)
def test_both_numbers_have_their_plural(locale: str, text: str, dictionary: Dictionary) -> None:
    assert dictionary.words_of(locale).messages_in_conversations(3, 2) == text


def test_one_of_each_is_singular(dictionary: Dictionary) -> None:
    assert Words().messages_in_conversations(1, 1) == "1 new message in 1 conversation"
    assert dictionary.words_of("fr").messages_in_conversations(1, 1) == "1 nouveau message dans 1 conversation"


# --- locales


@pytest.mark.parametrize(
    ("locale", "language"),
    [
        ("de", "de"),
        ("de-AT", "de"),
        ("de_AT.UTF-8", "de"),
        ("DE-at", "de"),
        ("es-419", "es"),
        ("ar-EG-u-nu-latn", "ar"),
        ("zh", "zh"),
        ("zh-CN", "zh"),
        ("zh-Hans-TW", "zh"),
        # Traditional characters are another script.
        ("zh-Hant", "en"),
        ("zh-Hant-TW", "en"),
        ("zh-TW", "en"),
        ("zh_HK", "en"),
        ("en-GB", "en"),
        ("pt-BR", "en"),
        ("", "en"),
        ("-", "en"),
        ("C", "en"),
        ("../../etc/passwd", "en"),
        ("de/../../etc", "en"),
        ("de\0", "en"),
        ("ⅾe", "en"),
        ("de" * 10_000, "en"),
        ("de-" + "x" * 10_000, "en"),
    ],
)
def test_a_locale_gets_the_nearest_language(locale: str, language: str, dictionary: Dictionary) -> None:
    assert dictionary.words_of(locale) is dictionary.words_of(language)


@given(st.text())
def test_any_text_for_a_locale_gets_words(locale: str) -> None:
    assert DICTIONARY.words_of(locale).new_message


DICTIONARY = Dictionary()


def test_what_is_remembered_is_bounded() -> None:
    dictionary = Dictionary()

    for number in range(3_000):
        dictionary.words_of(f"x{number}")

    assert dictionary._find_known.cache_info().currsize <= 1_024


# --- a deployment's own words


def test_a_language_is_added(tmp_path: Path) -> None:
    (tmp_path / "pt.po").write_text(PORTUGUESE)

    added = Dictionary(tmp_path).words_of("pt-BR")

    assert added.new_message == "Nova mensagem"
    assert added.new_messages(4) == "4 novas mensagens"
    assert added.someone == "Someone"


def test_a_region_comes_before_its_language(tmp_path: Path) -> None:
    (tmp_path / "pt.po").write_text(PORTUGUESE)
    (tmp_path / "pt_BR.po").write_text('msgid "Someone"\nmsgstr "Alguém"\n')

    brazilian, portuguese = (Dictionary(tmp_path).words_of(locale) for locale in ("pt-BR", "pt-PT"))

    assert (brazilian.someone, brazilian.new_message) == ("Alguém", "Nova mensagem")
    assert (portuguese.someone, portuguese.new_message) == ("Someone", "Nova mensagem")


def test_a_message_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "de.po").write_text('msgid "New message"\nmsgstr "Post für dich"\n')

    german = Dictionary(tmp_path).words_of("de-CH")

    assert german.new_message == "Post für dich"
    assert german.new_messages(3) == "3 neue Nachrichten"


@pytest.mark.parametrize("flags", ["", "#, fuzzy\n"])
def test_what_is_not_translated_falls_back_to_ours(flags: str, tmp_path: Path) -> None:
    text = "Baustelle" if flags else ""
    plural = f'msgid "{{count}} new message"\nmsgid_plural "{{count}} new messages"\nmsgstr[0] "{text}"\n'
    (tmp_path / "de.po").write_text(f'{flags}msgid "Someone"\nmsgstr "{text}"\n\n{flags}{plural}msgstr[1] "{text}"\n')

    german = Dictionary(tmp_path).words_of("de")

    assert (german.someone, german.new_messages(3)) == ("Jemand", "3 neue Nachrichten")


def test_english_is_replaced_too_and_stays_the_last_resort(tmp_path: Path) -> None:
    (tmp_path / "en.po").write_text('msgid "New message"\nmsgstr "News"\n')

    dictionary = Dictionary(tmp_path)

    assert dictionary.words_of("en-GB").new_message == "News"
    assert dictionary.words_of("tlh").new_message == "News"
    assert dictionary.words_of("de").new_message == "Neue Nachricht"


def test_hebrew_is_found_under_java_s_name_for_it(tmp_path: Path) -> None:
    (tmp_path / "he.po").write_text('msgid "New message"\nmsgstr "הודעה חדשה"\n')

    assert Dictionary(tmp_path).words_of("iw-IL").new_message == "הודעה חדשה"


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("words")

    assert Dictionary(tmp_path).locales == Dictionary().locales


PLURAL = 'msgid "{count} new message"\nmsgid_plural "{count} new messages"\n'
HEADER = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deutsch.po", 'msgid "Someone"\nmsgstr "Jemand"\n'),
        ("..po", 'msgid "Someone"\nmsgstr "Jemand"\n'),
        ("de.po", "Jemand\n"),
        ("de.po", '"Jemand"\n'),
        ("de.po", 'msgid "Someone"\n'),
        ("de.po", 'msgid "{sender}: {text}"\nmsgstr "{name}: {text}"\n'),
        ("de.po", 'msgid "{sender}: {text}"\nmsgstr "{sender}: {"\n'),
        ("de.po", 'msgid "{sender}: {text}"\nmsgstr "{sender}"\n'),
        ("de.po", 'msgid "{sender}: {text}"\nmsgstr "{sender.__class__}: {text}"\n'),
        ("de.po", f'{PLURAL}msgstr[0] "eine"\nmsgstr[1] ""\n'),
        ("de.po", f'{PLURAL}msgstr[0] "eine"\nmsgstr[1] "mehrere"\n'),
        ("de.po", f'{PLURAL}msgstr[0] "{{count}}"\nmsgstr[1] "{{count}}"\nmsgstr[2] "{{count}}"\n'),
        ("de.po", f'{PLURAL}msgstr[x] "{{count}}"\n'),
        ("de.po", f'{HEADER}"Plural-Forms: nplurals=2; plural=(1/0);\\n"\n\n{PLURAL}msgstr[0] "a"\nmsgstr[1] "b"\n'),
        ("de.po", f'{HEADER}"Plural-Forms: nplurals=2; plural=(os.exit);\\n"\n'),
        ("de.po", 'msgid "Someone"\nmsgstr "' + "Jemand" * 100 + '"\n'),
        ("de.po", 'msgid "Someone"\nmsgstr " "\n'),
    ],
)
def test_a_broken_file_is_refused_in_one_line_that_names_it(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)

    with pytest.raises(BadWords) as refused:
        Dictionary(tmp_path)

    assert str(tmp_path / name) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "de.po").write_bytes(b'msgid "Someone"\nmsgstr "\xff\xfe"\n')

    with pytest.raises(BadWords, match=r"de\.po"):
        Dictionary(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadWords, match="nowhere"):
        Dictionary(tmp_path / "nowhere")


# --- who says what, in both directions


@pytest.mark.parametrize(("sender", "text"), [("Ann", "hello!"), ("安", "你好"), ("أحمد", "مرحبا!"), ("Ann", "3 😀")])
def test_one_direction_needs_no_marks(sender: str, text: str) -> None:
    assert Words().says(sender, text) == f"{sender}: {text}"


@pytest.mark.parametrize(
    ("sender", "text"),
    [("Ann", "مرحبا!"), ("أحمد", "hello!"), ("Ann (עבודה)", "שלום"), ("+49 151 234", "مرحبا"), ("אן", "see שלום")],
)
def test_name_and_text_of_different_directions_are_isolated(sender: str, text: str) -> None:
    assert Words().says(sender, text) == f"\u2068{sender}\u2069: \u2068{text}\u2069"


def test_a_name_cannot_turn_the_line_around() -> None:
    assert Words().says("Ann\u202e\u2069", "hello") == "Ann: hello"


def test_braces_of_people_are_texts() -> None:
    assert Words().says("{text}", "{sender} {0} %s") == "{text}: {sender} {0} %s"


def test_french_has_a_space_before_the_colon(dictionary: Dictionary) -> None:
    assert dictionary.words_of("fr").says("Anne", "bonjour") == "Anne\u00a0: bonjour"


def test_a_worker_does_not_start_with_a_broken_file(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "de.po").write_text("Jemand\n")
    settings.ROOST = settings.ROOST.model_copy(update={"push_locales": str(tmp_path)})
    monkeypatch.setattr(logs, "configure", lambda **options: None)

    with pytest.raises(CommandError, match=r"^ROOST_PUSH_LOCALES: .*de\.po: "):
        call_command("worker")
