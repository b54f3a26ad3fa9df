"""A dialog of tests/dialogs converted to LMTP: LHLO, and a reply to content for each recipient."""

from tests.kit.dialog import Line

_WORDS = (("EHLO", "LHLO"), (" ESMTP ", " LMTP "))
_CONTENT = "content"
_NOBODY = "s: 503 5.5.1 no valid recipients"  # RFC 2033 4.2, where SMTP repeats a refusal


def in_lmtp(lines: list[Line]) -> str:
    """Return the text of the dialog as an LMTP client holds it (RFC 2033)."""
    asked = ["greeting"]  # commands not answered yet
    accepted = 0
    told: list[str] = []
    for line in lines:
        words = _words(line)
        if words == "s: 250 PRDR":  # the last line of EHLO's list, which LMTP lacks
            told[-1] = told[-1].replace("250-", "250 ") if told[-1] != "s: ..." else "s: ..."
            words = "" if told[-1] != "s: ..." else "s: 250 LIMITS *"
        answer = line.text if line.kind == "s" and line.text[3:4] == " " else ""
        about = asked.pop(0) if answer and asked else ""
        if about == "DATA" and not answer.startswith(("354", "503")):
            words = _NOBODY
        told += [words] * (accepted if about == _CONTENT else 1)
        if line.kind == "c":
            asked.append(line.text.partition(" ")[0])
        elif about == "DATA" and answer.startswith("354"):
            asked.insert(0, _CONTENT)
        elif about == "RCPT":
            accepted += answer.startswith("250")
        elif about in ("MAIL", "EHLO", "RSET"):
            accepted = 0
    return "\n".join(told)


def _words(line: Line) -> str:
    text = f"{line.kind}: {line.text}" if line.kind != "closed" else line.kind
    for smtp, lmtp in _WORDS:
        text = text.replace(smtp, lmtp)
    return text
