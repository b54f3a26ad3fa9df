"""The effect of an import or a change: who may be mailed on which stream, and why not."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing, closing
from itertools import chain
from typing import TypeVar

from msgspec.structs import replace

from smtpproxy.cli.imports import Handling, Task
from smtpproxy.cli.printer import Column, Fields, Part, Result, Styled, Table
from smtpproxy.cli.stores import read_store, warn
from smtpproxy.clock import now
from smtpproxy.events import picked
from smtpproxy.locale import REFERENCE, texts
from smtpproxy.policy.model import Mode, Stream
from smtpproxy.report import fix
from smtpproxy.scrub.fixes import PRODUCTS
from smtpproxy.scrub.outlook import Findings, Outlook, StreamOutlook, person
from smtpproxy.scrub.verdicts import share
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.compare import Compare, compare
from smtpproxy.store.exchange.files import Source
from smtpproxy.store.exchange.run import BATCH_ROWS, Format, Look
from smtpproxy.store.records import BatchResult, StoreUnavailable
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted, few

T = TypeVar("T")

_SETS = 6  # shown for one stream
_ANSWERS = {"source": "direct", "optout_offered": "true", "sender_disclosed": "true"}
_APART = ("brand", PRODUCTS)
_COLUMNS = [Column(), Column(right=True), Column(right=True), Column(prose=True)]
_FREEING_COLUMNS = [Column(), Column(right=True), Column(prose=True)]


def outlook_for(task: Task) -> Outlook:
    """Return the outlook that will judge the people of an import."""
    fixes = task.kind == "contacts"
    access, foresees = task.access, task.options.dry_run
    hides = None if access.everything else access.hides
    return Outlook(access.settings, now(), fixes=fixes, foresees=foresees, hides=hides)


def batch_judge(store: Store, handling: Handling[T], outlook: Outlook) -> Look[T]:
    """Return a function that judges a stored batch's people. It never stops an import."""

    async def look(items: Sequence[T], result: BatchResult) -> None:
        try:
            await handling.look(outlook, store, items, result.contacts)
        except StoreUnavailable:
            outlook.missed += len(items)

    return look


def comparing(store: Store, handling: Handling[T], outlook: Outlook) -> Compare[T]:
    """Return a function that compares a batch with the store, and judges its people as imported."""
    return handling.compare(store, lambda items, after: handling.look(outlook, store, items, after))


def judged_again(task: Task, handling: Handling[T], file_format: Format) -> Outlook:
    """Judge all people in the file again: an earlier run had a part in it, or was undone after."""
    outlook = outlook_for(task)
    with closing(Source(task.path)) as file:
        contents = handling.contents(file, file_format)
        try:
            read_store(
                task.settings,
                lambda store: compare(
                    contents, comparing(store, handling, outlook), lambda _: None
                ),
            )
        except StoreUnavailable as error:
            warn(f"not everybody could be counted: {error}")
    return outlook


def outlook_without(settings: Settings, id: str) -> Findings:
    """Return which people of an import of contacts may be mailed once it is undone."""
    outlook = Outlook(settings, now())

    async def look(store: Store) -> None:
        async with aclosing(store.without_import(id)) as parts:
            async for left in parts:
                await outlook.left(store, left)

    read_store(settings, look)
    return outlook.findings()


def outlook_object(found: Findings, file_format: Format) -> dict[str, object]:
    return {
        "people": found.people,
        "nobody_on_marketing": found.nobody,
        **picked(found, "nameless", "apart", "missed", "at"),
        "streams": [
            {
                "stream": one.stream.name,
                "class": one.stream.class_name,
                **picked(one.stream, "brand", "mode"),
                "allowed": one.allowed,
                "by_basis": one.bases,
                "by_reason": one.reasons,
                "frees": [
                    {"people": people, "facts": facts, "how": _how(facts, one.stream, file_format)}
                    for facts, people in one.frees
                ],
            }
            for one in found.streams
        ],
    }


