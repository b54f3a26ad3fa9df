"""`smtpproxy contact map`: a table that nobody has described gets its mapping."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from smtpproxy.cli import fail
from smtpproxy.cli.constants import constant, contact_constants
from smtpproxy.cli.import_file import on_a_terminal
from smtpproxy.cli.imports import input_file
from smtpproxy.cli.map_questions import asked, check_known, column_pair, guessed, left_open
from smtpproxy.cli.map_sample import Sample, sample
from smtpproxy.cli.options import (
    OUTPUT_FILE,
    choice,
    config_option,
    flag,
    option,
    options,
    plain_text,
    several,
)
from smtpproxy.cli.printer import Part, Result, progress, shows_result
from smtpproxy.cli.stores import warn
from smtpproxy.clock import now
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.guess import propose
from smtpproxy.store.exchange.layouts import Kind, layouts
from smtpproxy.store.exchange.lines import ImportFault
from smtpproxy.store.exchange.look import TableLook, look_at
from smtpproxy.store.exchange.mapping import FIELDS, MappingFault, mapping_of, zone
from smtpproxy.store.exchange.mapping_text import mapping_text
from smtpproxy.store.exchange.proposal import LEFT_OPEN, NONE, Answers, Known, Proposal
from smtpproxy.store.exchange.rows import column_key
from smtpproxy.terminal import counted, printable
from smtpproxy.toml import loads


def _zone(value: str) -> str:
    try:
        zone(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


@dataclass(frozen=True, slots=True)
class MapOptions:
    """What is known of the file: all that the command would ask."""

    output: Path | None = option(
        "The mapping (default: FILE with .mapping.toml as its suffix). A file is never"
        " overwritten.",
        OUTPUT_FILE, metavar="FILE.toml",
    )  # fmt: skip
    yes: bool = flag("Ask nothing: take what is guessed, and fail where that is not enough.")
    column: tuple[tuple[str, str], ...] = several(
        "What a column is: a field, or none.", column_pair, metavar="COLUMN=FIELD"
    )
    consent: tuple[tuple[str, str], ...] = several(
        "What people agreed to in a column of yes and no, or of dates; or none.",
        column_pair, metavar="COLUMN=PURPOSE",
    )  # fmt: skip
    given_at: str | None = option("The column with the date of consents.", metavar="COLUMN")
    withdrawn_at: str | None = option("The column with the date of refusals.", metavar="COLUMN")
    true: tuple[str, ...] = several("A cell that means yes.", metavar="CELL")
    false: tuple[str, ...] = several("A cell that means no.", metavar="CELL")
    nothing: tuple[str, ...] = several("A cell that is neither: it says nothing.", metavar="CELL")
    no: Literal["withdrawal", "nothing"] | None = option(
        "What a no is: a withdrawal of what was agreed to before (as is proposed), or nothing.",
        choice(["withdrawal", "nothing"]),
    )
    time_format: str | None = option(
        "How times are written, as in a mapping: %d/%m/%Y, iso, excel …", plain_text,
        metavar="FORMAT",
    )  # fmt: skip
    time_zone: str | None = option(
        "The zone of times that name none: Europe/Paris, UTC …", _zone, metavar="NAME"
    )
    constants: tuple[tuple[str, str], ...] = several(
        "What holds for every row, such as source=direct, consent_method=unticked_box,"
        " evidence.wording=TEXT, evidence.form=TEXT, brand=NAME.",
        constant, name="--set", metavar="FIELD=VALUE",
    )  # fmt: skip
    leave_open: bool = flag(
        "Write the mapping although wording, method, source or brand are not known; the file says"
        " what is missing."
    )


@click.command("map")
@click.argument("file", type=input_file)
@options(MapOptions)
@config_option
@shows_result
def map_contacts(settings: Settings, file: Path, options: MapOptions) -> Result:
    """Look at a CSV, XLSX or NDJSON file of people, and write the mapping that imports it.

    Guesses columns by what they are called, in English, French, German or Spanish, and by
    all that is in them; shows what people would become; asks what it cannot know. Imports
    nothing.
    """
    if not file.is_file():
        fail(f"{file}: only a file can be mapped: it is read several times", 2)
    output = options.output or file.with_suffix(".mapping.toml")
    if output.exists():
        fail(f"{output}: it exists already and is not overwritten; name another with --output", 2)
    try:
        with progress(file.name, file.stat().st_size) as show:
            look = look_at(file, show)
    except ImportFault as error:
        fail(f"{file}: {error}")
    if not look.rows:
        fail(f"{file}: no rows: there is nothing below its header")
    if look.is_headless:
        fail(f"{file}: its first row has an address: put a header on top that names the columns")
    for notice in look.notices:
        warn(f"{file}: {notice}")
    known = _known(settings)
    answers = _answers(settings, look, options)
    proposal = propose(look, known, answers)
    if not options.yes:
        answers = asked(look, known, answers)
        proposal = propose(look, known, answers)
    notes = (*_exports(look), *proposal.notes)
    check_known(file, proposal, notes, leave_open=options.leave_open)
    answers = left_open(answers, proposal)
    text = _written(file, output, look, proposal, answers)
    try:
        mapping = mapping_of(str(output), loads(text), FIELDS)
    except MappingFault as error:
        fail(str(error), 2)
    found = sample(settings, file, mapping)
    with output.open("x", encoding="utf-8") as out:
        out.write(text)
    return Result(
        _as_object(file, output, look, proposal, answers, found, notes),
        _text(file, output, look, proposal, found, notes, shown=not options.yes),
    )


def _known(settings: Settings) -> Known:
    methods = {one for book in settings.rulebooks.values() for one in book.valid_methods}
    # The stream `default` takes what declares no other: nobody is asked to agree to that.
    declared = {one.purpose for one in settings.declared_streams if one.purpose}
    return Known(
        tuple(sorted(declared or settings.mail_purposes)),
        tuple(sorted(settings.brand_names)),
        tuple(sorted(methods)),
    )


def _answers(settings: Settings, look: TableLook, options: MapOptions) -> Answers:
    """Return what the options say; end the command where the file or the relay has no such."""
    for name, said in options.column:
        if said not in (*FIELDS, NONE):
            fail(f"--column {name}={said}: no such field; they are none, {', '.join(FIELDS)}", 2)
    for name, purpose in options.consent:
        if purpose not in (*settings.purposes, NONE):
            known = ", ".join(sorted(settings.purposes))
            fail(f"--consent {name}={purpose}: no stream has this purpose; known are {known}", 2)
    columns = [name for name, _ in (*options.column, *options.consent)]
    for name in filter(None, (*columns, options.given_at, options.withdrawn_at)):
        if look.column(name) is None:
            there = ", ".join(one.name for one in look.columns)
            fail(f"{name!r}: no such column; they are {there[:300]}", 2)
    said_twice = {*options.true} & {*options.false} | {*options.nothing} & {
        *options.true, *options.false,
    }  # fmt: skip
    if said_twice:
        fail(f"{min(said_twice)!r} cannot be two of --true, --false and --nothing", 2)
    return Answers(
        {column_key(name): said for name, said in options.column},
        {column_key(name): purpose for name, purpose in options.consent},
        options.given_at,
        options.withdrawn_at,
        options.true,
        options.false,
        options.nothing,
        options.no,
        options.time_format,
        options.time_zone,
        contact_constants(settings, options.constants),
    )


def _written(
    file: Path, output: Path, look: TableLook, proposal: Proposal, answers: Answers
) -> str:
    read = {column_key(name) for name in proposal.columns}
    read |= {column_key(name) for table in proposal.consents for name in table.columns}
    unread = [one.name for one in look.columns if column_key(one.name) not in read]
    head = [
        f"Which column of {printable(file.name)} is what, as `smtpproxy contact map` wrote it on "
        f"{now():%Y-%m-%d}",
        f"after a look at {counted(look.rows, 'row')}. Change what is wrong (docs/data.md), then:",
        _next(Path(file.name), Path(output.name)),
    ]
    return mapping_text(proposal, answers, head, unread, look)


def _next(file: Path, output: Path) -> str:
    """Return the command that shows what the mapping makes of the file."""
    command = ["smtpproxy", "contact", "import", str(file), "--mapping", str(output), "--dry-run"]
    return printable(shlex.join(command))


def _exports(look: TableLook) -> Iterator[str]:
    """Yield what is to be said where the file is a provider's export."""
    columns = tuple(one.name for one in look.columns)
    kinds: tuple[Kind, ...] = ("contacts", "suppressions")
    for kind in kinds:
        for one in layouts(kind):
            if one.fits(columns) and kind == "contacts":
                yield (
                    f"it looks like an export of {one.title}, which contact import reads without a "
                    "mapping too (--purpose, --set)"
                )
            elif one.fits(columns):
                yield (
                    f"it looks like an export of {one.title} with people who must not be mailed "
                    f"({one.name}): import it with suppress import as well"
                )


