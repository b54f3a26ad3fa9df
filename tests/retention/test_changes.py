"""The purge trims the log of changes, except those a webhook has not received yet."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from smtpproxy.config import parse
from smtpproxy.policy.model import Origin
from smtpproxy.retention import purge
from smtpproxy.store import open_store
from smtpproxy.store.propagation import WebhookState
from smtpproxy.store.records import SuppressionEntry
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml

HOOK = {"name": "crm", "url": "https://crm.example/hook", "secret_file": "/etc/crm.secret"}


async def test_changes_older_than_their_period_are_removed(tmp_path: Path) -> None:
    text = to_toml(relay_config(tmp_path, "127.0.0.1:1", {"webhook": [HOOK]}))
    settings = parse(text, "relay.toml")
    (settings.server.state_dir / "audit").mkdir(parents=True)
    store = open_store(settings.store, settings.server.state_dir)
    try:
        now = datetime.now(UTC)
        await store.add_suppressions(
            [SuppressionEntry(f"p{n}@people.example", "all", Origin.MANUAL, now) for n in range(5)]
        )
        await store.put_webhook_states([WebhookState("crm", 3)])
        for days, left in ((390, 5), (400, 2)):
            at = now + timedelta(days=days)
            await purge(settings, store, at=at, clock=lambda: now)
            assert len(await store.changes(5 - left, 10)) == left
    finally:
        await store.close()
