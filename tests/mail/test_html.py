"""The visible text of HTML."""

import pytest

from smtpproxy.mail.mime import Body, TextPart
from smtpproxy.mail.visible_html import Way, read_html
from smtpproxy.mail.visible_text import VisibleText, folded, visible_text

VOID = ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"]
SEEN = [
    ("<p>one<br>two</p>three", "one two three"),
    ("Un<b>sub</b><wbr>scribe", "Unsubscribe"),
    # elements are inline except those that break the line
    ("<nobr>1 rue A</nobr>, <st1:City w:st=on>Paris</st1:City>, <q>b</q>c", "1 rue A, Paris, bc"),
    *((f"a<{name}>b</{name}>c", "abc") for name in ("s", "strike", "label", "time", "x-y", "o:p")),
    *((f"a<{name}>b</{name}>c", "a b c") for name in ("p", "h4", "TD", "dt", "form", "button")),
    ("&Eacute;t&eacute; &#233; &#xE9; &amp;lt; &nope;", "Été é é &lt; &nope;"),
    ("<head><title>t</title></head><body>b", "b"),
    ("<head><title>t</title><body>b", "b"),
    ("a<style>p{}</style>b<script>if (1<2) x='</p>'</script>c", "a b c"),
    ("a<!-- <p> x -->b", "ab"),
    ("a<!-- never closed", "a"),
    ("a<!-- x --!>b<!-- -- !> -->c", "abc"),
    ("1 < 2 <> 3", "1 < 2 <> 3"),
    ("a<div style='display: none'>x<div>y</div>z</div>b", "a b"),
    ('a<DIV STYLE="color:red;DISPLAY:NONE!important">x</DIV>b', "a b"),
    ("a<span hidden>x</span>b<p hidden>y<p>c", "ab c"),
    ("a<span style='visibility:hidden'>x</span><font style=font-size:0px>y</font>b", "ab"),
    ("<span style='font-size:0.9em'>small</span>", "small"),
    # templates set font size 0 around columns, and another size inside
    (
        '<table><tr><td style="direction:ltr;font-size:0px;padding:20px 0;"><!--[if mso | IE]>'
        '<table><![endif]--><div class="mj-column-per-100" style="font-size:0px;width:100%;">'
        '<table><tr><td align="left" style="font-size:0px;padding:10px 25px;"><div style="'
        'font-family:Ubuntu;font-size:13px;">a</div></td></tr></table></div></td></tr></table>b',
        "a b",
    ),
    (
        "<p style='font-size:0'>a<b style='font:bold 1px/2 x'>b</b>c<i style='font-size:1em'>d</i>",
        "b",
    ),
    ("<td style='font:0/0 a'>a<td>b</td>c</td>d", "d"),
    ("<p style='font-size: .0PX'>a<p>b", "b"),
    ("<p Style='opacity:0'>a<p>b<i style='max-height:0px;overflow:hidden'>c</i>", "b"),
    ("<i style='opacity:0.9;max-height:20px;font-size:12px'>a</i>", "a"),
    ("<i style='opacity:.0'>a</i><i style='opacity: 0.00 !important'>b</i>c", "c"),
    ("<i style='display/**/:/* x */none'>a</i><b style='visibility:collapse'>b</b>c", "c"),
    # the last of two declarations counts, unless the first is important
    ("<i style='display:none;DISPLAY:block'>a</i><i style='opacity:0;opacity:1'>b</i>", "ab"),
    ("<i style='display:none ! important;display:block'>a</i>", ""),
    ("<i style='display:none!important;display:block!important'>a</i>", "a"),
    # or unless browsers do not understand it
    ("<i style='display:none;display:x'>a</i><i style='opacity:0;opacity:1x'>b</i>c", "c"),
    ("<i style='max-height:0;max-height:9zz'>a</i><i style='font-size:0;font-size:x'>b</i>c", "c"),
    ("<i style='font-size:0;font-size:12zz'>a</i>b", "b"),
    (
        "<i style='visibility:hidden;visibility:visible'>a</i><i style='opacity:0;opacity:50%'>b",
        "ab",
    ),
    (
        "<p style='font-size:0'>a<i style='font-size:x-large'>b</i><i style='font-size:13'>c</i>",
        "bc",
    ),
    ("<i style='display:none;display:table-cell!important'>a</i>", "a"),
    ("<i hidden style='display:block'>a</i>", "a"),
    ("<span class=hidden-xs data-hidden=1>shown</span>", "shown"),
    (
        "<i class='a hidden b' title='a hidden gem'>a</i><b data-a1='b style=display:none'>c</b>",
        "ac",
    ),
    ("a<a href='/'style='display:none'>b</a>c<i id=x hidden='' >d</i><i HIDDEN=hidden>e</i>", "ac"),
    (f"<i style{' ' * 20}='display{' ' * 20}:{' ' * 20}none'>a</i>b", "b"),
    (f"<i data-{'x' * 99}style='display:none'>a</i>b", "ab"),
    ('<img alt="a>b" src=x>c', "c"),
    ("a<img style='display:none' src=x><br hidden>b", "a b"),
    ("<div hidden>a<br><b>c</b></div>d", "d"),
    (f"{''.join(f'<{name} hidden>' for name in VOID)}a", "a"),
    ("<p style='font-size:0'>a<i style='font-size:90%'>b</i>", ""),
    ("<i style='font-size:0%'>a</i>b", "b"),
    ("<i style='display: none ;color:red'>a</i><i style='font-size: 0 ;color:red'>b</i>c", "c"),
    ("<div style='font-size:0'>a<b>b</b>c<div style='font-size:9px'>d</div>e</div>f", "d f"),
    ("<p style='font-size:0'>a<i style='font-size:calc(1em + 9px)'>b</i>", "b"),
    ("<p style='font-size:0'>a</p><i style='mso-ansi-font-size:0'>b</i>", "b"),
    ("<a title='never closed>c", "c"),
    # as in real templates: a stray quote, a head inside the body or never closed
    ('<td height="1""><img src="a.gif" border=0">a</td><b c="d">e</b>', "a e"),
    ('<body background=""http://a.example/b.gif" class="c"><p>a</p>', "a"),
    ('<font color=#66FF66">a<font size="5">b', "ab"),
    ('<a href="/ target="_blank">a</a> b <i id="c">d</i>', "a b d"),
    ('<div style="padding: 3px;><a href="/b">a</a><b id="c">d', "ad"),
    ("<body bgcolor=white><head><title>t</title><div>a", "a"),
    ("<head><meta x><style>p{}</style><div>a</div><head>b", "a b"),
    ("<head><title>t</title>a<script>if (1<'2') x=\"</p>\"</script>b", "a b"),
    ("a<!-->b<!--->c<?php echo '<p>' ?>d", "abc' ?>d"),
    ("&#99999999999999999999999999;x", ";x"),
    ("a</p", "a"),
    *((f"<{name}>a<{name}>b</{name}>c", "c") for name in ("script", "title", "textarea")),
    ("<style>a<style>b</style>c<script>'<!--'</script>d", "c d"),
    ("<textarea>a</textarea><noscript>b</noscript><template>c</template>d", "d"),
    ("<STYLE>a</style>b<style>c</STYLE>d", "b d"),
    ("<!doctype html><?xml?>a", "a"),
    ("", ""),
]


