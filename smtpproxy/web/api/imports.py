"""Imports on record, and how far those have come that are running."""

from typing import Annotated

from msgspec import Meta, Struct

from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.operations import ImportRecord, ImportStore, Kind, State
from smtpproxy.web.api.operation import Call, Operation, Time
from smtpproxy.web.api.problems import Refused


class ImportShown(Struct, frozen=True):
    """One import, and how far it has come."""

    id: str
    kind: Kind
    state: State
    started_at: Time
    ended_at: Time | None
    size: Annotated[int | None, Meta(description="Octets; null: it came through a pipe.")]
    octets: Annotated[int, Meta(description="Read of these.")]
    lines: Annotated[int, Meta(description="That say something, of those that are done.")]
    added: int
    changed: int
    unchanged: int
    older: int
    erased: Annotated[int, Meta(description="Left out: they were erased.")]
    rejected: int


class ImportList(Struct, frozen=True):
    """Imports, the newest first."""

    imports: tuple[ImportShown, ...]


LIST_IMPORTS = Operation(
    "list_imports",
    "imports",
    "GET",
    "/v1/imports",
    summary="The newest imports, and how far they have come",
    description="The newest hundred. They are begun by `smtpproxy contact import` and `suppress"
    " import`. It needs a token for all brands.",
    answers=ImportList,
    answer="The imports.",
    problems=("not_of_your_brand",),
)
GET_IMPORT = Operation(
    "get_import",
    "imports",
    "GET",
    "/v1/imports/{id}",
    summary="How far an import has come",
    description="It needs a token for all brands.",
    places={"id": "As the import told it."},
    answers=ImportShown,
    answer="The import.",
    problems=("not_of_your_brand", "not_found"),
)

IMPORT_OPERATIONS = (LIST_IMPORTS, GET_IMPORT)
_MOST = 100


class Imports:
    """Answers IMPORT_OPERATIONS, each by the method of its name."""

    def __init__(self, store: ImportStore) -> None:
        self._store = store

    async def list_imports(self, call: Call) -> ImportList:
        call.access.check_everything("an import")
        found = await self._store.imports()
        return ImportList(tuple(_shown(one) for one in found[: -_MOST - 1 : -1]))

    async def get_import(self, call: Call) -> ImportShown:
        call.access.check_everything("an import")
        id = call.request.path_params["id"]
        for one in await self._store.imports():
            if one.id == id:
                return _shown(one)
        raise Refused("not_found", "no import of that id is on record")


def _shown(record: ImportRecord) -> ImportShown:
    return ImportShown(
        record.id,
        record.kind,
        record.state,
        written_time(record.started_at),
        None if record.ended_at is None else written_time(record.ended_at),
        record.size,
        record.place.octets,
        record.place.lines,
        record.added,
        record.changed,
        record.unchanged,
        record.older,
        record.erased,
        record.place.rejected,
    )
