"""`smtpproxy migrate`: bring the tables of the store up to date, and let roles use them."""

import asyncio
from dataclasses import dataclass, replace

import click

from smtpproxy.cli.options import config_option, options, several
from smtpproxy.cli.printer import Result, shows_result
from smtpproxy.cli.stores import open_patiently, using_store
from smtpproxy.clock import now
from smtpproxy.settings import Settings
from smtpproxy.store import is_postgresql
from smtpproxy.store.protocols import Store, StoreInaccessible
from smtpproxy.store.shared_keys import settle_link_keys


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    grant_read: tuple[str, ...] = several(
        "Let this role of PostgreSQL read the tables.", metavar="ROLE"
    )
    grant_write: tuple[str, ...] = several(
        "Let this role read and write them, as relays do.", metavar="ROLE"
    )


@click.command("migrate")
@options(MigrateOptions)
@config_option
@shows_result
def migrate(settings: Settings, options: MigrateOptions) -> Result:
    """Bring the tables of the store up to date; create them if there are none.

    With PostgreSQL run it as the role that owns the tables, before the first start and before
    a new release is started: relays of the previous release keep working meanwhile and
    afterwards. With SQLite, whatever writes first does it.
    """
    if is_postgresql(settings.store):
        before, after = asyncio.run(_migrate(settings, options))
        if settings.makes_tokens:
            using_store(settings, lambda store: _settle(store, settings))
    elif options.grant_read or options.grant_write:
        raise click.UsageError("only PostgreSQL has roles; this store is a file")
    else:
        before = after = asyncio.run(_open_and_close(settings))
    changed = "up to date" if before == after else f"brought from version {before} to {after}"
    return Result({"before": before, "after": after}, [f"the tables of the store: {changed}"])


async def _migrate(settings: Settings, options: MigrateOptions) -> tuple[int, int]:
    from smtpproxy.store.postgres import target
    from smtpproxy.store.postgres.connection import Lease
    from smtpproxy.store.postgres.migrations import migrate

    lease = Lease(replace(target(settings.store), patient=True))
    try:
        return await migrate(
            lease.database,
            settings.server.state_dir,
            readers=options.grant_read,
            writers=options.grant_write,
        )
    except StoreInaccessible as error:
        if type(error.__cause__).__name__ != "InsufficientPrivilegeError":
            raise
        raise StoreInaccessible(
            f"store.url: {error.__cause__}; run it as the role that owns the tables, and may make"
            " some: GRANT CREATE ON SCHEMA public TO ROLE"
        ) from error.__cause__
    finally:
        lease.close()


async def _settle(store: Store, settings: Settings) -> None:
    await settle_link_keys(store, settings.server.state_dir, at=now())


async def _open_and_close(settings: Settings) -> int:
    from smtpproxy.store.sqlite.connection import migrations

    await open_patiently(settings).close()
    return len(migrations())
