"""A message's way: gather -> decide -> edit -> relay -> record (docs/flow.md).

Every intake makes a `MailTransaction` at MAIL and asks it about recipients and content.
"""

from smtpproxy.pipeline.parts import AuditLog, Parts
from smtpproxy.pipeline.streams import StreamChoice, StreamTable
from smtpproxy.pipeline.transaction import MailTransaction

__all__ = ["AuditLog", "MailTransaction", "Parts", "StreamChoice", "StreamTable"]
