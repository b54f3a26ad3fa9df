"""Imports into a store, run as the commands run them."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from smtpproxy.policy.model import Contact, Suppression
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store
from smtpproxy.store.exchange import contact_csv, contact_ndjson, suppression_file
from smtpproxy.store.exchange.files import RejectedFile, Source
from smtpproxy.store.exchange.layouts import Wanted
from smtpproxy.store.exchange.lines import Contents, read_lines
from smtpproxy.store.exchange.mapping import PLAIN, Mapping
from smtpproxy.store.exchange.run import Format, Import, Progress
from smtpproxy.store.exchange.suppression_record import Defaults
from smtpproxy.store.sql.store import Store

T = TypeVar("T")
A = TypeVar("A")

FILE_TIME = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


class Importing:
    """A store, and a file to import into it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "file"
        self._database = folder / "imported" / "store.db"

    @property
    def rejected(self) -> str:
        """The content of FILE.rejected; empty if there is no such file."""
        path = self.path.with_name("file.rejected")
        return path.read_bytes().decode(errors="replace") if path.exists() else ""

    def contacts(
        self,
        content: bytes,
        file_format: Format = "ndjson",
        mapping: Mapping | None = PLAIN,
        as_of: datetime = FILE_TIME,
        wanted: Wanted | None = None,
    ) -> Progress:
        self.path.write_bytes(content)
        with Source(self.path) as file:
            if file_format == "ndjson":
                return self.import_open(file, as_of)
            lines = read_lines(file, mapping.encoding if mapping else None)
            contents = contact_csv.read_csv(lines, mapping, as_of, wanted)
            return self._run(file, contents, "put_contacts")

    def import_open(self, file: BinaryIO, as_of: datetime = FILE_TIME) -> Progress:
        contents = contact_ndjson.read_ndjson(read_lines(file), as_of)
        return self._run(file, contents, "put_contacts")

    def suppressions(
        self,
        content: bytes,
        file_format: Format = "csv",
        wanted: Wanted | None = None,
        **defaults: str,
    ) -> Progress:
        self.path.write_bytes(content)
        csv = file_format == "csv"
        read = suppression_file.read_csv if csv else suppression_file.read_ndjson
        encoding = wanted.mapping.encoding if wanted and wanted.mapping else None
        with Source(self.path) as file:
            contents = read(read_lines(file, encoding), Defaults(FILE_TIME, **defaults), wanted)
            return self._run(file, contents, "add_suppressions")

    def _run(self, file: BinaryIO, contents: Contents[T], put: str) -> Progress:
        aside = RejectedFile(self.path.with_name("file.rejected"))
        run = Import(file, contents, aside, lambda _: None)
        try:
            self._ask(lambda store: run.into(lambda items, _: getattr(store, put)(items)))
        finally:
            aside.close()
        return run.progress

    def contact(self, address: str) -> Contact:
        found = self._ask(lambda store: store.contact(address))
        assert found is not None
        return found

    def suppressed(self, address: str) -> list[Suppression]:
        return list(self._ask(lambda store: store.suppressions(address)))

    def count(self) -> tuple[int, int]:
        """Numbers of contacts and suppressions."""
        contacts, suppressions = self._ask(lambda store: store.counts())
        return contacts, sum(suppressions.values())

    def _ask(self, use: Callable[[Store], Coroutine[Any, Any, A]]) -> A:
        async def ask() -> A:
            store = open_store(StoreSettings(f"sqlite://{self._database}"), self._database.parent)
            try:
                return await use(store)
            finally:
                await store.close()

        return asyncio.run(ask())
