"""Bounces: which mails are some, whom they name, and why the mail did not arrive."""

import re

from msgspec import Struct

from smtpproxy.feedback.addresses import found_in
from smtpproxy.feedback.classes import classify
from smtpproxy.feedback.dsn import STATUS_TYPES, Outcome, field_outcomes
from smtpproxy.feedback.original import Original
from smtpproxy.feedback.parts import Mail, field
from smtpproxy.feedback.records import Class
from smtpproxy.feedback.transcript import spoken, text_outcomes

_WORDS_IN_ALL = 64 * 1024
_DELIVERED = ("delivered", "relayed", "expanded")

_DAEMON = re.compile(
    r"mailer-?daemon|postmaster|mail ?delivery|mail ?administrator|system administrator|mdaemon"
    r"|mail ?system|maildaemon|mail ?gateway|bounce|e?smtp|internet mail",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"undeliver|non.?deliver|not delivered|could not be delivered|deliver\w{0,4} (?:status|fail"
    r"|problem|error|report|notif)"
    r"|returned mail|return(?:ed|ing) (?:message )?to sender|fail(?:ed|ure) (?:notice|delivery"
    r"|mail|to deliver)|mail delivery|mail fail"
    r"|delivery (?:has )?(?:failed|delayed|delay)|message (?:status|delayed|delivery)"
    r"|mail could not|warning: message|delayed mail"
    r"|rejected mail|unzustellbar|nicht zugestellt|non remis|non distribu|échec"
    r"|impossible de remettre|no entregado|non recapitabile|mancato recapito"
    r"|nedoručiteln|niedostarcz|не доставлен|недоставлен|配信|エラー|退信|退回|반송|não entregue"
    r"|onbestelbaar|kunde inte levereras|olevererbart",
    re.IGNORECASE,
)
_TEXT = re.compile(
    r"(?:could|can|was|were|has|have|did) ?n[o']t (?:\w{1,12} ){0,3}(?:be(?:en)? )?(?:delivered"
    r"|deliver|reach|sent)"
    r"|(?:could not|cannot|unable to|wasn't able to|not able to|failed to) (?:be )?deliver"
    r"|undeliverable|delivery (?:to|has) .{0,60}fail"
    r"|deli?e?very (?:status|failed|failure|problem|report|notification)"
    r"|permanent (?:fatal )?error|failed recipients"
    r"|mail(?:er)?.?daemon|smtp error|returned mail|mail delivery|rcpt to|not be zugestellt"
    r"|nicht zugestellt|user unknown"
    r"|fehler bei der auslieferung|undelivered|could not send|not been delivered"
    r"|encountered delivery problems|no se (?:pudo|ha podido) entregar",
    re.IGNORECASE,
)
_DELAYED = re.compile(
    r"(?:has|have) not yet been (?:delivered|received)|not yet been delivered|not yet received"
    r"|(?:has|have|is|been) (?:been )?delayed"
    r"|warning (?:message )?only|will be retried|still being retried|(?:will|shall) (?:continue"
    r"|keep) (?:trying|attempt|to)"
    r"|need(?:s)? not? (?:to )?resend|no need to resend|temporary failure|will be attempted"
    r"|delivery attempts will continue",
    re.IGNORECASE,
)
_DELAYED_SUBJECT = re.compile(
    r"delay|still being retried|warning: (?:message|could not)", re.IGNORECASE
)


class Failure(Struct, frozen=True):
    """Why the mail to one recipient did not arrive. None: the report does not say whom."""

    address: str | None
    failure: Class
    said: str


def is_bounce(mail: Mail) -> bool:
    """Whether a mail is a report of what became of another, in whatever form."""
    if any(True for _ in mail.of_type(*STATUS_TYPES)) or mail.headers.count("X-Failed-Recipients"):
        return True
    report = mail.type == "multipart/report"
    sender = field(mail.headers, "From")
    null_path = field(mail.headers, "Return-Path").strip() == "<>"
    daemon = null_path or not sender or _DAEMON.search(sender) is not None
    subject = _SUBJECT.search(field(mail.headers, "Subject")) is not None
    text = _TEXT.search(_text(mail)[:4096]) is not None
    return report + daemon + subject + text >= 2 and (text or subject or report)


def failures(mail: Mail, original: Original) -> list[Failure]:
    """Return what failed, in the order of the report, each recipient once.

    A notice that mail was delivered has none.
    """
    text = _text(mail)
    told = text_outcomes(text, _others(mail, original))
    listed = _listed(mail)
    if len(told) != len(listed):  # as many: they are the same, and the text says more of them
        told = listed or told
    outcomes = field_outcomes(mail) or told or [Outcome(None, "", "", "")]
    room = min(2048, _WORDS_IN_ALL // len(outcomes))
    said_of = {outcome.address: outcome.said for outcome in told}
    whole = spoken(text).strip()
    late = _is_late(mail, whole)
    found: dict[str | None, Failure] = {}
    for outcome in outcomes:
        if outcome.action in _DELIVERED or (not outcome.action and outcome.status[:2] == "2."):
            continue
        address = outcome.address or (original.recipient if len(outcomes) == 1 else None)
        beside = said_of.get(address) or (whole if len(outcomes) == 1 else "")
        failure, said = _judged(outcome, beside, room, late)
        found.setdefault(address, Failure(address, failure, said))
    return list(found.values())


def _judged(outcome: Outcome, beside: str, room: int, late: bool) -> tuple[Class, str]:
    """Judge by the fields; by the text where these say nothing."""
    said = outcome.said or beside
    if outcome.action.startswith("delay") or (late and not outcome.action):
        return Class.TRANSIENT, said
    judged = classify(outcome.status, said[:room])
    if judged is Class.UNKNOWN and beside and beside != said:
        again = classify("", beside[:room])
        if again is not Class.UNKNOWN:
            return again, beside
    return judged, said or outcome.status


def _text(mail: Mail) -> str:
    """Return the text for people: what stands before the fields and the returned message."""
    texts = []
    for part in mail.parts:
        if part.type in ("text/plain", "text/html"):
            texts.append(part.text)
        elif texts:
            break
    return "\n".join(texts)


def _listed(mail: Mail) -> list[Outcome]:
    """Return the recipients of X-Failed-Recipients, which Exim and Google write."""
    values = mail.headers.values("X-Failed-Recipients")
    names = found_in(",".join(value.decode("utf-8", "replace") for value in values[:10]))
    return [Outcome(address, "", "", "") for address in names[:100]]


def _others(mail: Mail, original: Original) -> set[str]:
    own = found_in(" ".join(field(mail.headers, name) for name in ("From", "To", "Reply-To")))
    return {*own, *original.senders} - ({original.recipient} if original.recipient else set())


def _is_late(mail: Mail, text: str) -> bool:
    if _DELAYED_SUBJECT.search(field(mail.headers, "Subject")):
        return True
    return _DELAYED.search(text[:4096]) is not None and "permanent" not in text[:4096].lower()
