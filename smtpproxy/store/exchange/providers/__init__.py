"""Exports of mail providers: how each is laid out, as data with its sources.

`NAME.toml` of this package holds the layouts of one provider: the columns that a file is
recognised by, and below them what a mapping file says (`exchange.mapping`). `confirmed`
says how far the columns are known: from `documentation` (or source) of the provider, from
its `api`, from programs of `others`, or from `nothing` but general knowledge.
"""

from functools import cache
from importlib import resources
from pathlib import PurePath

from smtpproxy.store.exchange.csv_rows import column_key
from smtpproxy.store.exchange.lines import ImportFault
from smtpproxy.store.exchange.providers.layout import Kind, Layout, read_layouts

__all__ = ["PROVIDERS", "Kind", "Layout", "known_columns", "layouts", "named", "recognise"]

PROVIDERS = (
    "sendgrid",
    "ses",
    "mailgun",
    "postmark",
    "mailchimp",
    "mailjet",
    "brevo",
    "listmonk",
)


@cache
def layouts(kind: Kind) -> tuple[Layout, ...]:
    """Return every layout of `kind`, by provider."""
    folder = resources.files(__name__)
    return tuple(
        layout
        for name in PROVIDERS
        for layout in read_layouts(name, folder.joinpath(f"{name}.toml").read_text("utf-8"))
        if layout.kind == kind
    )


@cache
def known_columns(kind: Kind) -> frozenset[str]:
    """Return the keys of all columns that an export of `kind` is known by."""
    return frozenset(
        column_key(name) for layout in layouts(kind) for name in (*layout.header, *layout.also)
    )


def named(kind: Kind, name: str) -> tuple[Layout, ...]:
    """Return the layouts that `name` means: one by its own name, or all of a provider."""
    return tuple(layout for layout in layouts(kind) if name in (layout.name, layout.provider))


def recognise(
    columns: tuple[str, ...],
    kind: Kind,
    *,
    file_name: str = "",
    name: str | None = None,
    origin: str = "",
) -> Layout | None:
    """Return the one layout that a file with these columns has, or None.

    The most telling header wins, then what the file's name hints at. `name` is of a
    layout or a provider; `origin` leaves out layouts whose rows are all of another.

    Raises:
        ImportFault: several fit, or none of those that were asked for; the text names them.
    """
    asked = named(kind, name) if name else layouts(kind)
    found = [one for one in asked if one.fits(columns) and one.may_be(origin)]
    found = [one for one in found if not any(one.says_less_than(other) for other in found)]
    if len(found) > 1:
        lowered = PurePath(file_name).name.casefold()
        hinted = [one for one in found if one.is_hinted(lowered)]
        found = hinted if len(hinted) == 1 else found
    if len(found) > 1:
        raise ImportFault(
            f"the header fits several exports: {', '.join(one.name for one in found)}; "
            "say which it is with --format"
        )
    if name and not found:
        wanted = "; ".join(f"{one.name} has {', '.join(one.header)}" for one in asked)
        raise ImportFault(f"the header has not the columns of {name}: {wanted}"[:400])
    return found[0] if found else None