def outlook_text(
    found: Findings, file_format: Format, id: str = "", *, rejected: int = 0
) -> Iterator[Part]:
    """Yield how many may be mailed, why not the others, and which facts would free how many.

    `id` is that of a finished import, which rejected so many lines.
    """
    if found.people:
        yield ""
        people = counted(found.people, "person", "people")
        if found.nobody:
            yield Styled(f"None of {people} may be mailed on a marketing stream.", "red")
        else:
            yield Styled(f"Of {people}, this many may be mailed:", "bold")
        yield Table(_COLUMNS, [_row(one, found.people) for one in found.shown])
        yield from _freeing(found, file_format, id, rejected)
        yield from _advice(found)
    if found.missed:
        yield f"{counted(found.missed, 'line')} could not be judged: the store did not answer"
    if found.nameless:
        entries = counted(found.nameless, "entry is", "entries are")
        yield f"{entries} of whole domains, or without an address: there is nobody to judge"
    if found.apart:
        yield (
            f"{counted(found.apart, 'line is', 'lines are')} more than {BATCH_ROWS:,} lines behind"
            " another of the same person: here the last ones and the store count; the import itself"
            " puts them together"
        )


def _row(one: StreamOutlook, people: int) -> Sequence[str]:
    why = ", ".join(f"{reason} {lines:,}" for reason, lines in one.reasons.items())
    if one.reasons and one.stream.mode is Mode.OBSERVE:
        why += " (only observed: such mail passes)"
    share_of = texts(REFERENCE).percent(share(one.allowed, people))
    cells = (one.stream.name, f"{one.allowed:,}", share_of, why)
    style = "green" if one.allowed else "red"
    return [cells[0], *(Styled(cell, style) for cell in cells[1:3]), cells[3]]


def _freeing(found: Findings, file_format: Format, id: str, rejected: int) -> Iterator[Part]:
    rows = [
        (one.stream.name if not place else "", f"{people:,}", _how(facts, one.stream, file_format))
        for one in found.shown
        for place, (facts, people) in enumerate(one.frees[:_SETS])
    ]
    if rows:
        yield ""
        yield Styled(
            "Facts that would free people, if they are true and you can prove them:", "bold"
        )
        yield Table(_FREEING_COLUMNS, rows)
        if id:
            yield f"to supply them: run the same import again with --replace {id}"
            if rejected:  # an import with rejected lines does not undo the one it replaces
                yield f"then, as lines will be rejected again: smtpproxy import undo {id}"


def _advice(found: Findings) -> Iterator[Part]:
    reasons = dict.fromkeys(
        reason for one in found.shown if not one.stream.permission for reason in one.reasons
    )
    if reasons:
        yield ""
        yield Fields([(reason, fix(reason, REFERENCE)) for reason in reasons])


def _how(facts: Sequence[str], stream: Stream, file_format: Format) -> str:
    """Return the options that would supply these facts; NDJSON must hold them in its lines."""
    values = [f"{name}={_ANSWERS.get(name, '…')}" for name in facts if name not in _APART]
    if file_format == "csv":
        ways = [f"--set {value}" for value in values]
    else:
        ways = [f"{', '.join(values)} in the file"] if values else []
    if "brand" in facts:
        ways.insert(0, f"--brand {stream.brand}")
    if PRODUCTS in facts:
        ways.append(f"and what they bought in `{PRODUCTS}` of the stream")
    return " ".join(ways).removeprefix("and ")


def with_effect(settings: Settings, address: str, result: Result) -> Result:
    """Add the effect of a change: on which streams the person may be mailed now, and why not.

    A whole domain has no such effect to show. `result.data` is an object.
    """
    name = person(address)
    if name is None or not isinstance(result.data, dict):
        return result
    outlook = Outlook(settings, now())
    read_store(settings, lambda store: outlook.add(store, {name: ()}))
    found = outlook.findings()
    streams = {
        one.stream.name: {
            "allowed": bool(one.allowed),
            "why": next(iter((*one.bases, *one.reasons))),
        }
        for one in found.streams
    }
    return replace(
        result,
        data=result.data | {"streams": streams},
        text=chain(result.text, _effect(address, found)),
    )


def _effect(address: str, found: Findings) -> Iterator[Part]:
    """Yield a line of streams that may mail the person, and one of those that may not."""
    allowed = [one.stream.name for one in found.shown if one.allowed]
    refusing: dict[str, list[str]] = {}
    for one in found.shown:
        for reason in one.reasons:
            observed = " (only observed)" if one.stream.mode is Mode.OBSERVE else ""
            refusing.setdefault(reason, []).append(one.stream.name + observed)
    yield f"{address}: may be mailed on {few(allowed) or 'no stream'}"
    if refusing:
        refused = [f"{few(names)}: {reason}" for reason, names in refusing.items()]
        yield f"{address}: not on {'; '.join(refused)}"
