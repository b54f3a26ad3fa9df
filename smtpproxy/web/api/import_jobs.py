"""API operations on imports: those on record, together with the uploaded jobs."""

import asyncio
import io
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from msgspec import UNSET

from smtpproxy.access import Access
from smtpproxy.disk import exists, flush
from smtpproxy.events import UlidFactory
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.import_jobs import MAPPING, UPLOAD, ImportJob, ImportJobs, private
from smtpproxy.store.operations import UNDO_FOR, ImportRecord, brands_of
from smtpproxy.web.api.import_options import check_replaced, options_of
from smtpproxy.web.api.imports import (
    MOST_WAITING,
    ImportList,
    ImportQuery,
    ImportShown,
    RejectedLine,
    RejectedLines,
    RejectedQuery,
)
from smtpproxy.web.api.operation import Call, Operations, operation, read_query
from smtpproxy.web.api.problems import Refused
from smtpproxy.web.api.uploads import receive_file

_MOST = 100  # imports listed
_LONGEST_LINE = 10_000  # characters shown
_OWN = "A token for some brands sees imports begun with a token for the same brands or fewer."
_ID = {"id": "The id of the import."}


@dataclass(eq=False)
class Imports(Operations):
    """The operations on imports."""

    def __post_init__(self) -> None:
        self._jobs = ImportJobs(self.settings.server.state_dir)
        self._new_id = UlidFactory(lambda: int(self.now().timestamp() * 1000), secrets.token_bytes)
        self._receiving: set[str] = set()

    @operation(
        "imports",
        "GET /v1/imports",
        answer="The imports.",
        more=_OWN,
    )
    async def list_imports(self, call: Call) -> ImportList:
        """List the newest imports with their progress.

        The newest hundred, whoever began them.
        """
        access = call.access
        records = {one.id: one for one in await self.store.imports()}
        jobs = {job.id: job for job in await asyncio.to_thread(self._jobs.jobs)}
        own = (id for id in {*records, *jobs} if _sees(access, records.get(id), jobs.get(id)))
        newest = sorted(own, reverse=True)[:_MOST]
        shown = [self._shown(id, records.get(id), jobs.get(id), access) for id in newest]
        return ImportList(tuple(one for one in shown if one is not None))

    @operation(
        "imports",
        "GET /v1/imports/{id}",
        answer="The import.",
        more=_OWN,
        problems=("not_found",),
        places=_ID,
    )
    async def get_import(self, call: Call) -> ImportShown:
        """Show an import and its progress."""
        return await self._found(call.request.path_params["id"], call.access)

    async def receive(self, call: Call) -> tuple[str, bytes]:
        """Receive the file of `start_import`; return its id, and the request as octets.

        Raises Refused, OthersConcerned, ClientDisconnect.
        """
        asked = read_query(call.request, ImportQuery)
        options = options_of(call.access, asked, self.now())
        waiting = await asyncio.to_thread(self._jobs.waiting)
        if len(waiting) + len(self._receiving) >= MOST_WAITING:
            again = {"Retry-After": "60"}
            text = f"{MOST_WAITING} imports are waiting or being sent; try again later"
            raise Refused("too_many_jobs", text, headers=again)
        id = self._new_id()
        self._receiving.add(id)
        try:
            folder = await asyncio.to_thread(self._jobs.receive, id)
            digest = await receive_file(call.request, folder / UPLOAD)
        except BaseException as error:
            self.discard(id)
            if isinstance(error, OSError):
                raise Refused(
                    "disk_full", f"the file cannot be stored: {error.strerror}"
                ) from error
            raise
        return id, "\0".join((digest, *options, call.request.url.query)).encode()

    def discard(self, id: str) -> None:
        """Remove a received file, unless it was accepted."""
        self._receiving.discard(id)
        self._jobs.discard(id)

    @operation(
        "import",
        "POST /v1/imports",
        answer="It waits for its turn; ask at `Location` for its progress.",
        problems=("not_of_your_brand", "too_large", "too_many_jobs", "disk_full"),
        writes=True,
        keyed=True,
        takes_file=True,
        status=202,
        location="imports/{id}",
    )
    async def start_import(self, call: Call, asked: ImportQuery) -> ImportShown:
        """Import a file of contacts or suppressions.

        The body is the file: CSV, XLSX or NDJSON, at most 2 GiB. It waits for its turn, is imported
        as by `smtpproxy contact import` or `suppress import`, then removed. With a token for some
        brands, every line has to concern these only: contacts of `brand`, or of the brand in the
        line, and suppressions of a `scope` that the token may set. Other lines are rejected.
        """
        options = options_of(call.access, asked, self.now())
        await self._check_replaced(asked, call.access)
        await asyncio.to_thread(self._accept, call.received, asked, options, call.access)
        return await self._found(call.received, call.access)

    def _accept(self, id: str, asked: ImportQuery, options: list[str], access: Access) -> None:
        folder = self._jobs.receive(id)
        if asked.mapping is not None:
            with open(folder / MAPPING, "x", encoding="utf-8", opener=private) as file:
                file.write(asked.mapping)
                flush(file)
        size = (folder / UPLOAD).stat().st_size
        self._jobs.accept(
            ImportJob(
                id,
                asked.kind,
                access.by,
                self.now(),
                asked.dry_run == "true",
                size,
                tuple(options),
                tuple(sorted(access.brands)),
            )
        )

    @operation(
        "import",
        "GET /v1/imports/{id}/rejected",
        answer="Lines, perhaps none.",
        more=_OWN,
        problems=("not_found",),
        places=_ID,
    )
    async def rejected_lines(self, call: Call, asked: RejectedQuery) -> RejectedLines:
        """List the lines of an upload that were not imported, and why.

        Kept for seven days after the import ends.
        """
        id = self._uploaded(call).id
        return await asyncio.to_thread(_rejected, self._jobs.rejected(id), asked)

    @operation(
        "import",
        "POST /v1/imports/{id}/cancel",
        answer="It will stop, or had already ended.",
        more=_OWN,
        problems=("not_found",),
        places=_ID,
        writes=True,
        status=202,
    )
    async def cancel_import(self, call: Call) -> ImportShown:
        """Cancel an uploaded import.

        It stops after the current batch. What was imported stays; undo the import to remove it.
        """
        id = self._uploaded(call).id
        if self._jobs.end(id) is None:
            await asyncio.to_thread(self._jobs.cancel, id)
        return await self._found(id, call.access)

    @operation(
        "import",
        "POST /v1/imports/{id}/undo",
        answer="It waits for its turn to be undone; until then its state is `undoing`.",
        more=_OWN,
        problems=("not_found", "not_undoable"),
        places=_ID,
        writes=True,
        status=202,
    )
    async def undo_import(self, call: Call) -> ImportShown:
        """Undo an import.

        As `smtpproxy import undo` does: later changes by others stay.
        """
        shown = await self._found(call.request.path_params["id"], call.access)
        ended = shown.state in ("complete", "cancelled", "failed", "interrupted")
        if shown.dry_run or (not ended and shown.state != "undoing"):
            raise Refused("not_undoable", f"it is {shown.state}, or was a dry run")
        record = next((one for one in await self.store.imports() if one.id == shown.id), None)
        if record is None:
            raise Refused("not_undoable", "it has imported nothing")
        if record.kind == "contacts" and record.started_at < self.now() - UNDO_FOR:
            text = f"it is older than {UNDO_FOR.days} days: earlier profiles are not kept longer"
            raise Refused("not_undoable", text)
        await asyncio.to_thread(self._jobs.ask_undo, shown.id, call.access.by)
        return await self._found(shown.id, call.access)

    def _uploaded(self, call: Call) -> ImportJob:
        """Raises Refused."""
        job = self._jobs.job(call.request.path_params["id"])
        if job is None or not call.access.sees_import(job.brands):
            raise Refused("not_found", "no upload with that id is kept")
        return job

    async def _check_replaced(self, asked: ImportQuery, access: Access) -> None:
        """Raises Refused. Not before the file is received: to repeat the request that has replaced
        an import gets that one's answer."""
        waiting = await asyncio.to_thread(self._jobs.waiting)
        jobs = [one for one in waiting if access.sees_import(one.brands)]
        records = await self.store.imports()
        seen = [one for one in records if access.sees_import(brands_of(one))]
        check_replaced(asked, [*jobs, *seen], self.now())

    async def _found(self, id: str, access: Access) -> ImportShown:
        """Return an import. Raises Refused when the token sees none of that id."""
        record = next((one for one in await self.store.imports() if one.id == id), None)
        job = self._jobs.job(id)
        shown = self._shown(id, record, job, access, whole=True)
        if shown is None or not _sees(access, record, job):
            raise Refused("not_found", "no import with that id is on record")
        return shown

    def _shown(
        self,
        id: str,
        record: ImportRecord | None,
        job: ImportJob | None,
        access: Access,
        *,
        whole: bool = False,
    ) -> ImportShown | None:
        if record is None and job is None:
            return None
        state = record.state if record else None
        end = self._jobs.end(id) if job is not None else None
        place = record.place if record else None
        is_empty = end is not None and end.outcome == "failed" and not (place and place.lines)
        over = ("complete", "undoing", "undone") if end and not is_empty else ("undoing", "undone")
        if job is not None and state not in over:
            state = self._jobs.state(id)  # type: ignore[assignment]
        if state != "undone" and self._jobs.undoing(id):
            state = "undoing"
        counts = end.result or {} if end and record is None else {}
        ended = record.ended_at if record and record.ended_at else end.at if end else None
        return ImportShown(
            id,
            record.kind if record else job.kind,  # type: ignore[union-attr]
            state,  # type: ignore[arg-type]
            written_time(record.started_at if record else job.created_at),  # type: ignore[union-attr]
            None if ended is None else written_time(ended),
            record.size if record else job.size,  # type: ignore[union-attr]
            place.octets if place else 0,
            place.lines if place else int(counts.get("lines", 0)),
            record.added + record.changed + record.unchanged if record else 0,
            record.erased if record else 0,
            place.rejected if place else int(counts.get("rejected", 0)),
            **(_counts(record) if access.everything else {}),
            dry_run=job is not None and job.dry_run,
            error=end.error if end and end.error else UNSET,
            result=_visible_result(end.result, access) if whole and end and end.result else UNSET,
        )


