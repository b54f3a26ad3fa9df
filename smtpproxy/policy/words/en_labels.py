"""The fixed texts around an explanation, in English. Every language has the same keys."""

LABELS = {
    "label.recorded": "Decision {id}, made on {at}",
    "label.asked": "Judged as of {at}; nothing was sent",
    "label.stream": "Stream {stream}: {about}. Rulebook {rulebook}",
    "label.marketing": "marketing mail",
    "label.transactional": "transactional mail",
    "label.purpose": "{kind}, for the purpose “{purpose}”",
    "label.utc": "Days and hours are in UTC.",
    "label.upstream": "It was put to the mail server behind the relay. Its answer of {at}: {reply}",
    "label.upstream.unknown": (
        "It was put to the mail server behind the relay; what that answered is not on record."
    ),
    "label.seal.kept": (
        "Proven: anchor {anchor} of {at} seals it, and leads to one that was kept elsewhere."
    ),
    "label.seal.local": (
        "Sealed by anchor {anchor} of {at}, which is on this machine alone: --anchors compares"
        " with those that were kept elsewhere."
    ),
    "label.seal.unproven": "Unproven: it is behind the last anchor, and nothing seals it yet.",
    "label.seal.broken": "NOT AS IT WAS WRITTEN: {what}. See `smtpproxy audit verify`.",
    "label.message": "The message",
    "label.change": "What would change this",
    "label.change.any": "What would change this: any one of",
    "label.steps": "Step by step",
    "label.reply": "Answer to the sending server",
    "label.step": "{question} [{rule}: {outcome}] {text}.",
    "label.semicolon": ";",
    "label.source": "Source: {source}",
    "label.both": "{law} ({rows})",
    "label.no_law": "no law",
    "label.design": "design",
    "label.rows": "rules",
    "label.to": "to",
    "label.by_rulebook": "by rulebook",
    # what a suppression covers, and how it came to count for the address
    "covers.all": "all mail",
    "covers.marketing": "all marketing mail",
    "covers.purpose": "mail for the purpose “{purpose}”",
    "widened": " (entered for another spelling of the same mailbox)",
    "whole_domain": " (entered for everybody at {domain})",
    "whole_domain.below": " (entered for everybody at {domain} and at its subdomains)",
    "read_as": " (entered for {other}, which a mail server may take the address for{whole})",
}
