"""CSV as spreadsheets, databases and providers write it: read, or rejected with a clear reason."""

import io

import pytest

from smtpproxy.policy.model import Audience
from smtpproxy.scrub.formats import open_list
from smtpproxy.store.exchange.layouts import Wanted
from smtpproxy.store.exchange.lines import ImportFault, Read
from smtpproxy.store.exchange.mapping import FIELDS, SUPPRESSION_FIELDS, Mapping, mapping_of
from tests.store.exchange.importing import Importing

ANNA, BERT = "anna@people.example", "bert@people.example"
CONTACTS = {"columns": {"E-mail": "address", "Segment": "audience"}}
SUPPRESSIONS = {
    "columns": {"E-mail": "address", "Commentaire": "note"},
    "constants": {"origin": "complaint"},
}


def contacts_mapping(**keys: object) -> Mapping:
    return mapping_of("m.toml", {**CONTACTS, **keys}, FIELDS)


def suppressions_mapping(**keys: object) -> Mapping:
    return mapping_of("m.toml", {**SUPPRESSIONS, **keys}, SUPPRESSION_FIELDS)


def scrubbed(content: bytes, column: str | None = None) -> list[str]:
    """The addresses that a scrub finds in a list."""
    items = open_list(io.BytesIO(content), column=column).items
    return [item.value.address for item in items if isinstance(item, Read)]


