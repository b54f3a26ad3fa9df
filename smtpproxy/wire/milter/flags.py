"""What MTA and milter agree on: bits and numbers of the protocol, version 6.

From Sendmail's include/libmilter/mfdef.h, whose names stand beside ours where they differ.
"""

from enum import IntEnum, IntFlag

VERSION = 6
OLDEST_VERSION = 2


class Actions(IntFlag):
    """Edits that a milter may ask for at the end of a message (SMFIF_)."""

    ADD_HEADERS = 0x1
    CHANGE_BODY = 0x2
    ADD_RECIPIENTS = 0x4
    DELETE_RECIPIENTS = 0x8
    CHANGE_HEADERS = 0x10
    QUARANTINE = 0x20
    CHANGE_SENDER = 0x40
    ADD_RECIPIENTS_WITH_PARAMETERS = 0x80
    SET_MACROS = 0x100  # SETSYMLIST


class Steps(IntFlag):
    """What the MTA may leave out, and what it need not wait for (SMFIP_).

    NO_ leaves a command out; UNANSWERED_ (NR_) is a command that gets no reply.
    """

    NO_CONNECT = 0x1
    NO_HELO = 0x2
    NO_MAIL = 0x4
    NO_RCPT = 0x8
    NO_BODY = 0x10
    NO_HEADERS = 0x20
    NO_END_OF_HEADERS = 0x40
    UNANSWERED_HEADERS = 0x80
    NO_UNKNOWN = 0x100
    NO_DATA = 0x200
    SKIP = 0x400  # the milter may say that it has seen enough of the body
    REJECTED_RECIPIENTS = 0x800  # RCPT_REJ: tell of recipients that the MTA refused
    UNANSWERED_CONNECT = 0x1000
    UNANSWERED_HELO = 0x2000
    UNANSWERED_MAIL = 0x4000
    UNANSWERED_RCPT = 0x8000
    UNANSWERED_DATA = 0x10000
    UNANSWERED_UNKNOWN = 0x20000
    UNANSWERED_END_OF_HEADERS = 0x40000
    UNANSWERED_BODY = 0x80000
    LEADING_SPACE = 0x100000  # HDR_LEADSPC: header values as they stand after the colon


class Stage(IntEnum):
    """Where macros are set (SMFIM_)."""

    CONNECT = 0
    HELO = 1
    MAIL = 2
    RCPT = 3
    DATA = 4
    END_OF_MESSAGE = 5
    END_OF_HEADERS = 6
