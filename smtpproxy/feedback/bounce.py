"""Bounces: which mails are bounces, whom they name, and why the mail did not arrive."""

import re
from collections.abc import Sequence

from msgspec import Struct

from smtpproxy.feedback.addresses import found_in
from smtpproxy.feedback.classes import classify, says_anything, says_nobody_is_there
from smtpproxy.feedback.complaint import REPORT_TYPE
from smtpproxy.feedback.dsn import STATUS_TYPES, Outcome, field_outcomes
from smtpproxy.feedback.original import RETURNED_TYPES, Original
from smtpproxy.feedback.parts import Mail, field, read_mail
from smtpproxy.feedback.personal import is_auto_reply, is_receipt, seems_away
from smtpproxy.feedback.records import Class
from smtpproxy.feedback.transcript import Transcript, read_text

_WORDS_IN_ALL = 64 * 1024
_DELIVERED = ("delivered", "relayed", "expanded", "deliverable")

_DAEMON = re.compile(
    r"mailer-?daemon|post_?master|mail ?delivery|mail ?administrator|system administrator|mdaemon"
    r"|mail ?system|maildaemon|mail ?gateway|bounce|e?smtp|internet mail",
    re.IGNORECASE,
)
_DOMAIN = re.compile(r"@[\w.-]{1,255}")  # people may work there too
_SUBJECT = re.compile(
    r"undeliver|non.?deliver|not delivered|could not be delivered|deliver\w{0,4} (?:status|fail"
    r"|problem|error|report|notif)"
    r"|returned mail|return(?:ed|ing) (?:message )?to sender|fail(?:ed|ure) (?:notice|delivery"
    r"|mail|to deliver)|mail delivery|mail fail"
    r"|delivery (?:has )?(?:failed|delayed|delay)|message (?:status|delayed|delivery)"
    r"|mail could not|warning: message|delayed mail"
    r"|rejected mail|\bbounced?\b|unzustellbar|nicht zugestellt|non remis|non distribu|échec"
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
    r"|mail(?:er)?.?daemon|smtp error|returned mail|mail delivery|rcpt to"
    r"|requested action not taken|not be zugestellt"
    r"|nicht zugestellt|user unknown"
    r"|无法(?:发送|送达|投递)|退信|送信できません|配信できません|届きません|届けられません|송신|반송"
    r"|не может быть доставлен|не доставлено|не удалось доставить|fehler bei der auslieferung"
    r"|undelivered|could not send|not been delivered"
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
    """Why the mail to one recipient did not arrive. None: the report names no recipient."""

    address: str | None
    failure: Class
    said: str


def is_bounce(mail: Mail) -> bool:
    """Whether a mail reports what became of another one, in any form."""
    if mail.has(*STATUS_TYPES) or mail.headers.count("X-Failed-Recipients"):
        return True
    report = mail.type == "multipart/report"
    sender = field(mail.headers, "From").strip(" <>")
    null_path = field(mail.headers, "Return-Path").strip() == "<>"
    daemon = not sender or _DAEMON.search(_DOMAIN.sub("", sender)) is not None
    daemon = daemon or (null_path and not is_auto_reply(mail))
    subject = _SUBJECT.search(field(mail.headers, "Subject")) is not None
    said = _text(mail)[:4096]
    text = _TEXT.search(said) is not None or says_nobody_is_there(said[:1024])
    by_machine = daemon or report or mail.has(*RETURNED_TYPES)
    by_machine = by_machine or (null_path and not seems_away(mail))
    return by_machine and report + daemon + subject + text >= 2


def inner_bounce(mail: Mail) -> Mail | None:
    """Return the bounce that a gateway wrapped in an uninformative one of its own.

    Complaints about a bounce, receipts for one and letters with one attached say something else.
    """
    if mail.has(*STATUS_TYPES, REPORT_TYPE) or is_receipt(mail) or not is_bounce(mail):
        return None
    for part in mail.of_type("message/rfc822"):
        inner = read_mail(part.octets)
        if inner.has(*STATUS_TYPES):
            return inner
    return None


def failures(mail: Mail, original: Original) -> list[Failure]:
    """Return what failed, in the order of the report, each recipient once.

    A notice that mail was delivered has no failures.
    """
    transcript = read_text(_text(mail), _others(mail, original), original.recipient)
    outcomes = (
        field_outcomes(mail) or _text_outcomes(mail, transcript) or [Outcome(None, "", "", "")]
    )
    room = min(2048, _WORDS_IN_ALL // len(outcomes))
    beside = {outcome.address: outcome for outcome in transcript.outcomes}
    at_last = transcript.whole if len(outcomes) == 1 else transcript.preface
    late = _is_late(mail, transcript.whole)
    found: dict[str | None, Failure] = {}
    for outcome in outcomes:
        if outcome.action in _DELIVERED or (not outcome.action and outcome.status[:2] == "2."):
            continue
        address = outcome.address or (original.recipient if len(outcomes) == 1 else None)
        texts = [outcome.said]
        if address in beside:
            texts = [outcome.said, beside[address].near, beside[address].said]
        if outcome.action.startswith("delay") or (late and not outcome.action):
            failure = Failure(address, Class.TRANSIENT, outcome.said or transcript.whole)
        else:
            failure = Failure(address, *_judged(outcome.status, [*texts, at_last], room))
        found.setdefault(address, failure)
    return list(found.values())


def _text_outcomes(mail: Mail, transcript: Transcript) -> Sequence[Outcome]:
    """Return the recipients of a report without fields."""
    listed = _listed(mail)
    if not listed or len(transcript.outcomes) == len(listed):
        return transcript.outcomes  # as many, so the same, and the text says more
    return listed


def _judged(status: str, texts: list[str], room: int) -> tuple[Class, str]:
    """Judge by the text nearest to the recipient, or by text further away if that says nothing."""
    given = [text for text in texts if text]
    nearest = next(iter(given), "")
    judged = classify(status, nearest[:room])
    if judged is Class.UNKNOWN:
        for text in given[1:]:
            again = classify("", text[:room])
            if again is not Class.UNKNOWN:
                return again, text
    return judged, next((text for text in given if says_anything(text)), status)


def _text(mail: Mail) -> str:
    """Return the text for people: what comes before the fields and the returned message."""
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
