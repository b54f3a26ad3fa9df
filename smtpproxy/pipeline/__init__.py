"""A message's way: gather -> decide -> edit -> relay -> record (docs/flow.md).

Every intake makes a transaction at MAIL and asks it about recipients and content: a
`MailTransaction` where we relay the mail, a `JudgedTransaction` where somebody else does.
"""

from smtpproxy.pipeline.judged import JudgedTransaction
from smtpproxy.pipeline.parts import AuditLog, Parts
from smtpproxy.pipeline.streams import StreamChoice, StreamTable
from smtpproxy.pipeline.transaction import MailTransaction

__all__ = [
    "AuditLog",
    "JudgedTransaction",
    "MailTransaction",
    "Parts",
    "StreamChoice",
    "StreamTable",
]
