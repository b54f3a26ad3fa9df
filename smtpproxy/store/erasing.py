"""Takes what reports hold of a person out of the feedback mailbox, when the person is erased."""

from smtpproxy.settings import Settings
from smtpproxy.store import open_feedback
from smtpproxy.store.maildir import Maildir
from smtpproxy.store.relays import known_relay_id

_MOST = 100 * 1024 * 1024  # octets of a report


async def forget_reports(settings: Settings, address: str) -> int:
    """Remove the reports that concern a canonical address, and those kept that name it.

    Returns how many. Raises StoreUnavailable, OSError.
    """
    mailbox = known_relay_id(settings.server.state_dir) or ""
    log, maildir = open_feedback(settings.store, mailbox), Maildir(settings.feedback_dir)
    try:
        gone = set(await log.forget(address))
        named = address.encode().lower()
        for kept in await log.kept():
            report = maildir.read(kept.id, _MOST)
            if report is not None and named in report.content.lower():
                gone.add(kept.id)
        await log.remove(sorted(gone))
        maildir.remove(gone)
    finally:
        log.close()
    return len(gone)
