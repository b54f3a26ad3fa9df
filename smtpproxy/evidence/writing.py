"""A document in Markdown or as one HTML page that needs nothing else."""

import re
from collections.abc import Iterator, Sequence
from html import escape

from smtpproxy.evidence.document import Block, Facts, Heading, Paragraph, Table
from smtpproxy.locale.texts import Lang

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem }
h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ccc }
h3 { font-size: 1rem }
table { border-collapse: collapse; width: 100%; font-size: .85rem }
th, td { border: 1px solid #ccc; padding: .3rem .5rem; text-align: left;
  vertical-align: top; overflow-wrap: break-word }
th { background: #f2f2f2 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem }
dt { font-weight: 600 }
dd { margin: 0 }
@media print { body { margin: 0; max-width: none } h2 { break-after: avoid }
  tr { break-inside: avoid } }
"""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!])")


def markdown(blocks: Sequence[Block]) -> str:
    """Return the document in Markdown, tables as GitHub and Pandoc read them."""
    return "\n".join(line for block in blocks for line in (*_markdown(block), ""))


def _markdown(block: Block) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            yield _plain(text)
        case Facts(rows):
            yield from (f"- **{_plain(name)}**: {_plain(value)}" for name, value in rows)
        case Table(headings, cells):
            yield f"| {' | '.join(map(_plain, headings))} |"
            yield f"|{'-|' * len(headings)}"
            yield from (f"| {' | '.join(map(_plain, row))} |" for row in cells)


def _plain(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def html(blocks: Sequence[Block], lang: Lang) -> str:
    """Return the document as a page of its own: no script, no link, fit to be printed."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "")
    body = "\n".join(part for block in blocks for part in _html(block))
    return (
        f'<!DOCTYPE html>\n<html lang="{lang}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _html(block: Block) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            yield f"<p>{escape(text)}</p>"
        case Facts(rows):
            pairs = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
            yield f"<dl>{''.join(pairs)}</dl>"
        case Table(headings, cells):
            yield f"<table><thead>{_row('th', headings)}</thead><tbody>"
            yield from (_row("td", row) for row in cells)
            yield "</tbody></table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
