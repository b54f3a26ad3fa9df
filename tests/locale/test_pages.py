"""Pages in every language share their templates."""

import jinja2
import pytest

from smtpproxy.locale import PAGE_LANGS, Phrase, say
from smtpproxy.locale.compiled import compiled_templates
from smtpproxy.locale.pages import environment


def test_a_template_is_compiled_once_for_all_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled for each language, templates would dominate the start of the web process."""
    compiled: list[str] = []
    compile = jinja2.Environment.compile

    def counted(self: jinja2.Environment, source: str, name: str, *more: object) -> object:
        compiled.append(name)
        return compile(self, source, name, *more)

    monkeypatch.setattr(jinja2.Environment, "compile", counted)
    compiled_templates.cache_clear()
    environment.cache_clear()
    for lang in PAGE_LANGS:
        page = environment(lang).get_template("unsubscribe.html")
        title = "".join(page.blocks["title"](page.new_context({"state": "ask"})))
        assert title == say(Phrase("page.title.ask"), lang)
    assert compiled == ["unsubscribe.html"]


def test_escaping_templates_are_compiled_separately() -> None:
    """The code of a template that does not escape must never serve a page."""
    codes = compiled_templates()
    for escapes, text in ((True, "&lt;b&gt;"), (False, "<b>"), (True, "&lt;b&gt;")):
        made = jinja2.Environment(
            loader=jinja2.DictLoader({"one": "{{ text }}"}),
            autoescape=escapes,
            bytecode_cache=codes,
        )
        assert made.get_template("one").render(text="<b>") == text
