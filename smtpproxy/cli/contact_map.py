"""`smtpproxy contact map`: write a mapping for a table whose columns are not ours."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from smtpproxy.cli import fail, failing
from smtpproxy.cli.import_file import on_a_terminal
from smtpproxy.cli.map_questions import ColumnPair, asked, check_known, guessed, left_open
from smtpproxy.cli.map_sample import Sample, sample
from smtpproxy.cli.options import (
    FileOrStdin,
    Options,
    OutputFile,
    Text,
    Value,
    command,
    flag,
    option,
    several,
)
from smtpproxy.cli.printer import Part, Result, progress
from smtpproxy.cli.stores import Constant, constants_of, warn
from smtpproxy.clock import now
from smtpproxy.disk import exists, is_file
from smtpproxy.events import picked
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.guess import is_about_refusals, propose
from smtpproxy.store.exchange.layouts import Kind, layouts, without_consents
from smtpproxy.store.exchange.lines import ImportFault
from smtpproxy.store.exchange.look import TableLook, look_at
from smtpproxy.store.exchange.mapping import FIELDS, MappingFault, mapping_of, zone
from smtpproxy.store.exchange.mapping_text import mapping_lines
from smtpproxy.store.exchange.proposal import (
    LEFT_OPEN,
    NONE,
    Answers,
    Known,
    Proposal,
    is_title,
)
from smtpproxy.store.exchange.rows import column_key
from smtpproxy.terminal import counted, few, printable
from smtpproxy.toml import loads


def _zone(value: str) -> str:
    zone(value)
    return value


class MapOptions(Options, frozen=True):
    """Answers to everything that the command would ask about the file."""

    output: OutputFile | None = option(
        "The mapping (default: FILE with .mapping.toml as its suffix). A file is never"
        " overwritten.",
        metavar="FILE.toml",
    )
    yes: bool = flag("Ask nothing: accept the guesses, and fail if they are not enough.")
    column: tuple[ColumnPair, ...] = several(
        "The field that a column holds, or none.", metavar="COLUMN=FIELD"
    )
    consent: tuple[ColumnPair, ...] = several(
        "The purpose of a consent column (yes and no, or dates), or none.", metavar="COLUMN=PURPOSE"
    )
    given_at: str | None = option("The column with the date of consents.", metavar="COLUMN")
    withdrawn_at: str | None = option("The column with the date of refusals.", metavar="COLUMN")
    true: tuple[str, ...] = several("A cell that means yes.", metavar="CELL")
    false: tuple[str, ...] = several("A cell that means no.", metavar="CELL")
    nothing: tuple[str, ...] = several("A cell that means neither: it is ignored.", metavar="CELL")
    no: Literal["withdrawal", "nothing"] | None = option(
        "What a no means: that earlier consent is withdrawn (the proposal), or nothing."
    )
    time_format: Text | None = option(
        "How times are written, as in a mapping: %d/%m/%Y, iso, excel …", metavar="FORMAT"
    )
    time_zone: Annotated[str, Value("NAME", _zone)] | None = option(
        "The zone of times that have none: Europe/Paris, UTC …"
    )
    constants: tuple[Constant, ...] = several(
        "The value of a field in every row: source=direct, consent_method=unticked_box,"
        " evidence.wording=TEXT, evidence.form=TEXT, brand=NAME.",
        name="--set",
    )
    leave_open: bool = flag(
        "Write the mapping even if wording, method, source or brand is not known; the file says"
        " what is missing."
    )


@command("map")
def map_contacts(settings: Settings, file: FileOrStdin, options: MapOptions) -> Result:
    """Look at a CSV, XLSX or NDJSON file of people, and write the mapping that imports it.

    Guesses columns by their names, in English, French, German or Spanish, and by everything in
    them; shows how people would be imported; asks what it cannot know. Imports nothing.
    """
    if not is_file(file):
        fail(f"{file}: not a file; only a file can be mapped, as it is read several times", 2)
    output = options.output or file.with_suffix(".mapping.toml")
    if exists(output):
        fail(f"{output}: already exists and is not overwritten; name another with --output", 2)
    with failing(ImportFault, f"{file}: "), progress(file.name, file.stat().st_size) as show:
        look = look_at(file, show)
    _check(file, look)
    for notice in look.notices:
        warn(f"{file}: {notice}")
    known = _known(settings)
    answers = _answers(settings, look, options)
    proposal = propose(look, known, answers)
    if not options.yes:
        answers = asked(look, known, answers)
        proposal = propose(look, known, answers)
    notes = (*dict.fromkeys(_exports(look)), *proposal.notes)
    check_known(file, proposal, notes, leave_open=options.leave_open)
    answers = left_open(answers, proposal)
    text = _written(file, output, look, proposal, answers)
    with failing(MappingFault, code=2):
        mapping = mapping_of(str(output), loads(text), FIELDS)
    found = sample(settings, file, mapping)
    octets = text.encode()
    try:
        with output.open("xb") as out:
            out.write(octets)
    except OSError as error:
        if error.filename is not None:  # it was not even opened
            raise
        output.unlink()
        fail(f"{output}: {error.strerror}: not written")
    constants = answers.constants.items()
    data = {
        "file": file,
        "mapping": output,
        "rows": look.rows,
        "columns": proposal.columns,
        "consents": [one.as_written() for one in proposal.consents],
        "time_format": proposal.time_format,
        "constants": {name: text for name, text in constants if text != LEFT_OPEN},
        "open": [name for name, text in constants if text == LEFT_OPEN],
        "notes": notes,
        **found.as_object(),
    }
    rest = _text(file, output, found, notes)
    table = [guessed(look, proposal)] if options.yes else []
    return Result(data, (_rows(file, look), *table, *rest))


def _check(file: Path, look: TableLook) -> None:
    """End the command if it is unclear which columns there are, or their names mislead."""
    if not look.rows:
        fail(f"{file}: no rows below its header")
    if look.is_headless:
        fail(f"{file}: its first row contains an address; add a header row that names the columns")
    if look.title:
        fail(
            f"{file}: its first row has only {printable(look.title)!r}, and most rows have more:"
            " delete what is above the row that names the columns, or name every column"
        )
    if is_title(look):
        fail(
            f"{file}: its first row names no column of addresses, but a row below it does: delete"
            " what is above the row that names the columns"
        )
    if refused := [name for name in look.twice if is_about_refusals(name)]:
        fail(
            f"{file}: several columns are called {printable(refused[0])!r}, and say who refused:"
            " give each a name of its own"
        )
    columns = tuple(column.name for column in look.columns)
    if (one := without_consents(columns, file.name)) is not None:
        fail(
            f"{file}: by its name an export of {one.title} ({one.name}): these people agreed to"
            " nothing, whatever its columns are called; import it without a mapping"
        )


def _known(settings: Settings) -> Known:
    methods = {one for book in settings.rulebooks.values() for one in book.valid_methods}
    # The stream `default` takes mail that declares no other: nobody is asked to agree to that.
    declared = {one.purpose for one in settings.declared_streams if one.purpose}
    return Known(
        tuple(sorted(declared or settings.mail_purposes)),
        tuple(sorted(settings.brand_names)),
        tuple(sorted(methods)),
    )


def _answers(settings: Settings, look: TableLook, options: MapOptions) -> Answers:
    """Return the answers in the options; end the command if one names an unknown thing."""
    for name, field in options.column:
        if field not in (*FIELDS, NONE):
            fail(f"--column {name}={field}: no such field; known: none, {', '.join(FIELDS)}", 2)
    for name, purpose in options.consent:
        if purpose not in (*settings.purposes, NONE):
            known = few(sorted(settings.purposes), purpose)
            fail(f"--consent {name}={purpose}: no stream has this purpose; known: {known}", 2)
    columns = [name for name, _ in (*options.column, *options.consent)]
    for name in filter(None, (*columns, options.given_at, options.withdrawn_at)):
        if look.column(name) is None:
            known = ", ".join(column.name for column in look.columns)
            fail(f"{name!r}: no such column; the columns are {known[:300]}", 2)
    contradictory = {*options.true} & {*options.false} | {*options.nothing} & {
        *options.true, *options.false,
    }  # fmt: skip
    if contradictory:
        fail(f"{min(contradictory)!r} cannot be two of --true, --false and --nothing", 2)
    return Answers(
        {column_key(name): field for name, field in options.column},
        {column_key(name): purpose for name, purpose in options.consent},
        **picked(options, "given_at", "withdrawn_at", "true", "false", "nothing", "no"),
        **picked(options, "time_format", "time_zone"),
        constants=constants_of(settings, "contacts", options.constants),
    )


def _written(
    file: Path, output: Path, look: TableLook, proposal: Proposal, answers: Answers
) -> str:
    read = {column_key(name) for name in proposal.columns}
    read |= {column_key(name) for table in proposal.consents for name in table.columns}
    unread = [one.name for one in look.columns if column_key(one.name) not in read]
    head = [
        f"The columns of {printable(file.name)}, mapped by `smtpproxy contact map` on "
        f"{now():%Y-%m-%d}",
        f"after reading {counted(look.rows, 'row')}. Correct it if need be (docs/data.md), then:",
        _next(Path(file.name), Path(output.name)),
    ]
    lines = mapping_lines(proposal, answers, head, unread, look)
    return "".join(f"{line}\n" for line in lines)


def _next(file: Path, output: Path) -> str:
    """Return the command that shows how the mapping imports the file."""
    command = ["smtpproxy", "contact", "import", str(file), "--mapping", str(output), "--dry-run"]
    return printable(shlex.join(command))


def _exports(look: TableLook) -> Iterator[str]:
    """Yield notes on a file that is a provider's export."""
    columns = tuple(one.name for one in look.columns)
    kinds: tuple[Kind, ...] = ("contacts", "suppressions")
    for kind in kinds:
        for one in layouts(kind):
            if one.fits(columns) and kind == "contacts":
                yield (
                    f"it looks like an export of {one.title}, which contact import also reads "
                    "without a mapping (--purpose, --set)"
                )
            elif one.fits(columns):
                yield (
                    f"it looks like an export of {one.title} with people who must not be mailed "
                    f"({one.name}): import it with suppress import as well"
                )


def _rows(file: Path, look: TableLook) -> str:
    faults = f", and {counted(len(look.rejected), 'row')} or more unreadable" * bool(look.rejected)
    return f"{file}: {counted(look.rows, 'row')}{faults}"


def _text(file: Path, output: Path, found: Sample, notes: Sequence[str]) -> Iterator[Part]:
    for note in notes:
        yield f"note: {printable(note)}"
    yield ""
    yield from found.text(with_address=on_a_terminal())
    yield ""
    yield f"written: {output}"
    yield f"next: {_next(file, output)}"