class TestShapes:
    def test_unread_columns_may_share_a_name(self, importing: Importing) -> None:
        content = b"address,audience,x,X,,\n%s,consumer,1,2,,\n" % ANNA.encode()
        assert importing.contacts(content, "csv").added == 1
        content = b"address,scope,origin,tel,Tel\n%s,all,complaint,1,2\n" % ANNA.encode()
        assert importing.suppressions(content).added == 1
        assert importing.suppressed(ANNA)
        assert scrubbed(b"name,email,name\nAnna,%s,x\n" % ANNA.encode()) == [ANNA]
        mapped = b"E-mail,x,Commentaire,x\n%s,1,why,2\n" % BERT.encode()
        wanted = Wanted(mapping=suppressions_mapping())
        assert importing.suppressions(mapped, wanted=wanted).added == 1
        assert [one.note for one in importing.suppressed(BERT)] == ["why"]

    @pytest.mark.parametrize(
        ("content", "name"),
        [
            (b"address,scope,origin,Scope\n", "scope"),
            (b"address,Address,scope,origin\n", "address"),
            (b"email,created,Email\n", "email"),
        ],
    )
    def test_a_column_that_is_read_must_be_unique(
        self, importing: Importing, content: bytes, name: str
    ) -> None:
        with pytest.raises(ImportFault, match=f"line 1: the header has {name} more than once"):
            importing.suppressions(content, wanted=Wanted("spam.csv"))
        with pytest.raises(ImportFault, match="line 1: the header has email more than once"):
            scrubbed(b"email,name,E-Mail,EMAIL\n")
        with pytest.raises(ImportFault, match="line 1: the header has e-mail more than once"):
            importing.contacts(b"E-mail,x,e-mail\na,b,c\n", "csv", contacts_mapping())

    def test_rows_may_end_with_delimiters(self, importing: Importing) -> None:
        content = f"address,scope,origin\n{ANNA},all,complaint,\n{BERT},all,complaint, ,,\n"
        assert importing.suppressions(content.encode()).added == 2
        assert scrubbed(f"email;name\n{ANNA};Anna;;\n".encode()) == [ANNA]
        done = importing.suppressions(b"address,scope,origin\n%s,all,bounce,x\n" % ANNA.encode())
        assert (done.added, done.rejected) == (0, 1)

    @pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
    @pytest.mark.parametrize("wording", [b"a", b'"a\n b"'])
    def test_a_truncated_last_row_gives_no_consent(
        self, importing: Importing, line_end: bytes, wording: bytes
    ) -> None:
        columns = b"consent_purpose,consent_given_at,tags,consent_wording,consent_withdrawn_at"
        row = b"%s,offers,2024-01-01,restricted,%s" % (ANNA.encode(), wording)
        content = b"address,%s\n%s,,,,\n%s" % (columns, BERT.encode(), row)
        content = content.replace(b"\n", line_end)
        done = importing.contacts(content, "csv")
        assert (done.added, done.rejected, done.refusals) == (2, 1, 1)  # the tag counts
        assert importing.contact(ANNA).acts == ()
        assert "5 of 6 cells, and no line end: the file may be cut off here" in importing.rejected
        assert importing.contacts(content + line_end, "csv").rejected == 0
        assert importing.contacts(content + b",2025-01-01", "csv").rejected == 0

    def test_without_a_header_the_last_row_may_be_as_short_as_the_others(
        self, importing: Importing
    ) -> None:
        content = f"{ANNA}\n{BERT}".encode()
        done = importing.suppressions(content, origin="manual", scope="all")
        assert (done.added, done.rejected) == (2, 0)

    def test_rows_of_empty_cells_are_blank_lines(self, importing: Importing) -> None:
        content = f"address;scope;origin\n;;\n{ANNA};all;complaint\n ; ;\n;;;;\n"
        done = importing.suppressions(content.encode())
        assert (done.lines, done.added, done.rejected) == (1, 1, 0)

    @pytest.mark.parametrize("line", [b"sep=;", b'"sep=;"', b"\xef\xbb\xbfSEP=;"])
    def test_excels_delimiter_line_is_understood(self, importing: Importing, line: bytes) -> None:
        content = line + b"\r\naddress;scope;origin;a,b,c,d,e\r\n"
        content += f"{ANNA};all;complaint;1,2\r\nbert;all;complaint;\r\n".encode()
        done = importing.suppressions(content)
        assert (done.added, done.rejected) == (1, 1)
        again = importing.rejected.replace("\nbert;", f"\n{BERT};").encode()
        assert importing.suppressions(again).added == 1
        assert scrubbed(line + f"\nemail;a,b\n{ANNA};1\n".encode()) == [ANNA]

    def test_an_invalid_delimiter_is_rejected(self, importing: Importing) -> None:
        with pytest.raises(ImportFault, match="the header has no column `address`"):
            importing.suppressions(b"\xef\xbb\xbfsep=\xe9\naddress,scope\n")

    def test_a_header_may_hold_the_other_delimiter(self, importing: Importing) -> None:
        content = f"E-mail;Segment;Nom, prénom, titre, ville\n{ANNA};consumer;A, B, C, D\n"
        done = importing.contacts(content.encode(), "csv", contacts_mapping())
        assert (done.added, importing.contact(ANNA).audience) == (1, Audience.CONSUMER)
        content = f'address\tscope\torigin\t"a;b;c;d"\n{ANNA}\tall\tcomplaint\tx;y\n'
        assert importing.suppressions(content.encode()).added == 1
        assert scrubbed(f"email;Nom, prénom, titre\n{BERT};x\n".encode()) == [BERT]

    def test_decimal_commas_are_not_delimiters(self, importing: Importing) -> None:
        content = f"address;Montant,Euro,TTC;scope;origin\n{ANNA};1,5;all;complaint\n"
        assert importing.suppressions(content.encode()).added == 1

    def test_an_undelimited_header_names_the_key_to_set(self, importing: Importing) -> None:
        with pytest.raises(ImportFault, match=r"no column 'e-mail'.*delimiter"):
            importing.contacts(b"E-mail|Segment\nx|y\n", "csv", contacts_mapping())

    def test_a_cell_may_contain_line_breaks(self, importing: Importing) -> None:
        content = f'address,scope,origin,note\n{ANNA},all,complaint,"one\r\ntwo"\n'
        assert importing.suppressions(content.encode()).added == 1

    def test_column_names_are_compared_in_composed_form(self, importing: Importing) -> None:
        mapping = mapping_of("m.toml", {"columns": {"Adresse élec.": "address"}}, FIELDS)
        content = f"Adresse e\u0301lec.\n{ANNA}\n".encode()
        assert importing.contacts(content, "csv", mapping).added == 1


