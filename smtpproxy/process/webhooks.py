"""The process that delivers to webhooks, so that no mail ever waits for one."""

import asyncio
import random
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

import structlog

from smtpproxy.clock import new_ids, now
from smtpproxy.process.children import Beat, Channel, Start
from smtpproxy.process.webhook_events import keep_logging
from smtpproxy.settings import Settings, WebhookSettings
from smtpproxy.sinks.snapshots import Labels, Snapshot
from smtpproxy.store import open_store
from smtpproxy.store.propagation import of_others
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.register import relay_id
from smtpproxy.store.sql.store import Store
from smtpproxy.version import VERSION
from smtpproxy.webhooks import SecretFault, read_secrets
from smtpproxy.webhooks.delivery import Kind, Poster
from smtpproxy.webhooks.dispatcher import Environment, WebhookDispatcher
from smtpproxy.webhooks.shared_store import SharedStore

_AFTER_TROUBLE = 30.0

log = structlog.get_logger()


def run(start: Start, sockets: Mapping[str, socket.socket], channel: socket.socket) -> int:
    return asyncio.run(_deliver(start.settings, channel))


async def _deliver(settings: Settings, sock: socket.socket) -> int:
    channel = await Channel.over(sock)
    store = open_store(settings.store, settings.server.state_dir)
    counted: Counter[Labels] = Counter()

    def count(webhook: str, outcome: Kind) -> None:
        counted[webhook, str(outcome)] += 1

    def counts() -> Snapshot:
        return Snapshot(counters={"webhook_deliveries_total": dict(counted)})

    around = Environment(
        now=now,
        random=random.random,
        new_id=new_ids(),
        count=count,
        relay=relay_id(settings.server.state_dir),
    )
    await _forget_others(settings, store, around)
    shared = SharedStore(store)
    tasks = [
        asyncio.create_task(_keep_delivering(webhook, shared, around))
        for webhook in settings.webhooks
    ]
    ending = threading.Event()
    tasks.append(asyncio.create_task(keep_logging(settings, store, around.now, ending)))
    tasks.append(asyncio.create_task(channel.keep_beating(counts)))
    await channel.until_drain()
    # Deliveries in progress are broken off, and sent again under the same id.
    ending.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await shared.close()
    channel.send(Beat(counts()))
    channel.close()
    await store.close()
    return 0


async def _forget_others(settings: Settings, store: Store, around: Environment) -> None:
    """Forget webhooks that are no longer configured, so that one configured again starts afresh.

    Those of other relays stay.
    """
    try:
        ours = [webhook.name for webhook in settings.webhooks]
        theirs = of_others((await store.webhook_progress()).holdings, around.relay, around.now())
        await store.forget_webhooks([*ours, *theirs])
    except StoreUnavailable as error:
        log.warning("webhook waits for the store", error=str(error))


async def _keep_delivering(
    webhook: WebhookSettings, store: SharedStore, around: Environment
) -> None:
    """Deliver to one webhook; its faults do not affect others."""
    while True:
        try:
            poster = Poster(
                webhook,
                read_secrets(webhook.secret_file),
                now=around.now,
                user_agent=f"smtpproxy/{VERSION}",
            )
            dispatcher = WebhookDispatcher(webhook, store, poster.post, around)
            try:
                await dispatcher.run()
            finally:
                with suppress(StoreUnavailable):
                    await dispatcher.release()
                await poster.close()
        except (SecretFault, OSError) as error:
            log.error("webhook cannot be used", webhook=webhook.name, error=str(error))
        except Exception as error:
            log.error("internal error", webhook=webhook.name, exc_info=error)
        await asyncio.sleep(_AFTER_TROUBLE)
