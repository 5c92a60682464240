"""What whoever tries Roost out sees of a push."""

import io

from push.providers.base import Outcome, Verdict, fingerprint
from push.providers.console import ConsoleProvider
from tests.push.pushes import make_clear, make_push


async def test_prints_one_line_without_the_target() -> None:
    stream = io.StringIO()

    outcome = await ConsoleProvider(stream).deliver(make_push(text="two\nlines"))

    assert outcome == Outcome(Verdict.SENT)
    assert stream.getvalue() == f"push to android {fingerprint('target-of-bea')} | Ann | two lines\n"


async def test_names_what_has_no_words() -> None:
    stream = io.StringIO()

    await ConsoleProvider(stream).deliver(make_clear())

    assert stream.getvalue() == f"push to android {fingerprint('target-of-bea')} | clear\n"