def _sees(access: Access, record: ImportRecord | None, job: ImportJob | None) -> bool:
    """Return whether a token sees an import: by its record, or before that by its job."""
    if record is not None:
        return access.sees_import(brands_of(record))
    return job is not None and access.sees_import(job.brands)


def _counts(record: ImportRecord | None) -> dict[str, int]:
    names = ("added", "changed", "unchanged", "older")
    return {name: getattr(record, name) if record else 0 for name in names}


_OF_THE_FILE = frozenset({
    "id", "lines", "rejected", "erased", "refusals", "passed", "octets", "encoding", "seconds",
    "dry_run", "outlook",
})  # fmt: skip
"""Keys of a command's result that reveal nothing about what was stored before."""


def _visible_result(result: dict[str, object], access: Access) -> dict[str, object]:
    """Return the command's result without names of files on this machine."""
    kept = {name: value for name, value in result.items() if name not in ("file", "rejected_file")}
    if access.everything:
        return kept
    return {name: value for name, value in kept.items() if name in _OF_THE_FILE}


_COMMENT = re.compile(rb"# line (\d{1,15}): (.*)")


def _rejected(path: Path, asked: RejectedQuery) -> RejectedLines:
    """Read a page of rejected lines, from the octet that `after` names."""
    found: list[RejectedLine] = []
    number, reason, content = 0, "", b""
    with path.open("rb") if exists(path) else io.BytesIO() as file:
        file.seek(asked.after)
        place = asked.after
        while line := file.readline(_LONGEST_LINE):
            comment = _COMMENT.match(line)
            if comment is None:
                if len(content) < _LONGEST_LINE:
                    content += line
            else:
                if number:
                    found.append(_line(number, reason, content))
                if len(found) == asked.limit:
                    return RejectedLines(tuple(found), place)
                number, reason = int(comment[1]), comment[2].decode(errors="replace")
                content = b""
            place = file.tell()
    if number:
        found.append(_line(number, reason, content))
    return RejectedLines(tuple(found), None)


def _line(number: int, reason: str, content: bytes) -> RejectedLine:
    text = content[:_LONGEST_LINE].decode(errors="replace")
    return RejectedLine(number, reason, text.removesuffix("\n"))