class TestEncodings:
    NOTE = "désinscrit à l’œil – 5 €"

    def note(self, importing: Importing) -> str | None:
        (found,) = importing.suppressed(ANNA)
        return found.note

    def content(self, encoding: str) -> bytes:
        text = f"address;scope;origin;note;Prénom\r\n{ANNA};all;complaint;{self.NOTE};Zoé\r\n"
        return text.encode(encoding)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
    def test_encodings_of_excel_are_recognised(self, importing: Importing, encoding: str) -> None:
        assert importing.suppressions(self.content(encoding)).added == 1
        assert self.note(importing) == self.NOTE

    @pytest.mark.parametrize(
        ("encoding", "mark"),
        [
            *(("utf-16", b""), ("utf-16-le", b""), ("utf-16-be", b""), ("utf-16-be", b"\xfe\xff")),
            ("utf-8-sig", b""),
        ],
    )
    def test_excels_unicode_text_is_recognised(
        self, importing: Importing, encoding: str, mark: bytes
    ) -> None:
        text = self.content("utf-8").decode() + "nobody;all;complaint;;\r\n"
        content = text.replace(";", "\t").encode(encoding)
        assert importing.suppressions(mark + content).added == 1
        assert self.note(importing) == self.NOTE
        assert "# line 3: " in importing.rejected

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
    def test_a_letter_is_not_taken_for_a_line_end(
        self, importing: Importing, encoding: str
    ) -> None:
        content = self.content("utf-8").decode().replace("\r\n", "\r").replace(self.NOTE, "Kovačič")
        assert importing.suppressions(content.encode(encoding)).added == 1
        assert self.note(importing) == "Kovačič"  # U+010D contains the octet of CR

    def test_a_mapping_names_the_encoding(self, importing: Importing) -> None:
        text = f"E-mail;Commentaire\n{ANNA};Été\nbert;Noël\n"
        wanted = Wanted(mapping=suppressions_mapping(encoding="cp850"))
        done = importing.suppressions(text.encode("cp850"), wanted=wanted)
        assert (done.added, done.rejected, self.note(importing)) == (1, 1, "Été")
        # FILE.rejected is UTF-8 and says so, whatever the mapping says.
        assert importing.rejected.startswith("\ufeff")
        again = importing.rejected.replace("\nbert;", f"\n{BERT};").encode()
        assert importing.suppressions(again, wanted=wanted).added == 1
        assert [one.note for one in importing.suppressed(BERT)] == ["Noël"]

    def test_a_file_not_in_the_named_encoding_is_rejected(self, importing: Importing) -> None:
        wanted = Wanted(mapping=suppressions_mapping(encoding="utf-16"))
        with pytest.raises(ImportFault, match="not characters of utf-16-le"):
            importing.suppressions(f"E-mail;Commentaire\n{ANNA};Été\n".encode(), wanted=wanted)

    def test_invalid_octets_are_rejected(self, importing: Importing) -> None:
        content = self.content("cp1252") + b"bert@people.example;all;complaint;\x81;\r\n"
        done = importing.suppressions(content)
        assert (done.added, done.rejected, done.refusals) == (2, 1, 1)
        assert "octet 0x81 at place 35" in importing.rejected
        wanted = Wanted(mapping=suppressions_mapping(encoding="cp1252"))
        content = f"E-mail;Commentaire\n{ANNA};\n{BERT};".encode() + b"\x81\n"
        assert importing.suppressions(content, wanted=wanted).rejected == 1
        assert "not cp1252 (octet 0x81 at place 21)" in importing.rejected

    def test_nul_octets_are_rejected(self, importing: Importing) -> None:
        content = b"address,scope,origin,note\n%s,all,complaint,a\0b\n" % ANNA.encode()
        assert importing.suppressions(content).rejected == 1
        assert "line 2: it contains a NUL octet" in importing.rejected

    @pytest.mark.parametrize("name", ["klingon", "rot13", "base64", "utf-7", "idna", 5, ""])
    def test_an_unknown_encoding_is_rejected(self, name: object) -> None:
        with pytest.raises(ImportFault, match=r"m\.toml: encoding: .*cp1252"):
            contacts_mapping(encoding=name)

    def test_lists_to_scrub_are_decoded_too(self) -> None:
        for encoding in ("cp1252", "utf-16", "utf-8-sig"):
            assert scrubbed(f"email;Prénom\r\n{ANNA};Zoé\r\n".encode(encoding)) == [ANNA]
            assert scrubbed(f"{ANNA}\r\n".encode(encoding)) == [ANNA]

    def test_a_rejected_file_is_guessed_again(self, importing: Importing) -> None:
        text = f"address;scope;origin;note;Prénom\nbert;all;complaint;{self.NOTE};Zoé\n"
        importing.suppressions(text.encode("cp1252"))
        content = importing.path.with_name("file.rejected").read_bytes()
        assert content.splitlines()[::2] == text.encode("cp1252").splitlines()
        again = importing.suppressions(content.replace(b"\nbert;", f"\n{ANNA};".encode()))
        assert (again.added, self.note(importing)) == (1, self.NOTE)
