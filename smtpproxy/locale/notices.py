"""The texts of delivery status notifications."""

from smtpproxy.locale.phrase import Phrase, say
from smtpproxy.locale.texts import Lang
from smtpproxy.mail.dsn import NoticeText, NoticeTexts


def notice_texts(lang: Lang) -> NoticeTexts:
    """Return what notices to senders say in a language. The first time, it reads a file."""
    return NoticeTexts(
        _said("notice.from", lang),
        refused=_text("refused", lang),
        undelivered=_text("undelivered", lang),
        relayed=_text("relayed", lang),
    )


def _text(name: str, lang: Lang) -> NoticeText:
    return NoticeText(_said(f"notice.{name}.subject", lang), _said(f"notice.{name}.text", lang))


def _said(key: str, lang: Lang) -> str:
    """Its placeholders stay: a notice fills them in."""
    return say(Phrase(key, {"hostname": "{hostname}", "recipients": "{recipients}"}), lang)