@pytest.mark.parametrize(("source", "text"), SEEN)
def test_visible_text(source: str, text: str) -> None:
    assert " ".join(read_html(source).text.split()) == text


LINKS = [
    ('<a href="https://x.example/?a=1&amp;b=2">', ("https://x.example/?a=1&b=2",)),
    ("<A class=b HREF=https://x.example/>t</A>", ("https://x.example/",)),
    ("<A title='a > b' href = ' mailto:a@b '>", ("mailto:a@b",)),
    ("<a style=display:none href=https://x.example/>", ()),
    ("<div hidden><a href=https://x.example/></a></div>", ()),
    ("<img src=https://x.example/><a name=x><a href=''>", ()),
    ("<link href=https://x.example/><base href=https://x.example/>", ()),
    (
        f"<a {'x' * 99}href=https://y.example/ href{' ' * 20}=https://x.example/>",
        ("https://x.example/",),
    ),
    ("<area href=https://x.example/>", ("https://x.example/",)),
    ("<p style='font-size:0'><a href=https://x.example/>a</a>", ()),
    (
        "<p style='font-size:0'><i style='font-size:9px'><a href=https://x.example/>a</a>",
        ("https://x.example/",),
    ),
]


@pytest.mark.parametrize(("source", "links"), LINKS)
def test_visible_links(source: str, links: tuple[str, ...]) -> None:
    assert tuple(way.target for way in read_html(source).ways if way.target) == links


def test_most_readers_see_the_html() -> None:
    plain = TextPart(True, "Plain https://p.example/x).")
    html = TextPart(False, "<p>HTML <a href='https://h.example/'>here</a> https://t.example</p>")
    assert visible_text(Body((plain,), whole=True)) == VisibleText(
        "plain https://p.example/x).",
        ("https://p.example/x",),
        ways=(Way("https://p.example/x", 6, 27, (0, 27)),),
    )
    links = visible_text(
        Body((TextPart(True, "http://p.example or MailTo:a@b.example"),), True)
    ).links
    assert links == ("http://p.example", "MailTo:a@b.example")
    unshown = TextPart(True, plain.text, shown=False)
    assert visible_text(Body((unshown, html), whole=False)) == VisibleText(
        "html here https://t.example",
        ("https://h.example/", "https://t.example"),
        whole=False,
        ways=(Way("https://h.example/", 5, 9, (0, 27)), Way("https://t.example", 10, 27, (0, 27))),
    )


def test_folding_of_text() -> None:
    assert folded("  SE\u00a0désInscrire\u200b\r\n ici ") == "se desinscrire ici"
    assert folded("De\u0301sinscrire") == folded("Désinscrire")
    assert folded("Straße") == "strasse"
    assert folded("ACME’s ‘x’ a‐b‑c–d—e “f” „g“") == 'acme\'s \'x\' a-b-c-d-e "f" "g"'
    assert folded("Ạ Ｓｔｏｐ 𝐒𝐭𝐨𝐩 𝕾𝖙𝖔𝖕") == "a stop stop stop"
