"""The API's records for imports; `import_jobs` has the operations."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from smtpproxy.policy.model import Origin
from smtpproxy.store.operations import Kind, State
from smtpproxy.web.api.operation import Time, about

MOST_WAITING = 20  # jobs
_Text = Annotated[str, Meta(min_length=1, max_length=255)]


_OfAll = Annotated[
    int | UnsetType, about("Only for a token for all brands, as it reveals whom others know.")
]


class ImportShown(Struct, frozen=True):
    """One import and its progress."""

    id: str
    kind: Kind
    state: Annotated[
        State | Literal["waiting", "failed", "cancelled"],
        about("`waiting`, `failed` and `cancelled` occur for uploads only."),
    ]
    started_at: Time
    ended_at: Time | None
    size: Annotated[int | None, about("Octets of the file; null: it came through a pipe.")]
    octets: Annotated[int, about("Octets read so far.")]
    lines: Annotated[int, about("Lines done so far, without blank ones.")]
    taken: Annotated[int, about("Lines imported: added, changed and unchanged.")]
    erased: Annotated[int, about("Lines left out because the person was erased.")]
    rejected: int
    added: _OfAll = UNSET
    changed: _OfAll = UNSET
    unchanged: _OfAll = UNSET
    older: _OfAll = UNSET
    dry_run: bool = False
    error: Annotated[str, about("Why it failed.")] | UnsetType = UNSET
    result: (
        Annotated[
            dict[str, Any],
            about(
                "What `smtpproxy contact import --json` prints; `outlook`: how many"
                " people may be mailed on each stream, and why the others may not. For uploads,"
                " kept for seven days. A token for some brands sees their streams only, and nothing"
                " of what was stored before."
            ),
        ]
        | UnsetType
    ) = UNSET


class ImportList(Struct, frozen=True):
    """Imports, the newest first."""

    imports: tuple[ImportShown, ...]


class ImportQuery(Struct, frozen=True, rename={"file_format": "format"}):
    """How a file is imported, like the options of the same names of the command."""

    kind: Annotated[Kind, about("What the file contains.")]
    dry_run: Annotated[
        Literal["true", "false"], about("`true`: only show what would be imported.")
    ] = "false"
    file_format: Annotated[
        _Text | None, about("`csv`, `ndjson` or a provider's. Default: by its content.")
    ] = None
    mapping: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        about("The text of a mapping (TOML) from columns to fields."),
    ] = None
    set: Annotated[
        tuple[Annotated[str, Meta(min_length=3, max_length=2_000)], ...],
        about("FIELD=VALUE for rows that do not set the field. Repeat for more."),
    ] = ()
    brand: Annotated[_Text | None, about("The brand that owns the file.")] = None
    purpose: Annotated[
        _Text | None,
        about("The purpose of the consents in a provider's export, or of the list left."),
    ] = None
    as_of: Annotated[
        _Text | None,
        about("For contacts: the time that the file describes, in UTC if it has no zone."),
    ] = None
    scope: Annotated[_Text | None, about("For suppressions: of lines that have none.")] = None
    origin: Annotated[Origin | None, about("For suppressions: of lines that have none.")] = None
    replace: Annotated[
        _Text | None, about("The import that this one corrects; `none`: keep both.")
    ] = None


class RejectedQuery(Struct, frozen=True):
    """Which page of rejected lines."""

    after: Annotated[int, about("The `next` of the previous page.", ge=0, le=2**53)] = 0
    limit: Annotated[int, about("How many at most.", ge=1, le=1_000)] = 100


class RejectedLine(Struct, frozen=True):
    """A line that was not imported."""

    line: Annotated[int, about("Its number in the file.")]
    reason: str
    content: Annotated[str, about("The line itself, at most 10,000 characters.")]


class RejectedLines(Struct, frozen=True):
    """A page of rejected lines."""

    rejected: tuple[RejectedLine, ...]
    next: Annotated[int | None, about("Send as `after` for the next page; null: no more.")]
