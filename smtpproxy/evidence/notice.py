"""What a person has to be told beside their data (GDPR 15(1) and (2)): by whom, why, how long."""

from collections.abc import Iterator

from smtpproxy.evidence.writing import Block, Facts, Heading, Paragraph
from smtpproxy.locale.texts import Lang, Phrase, Value, say
from smtpproxy.policy.periods import Period
from smtpproxy.settings import ControllerSettings, RetentionSettings
from smtpproxy.terminal import printable


def controller(of: ControllerSettings, lang: Lang) -> Iterator[Block]:
    """Who processes the data, for what, and who else gets them."""
    separator = _say("separator", lang)
    rows = [
        ("controller_name", printable(of.name)),
        ("controller_address", printable(of.address)),
        ("controller_contact", printable(of.contact)),
        ("officer", printable(of.officer or "")),
        ("purposes", separator.join(map(printable, of.purposes))),
        ("recipients", separator.join(map(printable, of.recipients))),
        ("transfers", printable(of.transfers or "")),
    ]
    yield Heading(_say("controller", lang))
    yield Facts([(_say(name, lang), text) for name, text in rows if text])


def retention(of: RetentionSettings, lang: Lang) -> Iterator[Block]:
    """How long what is kept."""
    rows = (
        ("prospects", of.prospects),
        ("customers", of.customers),
        ("suppressions", of.suppressions),
        ("lifted", of.lifted_suppressions),
        ("audit", of.audit),
    )
    yield Heading(_say("keep", lang))
    yield Facts([(_say(f"keep_{name}", lang), _kept(name, period, lang)) for name, period in rows])


def _kept(name: str, period: Period | None, lang: Lang) -> str:
    if period is None:
        return _say("keep_for_ever", lang)
    return _say(f"keep_{name}_text", lang, period=period)


def rights(of: ControllerSettings, lang: Lang) -> Iterator[Block]:
    """What the person may ask for, and whom they may complain to."""
    yield Heading(_say("rights", lang))
    yield Paragraph(_say("rights_text", lang, contact=printable(of.contact)))
    yield Paragraph(_say("complaint", lang, authority=printable(of.authority)))
    yield Paragraph(_say("automated", lang))


def _say(key: str, lang: Lang, **values: Value) -> str:
    return say(Phrase(f"evidence.{key}", values), lang)
