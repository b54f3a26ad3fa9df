"""`smtpproxy consent export`: receipts of what people agreed to."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import BinaryIO
from uuid import uuid4

import click

from smtpproxy.cli import fail
from smtpproxy.cli.options import canonical_address, config_option, output_option
from smtpproxy.cli.printer import json_bytes
from smtpproxy.cli.stores import using_store
from smtpproxy.clock import now
from smtpproxy.evidence.receipt import NoReceipt, receipt
from smtpproxy.policy.model import Lookups, RecipientFacts
from smtpproxy.settings import Settings
from smtpproxy.store.protocols import Store

_BATCH = 500


@click.command("export")
@click.argument("address", type=canonical_address, required=False)
@output_option
@config_option
def export(settings: Settings, address: str | None, output: BinaryIO) -> int:
    """Write the consent receipt of ADDRESS as JSON-LD, or that of everybody, one a line.

    A receipt says who agreed to what with whom, when, how and by which text, and what was
    withdrawn, in the words of W3C's Data Privacy Vocabulary after ISO/IEC TS 27560.
    """

    def written(facts: RecipientFacts, indent: int | None) -> bytes | None:
        try:
            made = receipt(settings, facts, identifier=str(uuid4()), at=now())
        except NoReceipt as error:
            fail(str(error), 2)
        return None if made is None else json_bytes(made, indent=indent) + b"\n"

    async def write(store: Store) -> None:
        if address is not None:
            facts = await store.facts(Lookups((address,)))
            document = written(facts[address], 2) if address in facts else None
            if document is None:
                fail(f"{address}: no consent is on record")
            output.write(document)
            return
        async for batch in _batches(store):
            facts = await store.facts(Lookups(tuple(batch)))
            for each in batch:
                line = written(facts[each], None)
                if line is not None:
                    output.write(line)

    using_store(settings, write, read_only=True)
    return 0


async def _batches(store: Store) -> AsyncIterator[Sequence[str]]:
    """Yield the addresses of those who ever agreed to something."""
    batch: list[str] = []
    async with aclosing(store.export_contacts()) as contacts:
        async for contact in contacts:
            if contact.acts:
                batch.append(contact.address)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    if batch:
        yield batch
