"""Documents and pages from jinja2 templates, which take their words from the texts of a
language."""

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from smtpproxy.locale import PAGE_LANGS, Lang, Phrase, Value, say, texts
from smtpproxy.terminal import printable

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

_STRONG, _PLAIN = "\N{START OF TEXT}", "\N{END OF TEXT}"  # never in what `printable` returns


@cache
def environment(lang: Lang) -> "jinja2.Environment":
    """Return what renders the templates in a language.

    Templates have `say("evidence.title", address=…)`, `rich` of the same whose values may be
    `| strong`, and the filters `number`, `percent`, `date`, `short_date`, `time`, `term`,
    `printable` for what others wrote, and `coded`, which shows what is in backticks as code.
    Everything is escaped, including the texts.
    """
    import jinja2  # with the first page: an idle relay needs none

    from smtpproxy.locale.compiled import compiled_templates

    spoken = texts(lang)
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("smtpproxy.locale", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=compiled_templates(),
        optimized=False,  # else constants would be compiled in as filtered in one language
    )
    made.globals.update(say=_saying(lang), rich=_rich(lang), lang=lang)
    for name in ("number", "percent", "date", "short_date", "time", "term"):
        made.filters[name] = getattr(spoken, name)
    made.filters["coded"] = _coded
    made.filters["printable"] = printable
    made.filters["strong"] = lambda text: f"{_STRONG}{text}{_PLAIN}"
    return made


def load_pages() -> None:
    """Load what pages for people need, in every language, so that no request has to wait for it."""
    for lang in PAGE_LANGS:
        environment(lang).get_template("unsubscribe.html")


def _coded(text: str) -> "Markup":
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _saying(lang: Lang) -> Callable[..., str]:
    def saying(key: str, **values: "Value | list[Value]") -> str:
        said = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return say(Phrase(key, said), lang)  # templates have lists, phrases tuples

    return saying


def _rich(lang: Lang) -> Callable[..., "Markup"]:
    from markupsafe import Markup, escape

    saying = _saying(lang)

    def rich(key: str, **values: "Value | list[Value]") -> "Markup":
        said = escape(saying(key, **values))
        return Markup(
            said.replace(_STRONG, Markup("<strong>")).replace(_PLAIN, Markup("</strong>"))
        )

    return rich
