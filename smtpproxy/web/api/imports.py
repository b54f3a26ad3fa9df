"""Imports: those on record, how far they have come, and what can be asked about them."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from smtpproxy.policy.model import Origin
from smtpproxy.store.operations import Kind, State
from smtpproxy.web.api.operation import Operation, Time

MOST_WAITING = 20  # jobs
_Text = Annotated[str, Meta(min_length=1, max_length=255)]


_OfAll = Annotated[
    int | UnsetType,
    Meta(description="Only for a token for all brands: it tells whom others know."),
]


class ImportShown(Struct, frozen=True):
    """One import, and how far it has come."""

    id: str
    kind: Kind
    state: Annotated[
        State | Literal["waiting", "failed", "cancelled"],
        Meta(description="`waiting`, `failed`, `cancelled`: of those that were uploaded."),
    ]
    started_at: Time
    ended_at: Time | None
    size: Annotated[int | None, Meta(description="Octets; null: it came through a pipe.")]
    octets: Annotated[int, Meta(description="Read of these.")]
    lines: Annotated[int, Meta(description="That say something, of those that are done.")]
    taken: Annotated[int, Meta(description="Taken in: added, changed and unchanged.")]
    erased: Annotated[int, Meta(description="Left out: they were erased.")]
    rejected: int
    added: _OfAll = UNSET
    changed: _OfAll = UNSET
    unchanged: _OfAll = UNSET
    older: _OfAll = UNSET
    dry_run: bool = False
    error: Annotated[str, Meta(description="Why it failed.")] | UnsetType = UNSET
    result: (
        Annotated[
            dict[str, Any],
            Meta(
                description="What `smtpproxy contact import --json` says at its end; `outlook`:"
                " how many people may be mailed on each stream, and why the others may not. Of an"
                " import that was uploaded, for seven days. A token for some brands is told of"
                " their streams, and nothing of what was stored before."
            ),
        ]
        | UnsetType
    ) = UNSET


class ImportList(Struct, frozen=True):
    """Imports, the newest first."""

    imports: tuple[ImportShown, ...]


class ImportQuery(Struct, frozen=True, rename={"file_format": "format"}):
    """How a file is imported: what the options of the same names say to the command."""

    kind: Annotated[Kind, Meta(description="What the file has.")]
    dry_run: Annotated[
        Literal["true", "false"], Meta(description="`true`: only say what would come of it.")
    ] = "false"
    file_format: Annotated[
        _Text | None,
        Meta(description="`csv`, `ndjson`, or a provider's; else by what is in it."),
    ] = None
    mapping: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="The text of a mapping (TOML): which column is which field."),
    ] = None
    set: Annotated[
        tuple[Annotated[str, Meta(min_length=3, max_length=2_000)], ...],
        Meta(description="FIELD=VALUE for every row that does not say otherwise; repeat it."),
    ] = ()
    brand: Annotated[_Text | None, Meta(description="Whose file it is.")] = None
    purpose: Annotated[
        _Text | None,
        Meta(description="What the consents in a provider's export are for; the list they left."),
    ] = None
    as_of: Annotated[
        _Text | None, Meta(description="Of contacts: the moment that the file describes.")
    ] = None
    scope: Annotated[
        _Text | None, Meta(description="Of suppressions: for lines that have none.")
    ] = None
    origin: Annotated[
        Origin | None, Meta(description="Of suppressions: for lines that have none.")
    ] = None
    replace: Annotated[
        _Text | None,
        Meta(description="The import that this one corrects, or `none`: keep both."),
    ] = None


class RejectedQuery(Struct, frozen=True):
    """Which page of rejected lines."""

    after: Annotated[int, Meta(ge=0, le=2**53, description="The `next` of the page before.")] = 0
    limit: Annotated[int, Meta(ge=1, le=1_000, description="How many at most.")] = 100


class RejectedLine(Struct, frozen=True):
    """A line that was not imported."""

    line: Annotated[int, Meta(description="Its number in the file.")]
    reason: str
    content: Annotated[str, Meta(description="As it was; at most 10,000 characters.")]


class RejectedLines(Struct, frozen=True):
    """A page of rejected lines."""

    rejected: tuple[RejectedLine, ...]
    next: Annotated[
        int | None, Meta(description="What to send as `after` next; null: there is no more.")
    ]


_OWN = "A token for some brands sees those that were begun with one of the same, or fewer."
_ID = {"id": "As the import told it."}

LIST_IMPORTS = Operation(
    "list_imports",
    "imports",
    "GET",
    "/v1/imports",
    summary="The newest imports, and how far they have come",
    description=f"The newest hundred, whoever began them. {_OWN}",
    answers=ImportList,
    answer="The imports.",
)
GET_IMPORT = Operation(
    "get_import",
    "imports",
    "GET",
    "/v1/imports/{id}",
    summary="How far an import has come",
    description=_OWN,
    places=_ID,
    answers=ImportShown,
    answer="The import.",
    problems=("not_found",),
)
START_IMPORT = Operation(
    "start_import",
    "import",
    "POST",
    "/v1/imports",
    summary="Import a file of contacts or suppressions",
    description="The body is the file: CSV, XLSX or NDJSON, at most 2 GiB. It is imported when it"
    " is its turn, as `smtpproxy contact import` or `suppress import` does, and removed when that"
    " is done. With a token for some brands every line has to concern these alone: contacts said to"
    " `brand`, or to the brand that a line names, and suppressions of a `scope` that it may give."
    " All others are rejected.",
    query=ImportQuery,
    answers=ImportShown,
    answer="It waits for its turn; ask where `Location` says how far it is.",
    problems=(
        *("parameter_wrong", "parameter_unknown", "not_of_your_brand"),
        *("too_large", "too_many_jobs", "disk_full"),
    ),
    writes=True,
    keyed=True,
    takes_file=True,
    status=202,
    location="/v1/imports/{id}",
)
REJECTED = Operation(
    "rejected_lines",
    "import",
    "GET",
    "/v1/imports/{id}/rejected",
    summary="The lines of an upload that were not imported, and why",
    description=f"They are kept for seven days from its end. {_OWN}",
    query=RejectedQuery,
    places=_ID,
    answers=RejectedLines,
    answer="Lines, perhaps none.",
    problems=("parameter_wrong", "parameter_unknown", "not_found"),
)
CANCEL_IMPORT = Operation(
    "cancel_import",
    "import",
    "POST",
    "/v1/imports/{id}/cancel",
    summary="Stop an import that was uploaded",
    description="It stops after its batch. What it has brought in stays: undo it to take that"
    f" back. {_OWN}",
    places=_ID,
    answers=ImportShown,
    answer="It will stop, or has ended before.",
    problems=("not_found",),
    writes=True,
    status=202,
)
UNDO_IMPORT = Operation(
    "undo_import",
    "import",
    "POST",
    "/v1/imports/{id}/undo",
    summary="Undo an import",
    description=f"As `smtpproxy import undo` does: what others have changed since stays. {_OWN}",
    places=_ID,
    answers=ImportShown,
    answer="It is undone when it is its turn; the state is `undoing` until then.",
    problems=("not_found", "not_undoable"),
    writes=True,
    status=202,
)

IMPORT_OPERATIONS = (
    *(LIST_IMPORTS, GET_IMPORT, START_IMPORT, REJECTED, CANCEL_IMPORT, UNDO_IMPORT),
)
