"""`smtpproxy suppress move`: suppressions and wishes that name what has another name now."""

from dataclasses import dataclass

import click

from smtpproxy.cli import fail
from smtpproxy.cli.options import config_option, flag, options
from smtpproxy.cli.printer import Result, shows_result
from smtpproxy.cli.stores import scope_type, using_store
from smtpproxy.settings import Settings
from smtpproxy.store.protocols import Store
from smtpproxy.terminal import counted


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """Whether it is only asked how many there are."""

    dry_run: bool = flag("Say how many there are, and change nothing.")


@click.command("move")
@click.argument("old", type=scope_type, metavar="OLD")
@click.argument("new", type=scope_type, metavar="NEW")
@options(MoveOptions)
@config_option
@shows_result
def move(settings: Settings, old: str, new: str, options: MoveOptions) -> Result:
    """Give the suppressions, and wishes for less mail, of a brand or purpose its new name.

    OLD is a scope such as brand:NAME or purpose:NAME that the configuration no longer has: check,
    doctor and serve name it. NEW is one that it has, of the same kind, or marketing. Origin, time
    and note stay; of two that become one, the later holds. Consents are not moved. Moved to
    marketing, wishes about a brand hold for every brand; those about a purpose stay.
    """
    kind = old.partition(":")[0]
    if settings.scopes.knows(old):
        fail(f"{old} is in use: what was moved away would no longer stop its mail", 2)
    if not settings.scopes.knows(new):
        known = settings.scopes.brands if new.startswith("brand:") else settings.scopes.purposes
        fail(f"{new} names nothing in the configuration; known are {', '.join(sorted(known))}", 2)
    if new not in (f"{kind}:{new.partition(':')[2]}", "marketing"):
        fail(f"{new} is narrower than {old}, or another kind; right would be {kind}:NAME", 2)
    work = _would_be_moved if options.dry_run else _moved
    moved, wishes = using_store(
        settings, lambda store: work(store, old, new), read_only=options.dry_run
    )
    done = "would be moved" if options.dry_run else "moved"
    what = counted(moved, "suppression")
    what += f" and {counted(wishes, 'wish', 'wishes')} for less mail" if wishes else ""
    data = {"old": old, "new": new, "moved": moved, "wishes": wishes, "dry_run": options.dry_run}
    return Result(data, [f"{what} {done} from {old} to {new}"])


async def _would_be_moved(store: Store, old: str, new: str) -> tuple[int, int]:
    suppressions, wishes = await store.named_scopes(), await store.named_wishes()
    moved = sum(
        n
        for (brand, purpose), n in wishes.items()
        if old == f"brand:{brand}" or (old == f"purpose:{purpose}" and new != "marketing")
    )
    return suppressions.get(old, 0), moved


async def _moved(store: Store, old: str, new: str) -> tuple[int, int]:
    return await store.move_scope(old, new), await store.move_wishes(old, new)