def _text(
    file: Path,
    output: Path,
    look: TableLook,
    proposal: Proposal,
    found: Sample,
    notes: Sequence[str],
    *,
    shown: bool,
) -> Iterator[Part]:
    faults = f", and {counted(len(look.rejected), 'row')} or more unreadable" * bool(look.rejected)
    yield f"{file}: {counted(look.rows, 'row')}{faults}"
    if not shown:
        yield guessed(look, proposal)
    for note in notes:
        yield f"note: {printable(note)}"
    yield ""
    yield from found.text(with_address=on_a_terminal())
    yield ""
    yield f"written: {output}"
    yield f"next: {_next(file, output)}"


def _as_object(
    file: Path,
    output: Path,
    look: TableLook,
    proposal: Proposal,
    answers: Answers,
    found: Sample,
    notes: Sequence[str],
) -> dict[str, object]:
    said = answers.constants.items()
    return {
        "file": file,
        "mapping": output,
        "rows": look.rows,
        "columns": proposal.columns,
        "consents": [one.as_written() for one in proposal.consents],
        "time_format": proposal.time_format,
        "constants": {name: text for name, text in said if text != LEFT_OPEN},
        "open": [name for name, text in said if text == LEFT_OPEN],
        "notes": notes,
        **found.as_object(),
    }
