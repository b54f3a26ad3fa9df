"""`smtpproxy contact export ADDRESS --evidence`: the answer to a request about one address."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import click

from smtpproxy.cli.audit_verify import progress_bar
from smtpproxy.cli.common import fail
from smtpproxy.cli.printer import json_bytes
from smtpproxy.cli.stores import now, private
from smtpproxy.evidence.document import document
from smtpproxy.evidence.gather import evidence, evidence_object
from smtpproxy.evidence.writing import html, markdown
from smtpproxy.locale.texts import Lang
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import verify as journal_verify
from smtpproxy.sinks.audit.chain import Head

_HTML = (".html", ".htm")


def write_evidence(
    settings: Settings,
    address: str,
    output: BinaryIO,
    lang: Lang,
    *,
    kept: Sequence[Head] = (),
    as_json: bool,
) -> int:
    """Write the document to `output`, and beside a file the same as JSON; return the exit code.

    HTML to a file named so, else Markdown; JSON alone where it is asked for, or the file is
    named so. 1: something is wrong with the audit log, and the document says so.
    """
    path = None if output is sys.stdout.buffer else Path(output.name)
    suffix = path.suffix.lower() if path else ""
    as_json = as_json or suffix == ".json"
    controller = settings.controller
    if controller is None and not as_json:
        fail(
            "controller: not set, and the document has to say who processes the data, and why"
            " (RGPD 15(1)); add [controller] to the configuration (docs/settings.md),"
            " or ask for --json",
            2,
        )
    folder = settings.server.state_dir / "audit"
    with progress_bar(journal_verify.size(folder)) as looked:
        found = evidence(settings, address, at=now(), kept=kept, looked=looked)
    data = json_bytes(evidence_object(found)) + b"\n"
    if as_json or controller is None:
        output.write(data)
    else:
        blocks = document(found, controller, lang)
        text = html(blocks, lang) if suffix in _HTML else markdown(blocks, lang)
        output.write(text.encode("utf-8", "backslashreplace"))
        if path is not None:
            with open(path.with_suffix(".json"), "wb", opener=private) as beside:
                beside.write(data)
    if found.chain.wrong:
        click.echo("The audit log is not as it was written: see smtpproxy audit verify", err=True)
        return 1
    return 0
