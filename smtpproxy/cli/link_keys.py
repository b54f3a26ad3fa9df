"""`smtpproxy unsubscribe`: the keys of links, and which relay has which keys."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from smtpproxy.cli import fail
from smtpproxy.cli.options import YES, WholeNumber, ask_first, command, flag
from smtpproxy.cli.printer import Column, Part, Result, Table
from smtpproxy.cli.stores import using_store
from smtpproxy.clock import now
from smtpproxy.settings import Settings
from smtpproxy.store.configurations import check_link_keys, settle_link_keys
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.key_files import key_place, replacing
from smtpproxy.store.link_keys import (
    LINK_KEY_FILE,
    LinkKey,
    add_link_key,
    drop_link_key,
    has_link_keys,
    load_link_keys,
    note_sealing,
)
from smtpproxy.store.records import NoStoreYet, StoreInaccessible
from smtpproxy.store.register import Fingerprints, OtherKeyCounts, Relay, living
from smtpproxy.store.sql.store import Store


@click.group("unsubscribe")
def unsubscribe() -> None:
    """Show, renew and retire the keys of unsubscribe links (unsubscribe = "add")."""


async def _look(store: Store) -> tuple[Fingerprints, Sequence[Relay]]:
    return await store.link_keys(), await store.relays()


@command("keys", unsubscribe)
def keys(settings: Settings) -> Result:
    """Show the keys, which one seals new links, and which relay has which keys."""
    state_dir = settings.server.state_dir
    if not settings.makes_tokens and not has_link_keys(state_dir):
        fail(
            'there is no key: no stream has unsubscribe = "add" or verp = true, and there'
            " is no [confirmation]"
        )

    try:
        used, relays = using_store(settings, _look, read_only=True)
    except NoStoreYet:
        used, relays = {}, ()
    return _shown(load_link_keys(state_dir), used, relays)


@command("rekey", unsubscribe)
def rekey(
    settings: Settings,
    force: bool = flag("Use the new key even if a relay lacks it: there its links do not work."),
) -> Result:
    """Make a new key for the links of future messages.

    If several relays share the store, the first run only makes the key: copy unsubscribe.key to
    each relay, and run the command again once `unsubscribe keys` shows it everywhere. A relay seals
    links with it after `smtpproxy reload`. The older keys stay, so that links already sent keep
    working: keep them as long as links have to work, which is years. Back up unsubscribe.key
    before and after.
    """
    state_dir = settings.server.state_dir

    async def work(store: Store) -> tuple[Fingerprints, Sequence[Relay]]:
        with replacing(state_dir):
            if not await settle_link_keys(store, state_dir, at=now()):
                await _use_newest(store, state_dir, force=force)
        return await _look(store)

    before = using_store(settings, Store.link_keys)
    used, relays = using_store(settings, work)
    shown = _shown(load_link_keys(state_dir), used, relays)
    new = max(used)
    if new in before:
        return shown
    effect = f"a running relay uses key {new} for new links only after smtpproxy reload"
    return Result(shown.data, (*shown.text, effect))


async def _use_newest(store: Store, state_dir: Path, *, force: bool) -> None:
    """Bring the newest key of the file into use, once there is one that is not."""
    used = await store.link_keys()
    await check_link_keys(store, state_dir, used)  # another machine may be doing the same
    newest = max(used, default=0)
    held = load_link_keys(state_dir)
    if max(held) == newest:  # otherwise an earlier run made it, or somebody copied it
        add_link_key(state_dir, now().date())
        held = load_link_keys(state_dir)
    key = held[max(held)]
    try:
        await store.use_link_key(key.version, key.fingerprint, at=now(), force=force)
    except OtherKeyCounts:
        drop_link_key(state_dir, key.version)
        raise
    note_sealing(state_dir, key.version)


@command("retire", unsubscribe)
def retire(settings: Settings, version: WholeNumber, yes: bool = YES) -> Result:
    """Retire the key VERSION: links sealed under it stop working.

    For a key that has leaked, or whose links no longer have to work. It is removed from
    unsubscribe.key on this machine; remove it on every other. The key that seals new links cannot
    be retired unless it is lost: make a newer one first.
    """
    state_dir = settings.server.state_dir

    ask_first(lambda: _losing(state_dir, version), yes=yes)

    async def work(store: Store) -> tuple[Fingerprints, Sequence[Relay], Sequence[str]]:
        used = await store.link_keys()
        if version not in used:
            known = ", ".join(map(str, used)) or "none"
            fail(f"key {version} is not in use; the keys in use are {known}")
        lost = version not in load_link_keys(state_dir) if has_link_keys(state_dir) else True
        if version == max(used) and not lost:
            fail(
                f"key {version} seals new links; make a newer one with smtpproxy unsubscribe rekey,"
                " reload every relay, then retire this one"
            )
        with replacing(state_dir):
            await store.retire_link_key(version, at=now())
            left = _drop_key(state_dir, version) if has_link_keys(state_dir) else []
        return *await _look(store), left

    used, relays, left = using_store(settings, work)
    if not has_link_keys(state_dir):
        return Result(
            {"keys": []}, [f"key {version} is retired; smtpproxy serve will make a new one"]
        )
    shown = _shown(load_link_keys(state_dir), used, relays)
    return Result(shown.data, (*shown.text, *left))


def _losing(state_dir: Path, version: int) -> str | None:
    """Return what is asked before a key is retired; None: it is not here, or must not be."""
    keys = load_link_keys(state_dir) if has_link_keys(state_dir) else {}
    if version not in keys or version == max(keys):
        return None
    return (
        f"Key {version} was made on {keys[version].made.isoformat()}: everybody who was sent a link"
        " sealed with it can no longer unsubscribe by that link, unless the key comes back from a"
        f" copy of {LINK_KEY_FILE}. Retire it?"
    )


def _drop_key(state_dir: Path, version: int) -> list[str]:
    try:
        drop_link_key(state_dir, version)
    except StoreInaccessible as fault:
        return [str(fault)]
    path = key_place(state_dir, LINK_KEY_FILE).path
    return [
        f"key {version} is removed from {path}",
        "a running relay accepts its links until smtpproxy reload",
        "on every other relay: remove its line, then smtpproxy reload",
    ]


def _shown(found: Mapping[int, LinkKey], used: Fingerprints, relays: Sequence[Relay]) -> Result:
    sealing = max(used, default=max(found))

    def use(key: LinkKey) -> str:
        if key.version == sealing:
            return "seals new links"
        if key.version > sealing:
            return "waits: smtpproxy unsubscribe rekey activates it once every relay has it"
        if not used or key.version in used:
            return "reads links made with it"
        return "retired, but its links work here until its line is removed, and a reload"

    def text() -> Iterator[Part]:
        for key in found.values():
            yield f"key {key.version} ({key.fingerprint}), made {key.made.isoformat()}: {use(key)}"
        yield from relay_lines(relays, LINK_KEY_FILE)

    made = [
        {"version": key.version, "fingerprint": key.fingerprint, "made": key.made.isoformat()}
        for key in found.values()
    ]
    data = {"newest": sealing, "keys": made, "relays": holdings(relays, LINK_KEY_FILE)}
    return Result(data, text())


def holdings(relays: Sequence[Relay], file: str) -> list[dict[str, object]]:
    """Return which keys of a file each relay has, by version."""
    alive = {relay.id for relay in living(relays, now())}
    return [
        {
            "id": relay.id,
            "host": relay.state.host,
            "told_at": relay.at,
            "counts": relay.id in alive,  # a new key waits for it
            "keys": relay.state.keys.get(file, {}),
        }
        for relay in relays
    ]


def relay_lines(relays: Sequence[Relay], file: str) -> Iterator[Part]:
    """Yield a table of the relays, if there are any."""
    if not relays:
        return
    alive = {relay.id for relay in living(relays, now())}
    rows = []
    for relay in relays:
        held = relay.state.keys.get(file, {})
        keys = ", ".join(f"{version} ({name})" for version, name in held.items())
        state = "" if relay.id in alive else "silent, so not waited for"
        rows.append((relay.name, written_time(relay.at), keys or "none", state))
    yield ""
    yield Table(
        [Column("relay"), Column("reported at"), Column(f"keys in {file}"), Column("")], rows
    )
