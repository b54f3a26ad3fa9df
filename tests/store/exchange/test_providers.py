"""Exports of mail providers: recognised by their header, with origin, scope and date."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.policy.model import Origin
from smtpproxy.store.exchange.layouts import (
    NO_SUPPRESSION,
    PROVIDERS,
    Layout,
    Wanted,
    layouts,
    read_layouts,
    recognised,
)
from smtpproxy.store.exchange.lines import ImportFault
from smtpproxy.store.exchange.mapping import MappingFault
from tests.kit.soak import times
from tests.store.exchange.importing import FILE_TIME, Importing

ANNA = "anna@people.example"
NOON = datetime(2024, 3, 1, 12, 0, tzinfo=UTC)
EPOCH = str(int(NOON.timestamp()))

EXPORTS = [
    (
        "sendgrid-bounces",
        "bounces.csv",
        f'status,reason,email,created\n5.1.1,"550 5.1.1, no such user",{ANNA},{EPOCH}\n',
        ("all", "bounce", NOON),
    ),
    (
        "sendgrid-blocks",
        "suppression_blocks.csv",
        f"status,reason,email,created\n4.0.0,blocked,{ANNA},{EPOCH}\n",
        ("all", "manual", NOON),
    ),
    (
        "sendgrid-invalid-emails",
        "x.csv",
        f"reason,email,created\nno MX,{ANNA},2024-03-01T12:00:00Z\n",
        ("all", "bounce", NOON),
    ),
    (
        "sendgrid-spam-reports",
        "x.csv",
        f"email,created,ip\n{ANNA},{EPOCH},192.0.2.1\n",
        ("all", "complaint", NOON),
    ),
    (
        "sendgrid-global-unsubscribes",
        "suppression_unsubscribes.csv",
        f"email,created\n{ANNA},{EPOCH}\n",
        ("marketing", "unsubscribe", NOON),
    ),
    (
        "sendgrid-group-unsubscribes",
        "group-offers.csv",
        f"email,created\n{ANNA},{EPOCH}\n",
        ("marketing", "unsubscribe", NOON),
    ),
    (
        "ses-suppressions",
        "x.csv",
        f"EmailAddress,Reason,LastUpdateTime\n{ANNA},COMPLAINT,2024-03-01T12:00:00Z\n",
        ("all", "complaint", NOON),
    ),
    (
        "mailgun-bounces",
        "x.csv",
        f'address,code,error,created_at\n{ANNA},550,no,"Fri, 01 Mar 2024 12:00:00 UTC"\n',
        ("all", "bounce", NOON),
    ),
    (
        "mailgun-complaints",
        "x.csv",
        f'address,created_at\n{ANNA},"Fri, 01 Mar 2024 13:00:00 +0100"\n',
        ("all", "complaint", NOON),
    ),
    (
        "mailgun-unsubscribes",
        "x.csv",
        f'address,tags,created_at\n{ANNA},*,"Fri, 01 Mar 2024 12:00:00 GMT"\n',
        ("marketing", "unsubscribe", NOON),
    ),
    (
        "postmark-suppressions",
        "x.csv",
        "EmailAddress,SuppressionReason,Origin,CreatedAt\n"
        f"{ANNA},HardBounce,Recipient,2024-03-01T07:00:00-05:00\n",
        ("all", "bounce", NOON),
    ),
    (
        "mailchimp-unsubscribed",
        "unsubscribed_members_export.csv",
        '"Email Address","First Name",MEMBER_RATING,OPTIN_TIME,UNSUB_TIME,UNSUB_REASON\n'
        f'{ANNA},Anna,2,"2020-01-01 00:00:00","2024-03-01 12:00:00","NORMAL"\n',
        ("marketing", "unsubscribe", NOON),
    ),
    (
        "mailchimp-cleaned",
        "cleaned_members_export.csv",
        '"Email Address",MEMBER_RATING,CLEAN_TIME,CLEAN_CAMPAIGN_TITLE\n'
        f'{ANNA},2,"2024-03-01 12:00:00",Spring\n',
        ("all", "bounce", NOON),
    ),
    (
        "mailjet-list",
        "x.csv",
        f"Email,IsUnsubscribed,UnsubscribedAt\n{ANNA},True,2024-03-01T12:00:00Z\n",
        ("marketing", "unsubscribe", NOON),
    ),
    (
        "mailjet-exclusions",
        "x.csv",
        f"ID,Email,IsExcludedFromCampaigns,CreatedAt\n1,{ANNA},true,2020-01-01T00:00:00Z\n",
        ("marketing", "unsubscribe", FILE_TIME),
    ),
    (
        "brevo-blocklisted",
        "x.csv",
        "CONTACT ID;EMAIL;FIRSTNAME;BLACKLISTED;ADDED_TIME;MODIFIED_TIME\n"
        f"7;{ANNA};Anna;1;01-01-2020 00:00:00;01-03-2024 12:00:00\n",
        ("marketing", "unsubscribe", NOON),
    ),
    (
        "brevo-blocklisted",
        "of-the-api.csv",
        "EMAIL;_SUBSCRIBED;_BLOCKLISTED;ADDED_TIME;MODIFIED_TIME\n"
        f"{ANNA};[];[whatsapp_marketing|sms_marketing|email_marketing];01-01-2020;01-03-2024\n",
        ("marketing", "unsubscribe", datetime(2024, 3, 1, 23, 59, 59, 999_999, tzinfo=UTC)),
    ),
    (
        "brevo-blocked",
        "x.csv",
        f"email,reason,blockedAt\n{ANNA},contactFlaggedAsSpam,2024-03-01T12:00:00.000+00:00\n",
        ("all", "complaint", NOON),
    ),
    (
        "listmonk-subscribers",
        "subscribers.csv",
        "uuid,email,name,attributes,status,created_at,updated_at\n"
        f'u-1,{ANNA},Anna,"{{""city"": ""Lyon""}}",blocklisted,'
        "2020-01-01 00:00:00 +0000 UTC,2024-03-01 13:00:00.5 +0100 CET\n",
        ("marketing", "unsubscribe", NOON.replace(microsecond=500_000)),
    ),
]


@pytest.mark.parametrize(
    ("name", "file", "content", "expected"), EXPORTS, ids=lambda v: str(v)[:20]
)
def test_an_export_is_recognised_by_its_header(
    importing: Importing, name: str, file: str, content: str, expected: tuple[str, str, datetime]
) -> None:
    done = importing.suppressions(content.encode(), wanted=Wanted(file))
    assert (done.added, done.rejected) == (1, 0), importing.rejected
    (found,) = importing.suppressed(ANNA)
    assert (found.scope, found.origin, found.since) == expected


def test_every_layout_has_an_example() -> None:
    tested = dict.fromkeys(name for name, *_ in EXPORTS)
    assert [layout.name for layout in layouts("suppressions")] == list(tested)
    assert {layout.provider for layout in layouts("suppressions")} == set(PROVIDERS)


def test_layouts_have_known_origins_and_name_their_provider() -> None:
    for layout in layouts("suppressions"):
        constants = [layout.mapping.constants, *(when.constants for when in layout.when)]
        origins = {each["origin"] for each in constants if "origin" in each}
        origins |= set(layout.mapping.values.get("origin", {}).values())
        assert origins, layout.name
        assert origins <= {*map(str, Origin), NO_SUPPRESSION}, layout.name
    for layout in (*layouts("suppressions"), *layouts("contacts")):
        assert layout.name.startswith(f"{layout.provider}-")


@pytest.mark.parametrize(
    ("name", "file", "content", "expected"), EXPORTS, ids=lambda v: str(v)[:20]
)
def test_a_format_can_be_named(
    importing: Importing, name: str, file: str, content: str, expected: tuple[str, str, datetime]
) -> None:
    importing.suppressions(content.encode(), wanted=Wanted(layout=name))
    (found,) = importing.suppressed(ANNA)
    assert (found.scope, found.origin, found.since) == expected


def test_an_export_that_is_named_may_have_columns_that_are_new(importing: Importing) -> None:
    content = f"address,code,error,created_at,hash\n{ANNA},550,no,2026-01-05T09:00:00Z,x\n".encode()
    with pytest.raises(ImportFault, match="does not have the columns of mailgun"):
        importing.suppressions(content, wanted=Wanted(layout="mailgun"))
    assert importing.suppressions(content, wanted=Wanted(layout="mailgun-bounces")).added == 1
    assert importing.suppressed(ANNA)[0].origin == "bounce"


class TestAmbiguous:
    CONTENT = f"email,created\n{ANNA},{EPOCH}\n".encode()

    def test_the_candidates_are_named(self, importing: Importing) -> None:
        with pytest.raises(ImportFault) as caught:
            importing.suppressions(self.CONTENT, wanted=Wanted("list.csv"))
        assert "sendgrid-spam-reports, sendgrid-global-unsubscribes, sendgrid-group" in str(
            caught.value
        )
        assert "--format" in str(caught.value)
        assert importing.count() == (0, 0)

    def test_naming_the_provider_is_not_enough(self, importing: Importing) -> None:
        with pytest.raises(ImportFault, match="--format"):
            importing.suppressions(self.CONTENT, wanted=Wanted(layout="sendgrid"))

    def test_an_origin_can_settle_it(self, importing: Importing) -> None:
        assert importing.suppressions(self.CONTENT, origin="complaint").added == 1

    def test_an_origin_does_not_rule_out_an_export_with_one_in_each_row(
        self, importing: Importing
    ) -> None:
        content = f"EMAIL,BLACKLISTED,ADDED_TIME\n{ANNA},yes,\nbert@people.example,,\n".encode()
        done = importing.suppressions(content, origin="complaint")
        assert (done.added, done.passed) == (1, 1)
        assert importing.suppressed(ANNA)[0].origin == "unsubscribe"

    def test_a_format_that_does_not_fit_is_rejected_with_those_that_do(
        self, importing: Importing
    ) -> None:
        with pytest.raises(ImportFault) as caught:
            importing.suppressions(self.CONTENT, wanted=Wanted(layout="ses"))
        assert "does not have the columns of ses: ses-suppressions has EmailAddress, Reason" in str(
            caught.value
        )


class TestLists:
    TAGGED = f'address,tags,created_at\n{ANNA},shoes,"Fri, 01 Mar 2024 12:00:00 UTC"\n'.encode()

    def test_with_a_purpose_an_unsubscribe_holds_for_it(self, importing: Importing) -> None:
        importing.suppressions(self.TAGGED, purpose="offers")
        assert importing.suppressed(ANNA)[0].scope == "purpose:offers"

    def test_without_a_purpose_it_holds_for_all_marketing(self, importing: Importing) -> None:
        """Stricter than what the person asked for, never laxer."""
        importing.suppressions(self.TAGGED)
        assert importing.suppressed(ANNA)[0].scope == "marketing"

    def test_a_global_unsubscribe_stays_global(self, importing: Importing) -> None:
        importing.suppressions(self.TAGGED.replace(b"shoes", b"*"), purpose="offers")
        assert importing.suppressed(ANNA)[0].scope == "marketing"

    def test_a_bounce_holds_for_every_purpose(self, importing: Importing) -> None:
        content = f"EmailAddress,SuppressionReason,CreatedAt\n{ANNA},HardBounce,2024-03-01\n"
        importing.suppressions(content.encode(), purpose="offers")
        assert importing.suppressed(ANNA)[0].scope == "all"

    def test_a_purpose_does_not_narrow_a_global_suppression(self, importing: Importing) -> None:
        content = f"email,created\n{ANNA},{EPOCH}\n".encode()
        wanted = Wanted(layout="sendgrid-global-unsubscribes")
        with pytest.raises(ImportFault, match="would narrow it"):
            importing.suppressions(content, wanted=wanted, purpose="offers")


def test_postmark_marks_an_unsubscribe_by_its_author(importing: Importing) -> None:
    content = (
        "EmailAddress,SuppressionReason,Origin,CreatedAt\n"
        f"{ANNA},ManualSuppression,Recipient,2024-03-01\n"
        "bert@people.example,ManualSuppression,Customer,2024-03-01\n"
    )
    importing.suppressions(content.encode())
    assert importing.suppressed(ANNA)[0].origin == "unsubscribe"
    assert importing.suppressed("bert@people.example")[0].origin == "manual"


def test_the_origin_column_must_be_unique(importing: Importing) -> None:
    content = b"EmailAddress,SuppressionReason,CreatedAt,Origin,origin\n"
    with pytest.raises(ImportFault, match="the header has origin more than once"):
        importing.suppressions(content + b"a@b.example,ManualSuppression,,Recipient,Customer\n")


@pytest.mark.parametrize(
    ("reason", "origin"), [("HardBounce", "external"), ("ManualSuppression", "manual")]
)
def test_a_domain_blocked_at_the_provider_is_suppressed(
    importing: Importing, reason: str, origin: str
) -> None:
    content = f"EmailAddress,SuppressionReason,CreatedAt\n@people.example,{reason},\n"
    importing.suppressions(content.encode())
    (found,) = importing.suppressed(ANNA)
    assert (found.origin, found.domain, found.scope) == (origin, "@people.example", "all")


def test_rows_of_subscribers_are_skipped(importing: Importing) -> None:
    content = f"Email,IsUnsubscribed\n{ANNA},false\nbert@people.example,true\n"
    done = importing.suppressions(content.encode())
    assert (done.lines, done.added, done.passed, done.rejected) == (2, 1, 1, 0)
    assert importing.suppressed(ANNA) == []


def test_an_unknown_reason_is_rejected_with_its_line(importing: Importing) -> None:
    content = f"EmailAddress,Reason\n{ANNA},MOOD\n"
    done = importing.suppressions(content.encode())
    assert (done.added, done.rejected) == (0, 1)
    assert "# line 2: \"Reason\" (origin): 'MOOD' is not one of" in importing.rejected
    mended = importing.rejected.replace("MOOD", "BOUNCE").encode()
    assert importing.suppressions(mended).added == 1


def test_our_own_format_is_not_taken_for_a_providers(importing: Importing) -> None:
    content = f"address,created_at,origin,scope\n{ANNA},x,manual,all\n".encode()
    assert importing.suppressions(content).added == 1
    alone = b"address\nbert@people.example\n"
    assert importing.suppressions(alone, origin="manual", scope="all").added == 1


class TestJson:
    def test_one_object_per_line(self, importing: Importing) -> None:
        content = (
            f'{{"EmailAddress":"{ANNA}","Reason":"BOUNCE","LastUpdateTime":{EPOCH}.25}}\n'
            '{"EmailAddress":"bert@people.example","Reason":"COMPLAINT"}\n'
            '{"EmailAddress":{"x":1}}\n'
            '{"EmailAddress":"carl@people.example","Reason":"BOUNCE","reason":"COMPLAINT"}\n'
        )
        done = importing.suppressions(content.encode(), "ndjson")
        assert (done.added, done.rejected) == (2, 2)
        assert "'reason' appears twice in one object" in importing.rejected
        (found,) = importing.suppressed(ANNA)
        assert (found.origin, found.since) == ("bounce", NOON.replace(microsecond=250_000))

    @pytest.mark.timeout(20)
    def test_unread_keys_may_share_a_name(self, importing: Importing) -> None:
        """However many there are: a quadratic count once took minutes for one line."""
        others = ",".join(f'"{n:x}":1' for n in range(80_000))
        content = (
            f'{{"EmailAddress":"bert@people.example","Reason":"BOUNCE","LastUpdateTime":{EPOCH}}}\n'
            f'{{"EmailAddress":"{ANNA}","Reason":"BOUNCE","id":1,"ID":2,{others}}}\n'
        )
        assert importing.suppressions(content.encode(), "ndjson").added == 2

    def test_our_own_format_can_be_requested(self, importing: Importing) -> None:
        content = b'{"address":"anna@people.example","created_at":""}\n'
        own = {"origin": "manual", "scope": "brand:shop"}
        done = importing.suppressions(content, "ndjson", Wanted(own=True), **own)
        assert done.rejected == 1
        assert "created_at" in importing.rejected  # which our format lacks
        assert [one.scope for one in importing.suppressed(ANNA)] == ["brand:shop"]

    def test_as_the_aws_command_line_prints_it(self, importing: Importing) -> None:
        content = f"""{{
    "SuppressedDestinationSummaries": [
        {{
            "EmailAddress": "{ANNA}",
            "Reason": "BOUNCE",
            "LastUpdateTime": "2024-03-01T12:00:00+00:00"
        }},
        {{
            "EmailAddress": "bert@people.example",
            "Reason": "COMPLAINT",
            "LastUpdateTime": "2024-03-01T12:00:00+00:00"
        }}
    ],
    "NextToken": "abc"
}}
"""
        done = importing.suppressions(content.encode(), "ndjson")
        assert (done.added, done.rejected) == (2, 0), importing.rejected
        assert importing.suppressed(ANNA)[0].since == NOON

    def test_as_an_api_answers_on_one_line(self, importing: Importing) -> None:
        content = (
            f'{{"Suppressions":[{{"EmailAddress":"{ANNA}","SuppressionReason":"SpamComplaint",'
            '"Origin":"Recipient","CreatedAt":"2024-03-01T12:00:00Z"},{"EmailAddress":'
            '"bert@people.example","SuppressionReason":"HardBounce","Origin":"Recipient",'
            '"CreatedAt":"2024-03-01T12:00:00Z"}]}'
        )
        assert importing.suppressions(content.encode(), "ndjson").added == 2
        (found,) = importing.suppressed(ANNA)
        assert (found.origin, found.since) == ("complaint", NOON)


class TestContacts:
    LISTMONK = (
        "uuid,email,name,attributes,status,created_at,updated_at\n"
        f"u,{ANNA},Anna,{{}},enabled,2024-03-01 12:00:00 +0000 UTC,2024-03-02 12:00:00 +0000 UTC\n"
        "u,bert@people.example,B,{},blocklisted,2024-03-01 12:00:00 +0000 UTC,\n"
    ).encode()
    MAILCHIMP = (
        '"Email Address",Name,MEMBER_RATING,OPTIN_TIME,OPTIN_IP,CONFIRM_TIME,CONFIRM_IP,TAGS\n'
        f'{ANNA},A,2,"2024-03-01 11:00:00",,"2024-03-01 12:00:00",192.0.2.1,"x"\n'
    ).encode()

    def test_a_blocklisted_person_does_not_become_a_contact(self, importing: Importing) -> None:
        done = importing.contacts(self.LISTMONK, "csv", None)
        assert (done.added, done.passed) == (1, 1)
        assert importing.contact(ANNA).collected_at == NOON

    @pytest.mark.parametrize(
        "content",
        [
            "EMAIL;_BLOCKLISTED;ADDED_TIME\n%s;email_marketing;{0}\n%s;;{0}\n%s;all;{0}\n",
            "EMAIL;_BLOCKLISTED;ADDED_TIME\n%s;[other|email_marketing];{0}\n"
            "%s;[whatsapp_marketing|sms_marketing];{0}\n%s;[sms_marketing|other];{0}\n",
            "EMAIL;EMAIL_BLACKLISTED;ADDED_TIME\n%s;Yes;{0}\n%s;No;{0}\n%s;oui;{0}\n",
            "uuid,email,name,attributes,status,created_at,updated_at\nu,%s,N,,blacklisted,,\n"
            "u,%s,N,,enabled,,\nu,%s,N,,bounced,,\n",
            "Email,IsExcludedFromCampaigns,CreatedAt\n%s,True,\n%s,False,\n%s,,\n",
        ],
    )
    def test_an_unclear_status_does_not_make_a_contact(
        self, importing: Importing, content: str
    ) -> None:
        people = ("blocked@people.example", ANNA, "doubtful@people.example")
        done = importing.contacts((content.format("01-03-2024") % people).encode(), "csv", None)
        assert (done.added, done.passed, done.rejected) == (1, 1, 1), importing.rejected
        assert importing.contact(ANNA).address == ANNA
        assert "is unknown; expected " in importing.rejected
        assert people[2] in importing.rejected

    def test_people_who_did_not_subscribe_have_no_consent(self, importing: Importing) -> None:
        """Mailchimp's files of subscribed and other contacts have the same columns."""
        for name in ("people.csv", "not_subscribed.csv"):
            with pytest.raises(ImportFault, match="mailchimp-subscribed, mailchimp-nonsubscribed"):
                importing.contacts(self.MAILCHIMP, "csv", None, wanted=Wanted(name))
        for name in ("nonsubscribed_email_audience_export_1a2b.csv", "Non_Subscribed.csv"):
            wanted = Wanted(name, purpose="offers")
            importing.contacts(self.MAILCHIMP, "csv", None, wanted=wanted)
            assert importing.contact(ANNA).acts == ()

    def test_a_consent_without_wording_is_unproven(self, importing: Importing) -> None:
        wanted = Wanted("subscribed_email_audience_export_1a2b.csv", purpose="offers")
        assert importing.contacts(self.MAILCHIMP, "csv", None, wanted=wanted).added == 1
        (act,) = importing.contact(ANNA).acts
        assert (act.purpose, act.at, act.method) == ("offers", NOON, None)
        assert (act.evidence.wording, act.evidence.ip) == (None, "192.0.2.1")

    def test_without_a_purpose_no_consent_is_recorded(self, importing: Importing) -> None:
        wanted = Wanted("subscribed_members_export.csv")
        importing.contacts(self.MAILCHIMP, "csv", None, wanted=wanted)
        assert importing.contact(ANNA).acts == ()

    @pytest.mark.parametrize("name", ["mailgun-complaints", "mailchimp-unsubscribed"])
    def test_an_export_of_suppressions_creates_no_contacts(
        self, importing: Importing, name: str
    ) -> None:
        content = next(content for known, _, content, _ in EXPORTS if known == name)
        with pytest.raises(ImportFault, match="use suppress import"):
            importing.contacts(content.encode(), "csv", None)

    def test_an_export_of_contacts_creates_no_suppressions(self, importing: Importing) -> None:
        with pytest.raises(ImportFault, match="use contact import"):
            importing.suppressions(self.MAILCHIMP)


GOOD = """
provider = "x"
title = "X"
source = "https://x.example/"
confirmed = "nothing"

[[suppressions]]
name = "x-bounces"
header = ["mail"]
columns = { mail = "address" }
constants = { origin = "bounce" }
"""


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('"address"', '"adress"', "no field 'adress'"),
        ('["mail"]', "[]", "header: needs at least one; for example header = "),
        ('"nothing"', '"surely"', 'confirmed: "surely" is not one of'),
        ('title = "X"', "", "x.toml: title: missing"),
        ("[[suppressions]]", "[[suppression]]", "suppression: unknown key"),
        ("columns", "colums", "colums: unknown key; did you mean columns?"),
        ("[[", "[", ": not TOML: "),
    ],
)
def test_a_faulty_layout_file_is_named(old: str, new: str, part: str) -> None:
    assert [layout.name for layout in read_layouts("x", GOOD)] == ["x-bounces"]
    with pytest.raises(MappingFault) as caught:
        read_layouts("x", GOOD.replace(old, new, 1))
    assert str(caught.value).startswith("x.toml: ")
    assert part in str(caught.value)


CELLS = st.sampled_from(
    [
        *[ANNA, '"', '""', "[", "{}", "\n", "'", "*", "x", "\x00", "é", '"a,b"', "BOUNCE", "true"],
        *[
            EPOCH,
            "99999999999999",
            "2024-03-01",
            "Fri, 01 Mar 2024 12:00:00 -0000",
            "1e400",
            "none",
        ],
        *["0001-01-01 00:00:00 +1400 X", "Fri, 99 Foo 2024 99:99:99 +9999", "31-12-9999 23:59:59"],
    ]
)


@settings(deadline=None, max_examples=times(40, 2_000))
@given(
    layout=st.sampled_from(layouts("suppressions")),
    rows=st.lists(st.lists(CELLS, max_size=8), max_size=6),
    delimiter=st.sampled_from([",", ";"]),
)
def test_an_export_may_hold_anything(layout: Layout, rows: list[list[str]], delimiter: str) -> None:
    """Invariant: every row is stored, skipped or rejected, and a second import of the
    same file adds and changes nothing."""
    text = "\n".join(delimiter.join(cells) for cells in [list(layout.header), *rows])
    with TemporaryDirectory() as folder:
        importing = Importing(Path(folder))
        wanted = Wanted(layout=layout.name)
        first = importing.suppressions(text.encode(), wanted=wanted)
        counted = first.added + first.changed + first.unchanged + first.rejected + first.passed
        assert first.lines == counted - first.refusals
        second = importing.suppressions(text.encode(), wanted=wanted)
        assert (second.added, second.changed) == (0, 0)
        assert (second.rejected, second.passed) == (first.rejected, first.passed)


class TestFileNames:
    CONTENT = b"email,created\nanna@people.example,1767600000\n"

    @pytest.mark.parametrize(
        ("name", "layout", "origin"),
        [
            ("sendgrid-unsubscribes.csv", "sendgrid-global-unsubscribes", "unsubscribe"),
            ("suppression_unsubscribes.csv", "sendgrid-global-unsubscribes", "unsubscribe"),
            ("Unsubscribed 2026.csv", "sendgrid-global-unsubscribes", "unsubscribe"),
            ("group_unsubscribes.csv", "sendgrid-group-unsubscribes", "unsubscribe"),
            ("suppression_spam_reports.csv", "sendgrid-spam-reports", "complaint"),
        ],
    )
    def test_sendgrid(self, importing: Importing, name: str, layout: str, origin: str) -> None:
        found = recognised(("email", "created"), "suppressions", Wanted(name))
        assert found is not None
        assert found.name == layout
        assert importing.suppressions(self.CONTENT, wanted=Wanted(name)).added == 1
        assert [one.origin for one in importing.suppressed("anna@people.example")] == [origin]


class TestMailchimpLanguages:
    @pytest.mark.parametrize(
        "name",
        [
            "Email Address",
            "E-Mail-Adresse",
            "Email-Adresse",
            "Adresse e-mail",
            "Adresse électronique",
            "Adresse de courriel",
        ],
    )
    def test_the_address_column_is_recognised(self, importing: Importing, name: str) -> None:
        content = f"{name},Vorname,UNSUB_TIME\nanna@people.example,A,2026-01-05 10:00:00\n"
        assert importing.suppressions(content.encode()).added == 1
        content = f"{name},Prénom,CLEAN_TIME\nbert@people.example,B,2026-01-05 10:00:00\n"
        assert importing.suppressions(content.encode()).added == 1
        (anna,) = importing.suppressed("anna@people.example")
        (bert,) = importing.suppressed("bert@people.example")
        assert (anna.origin, bert.origin) == ("unsubscribe", "bounce")
        content = (
            f"{name},MEMBER_RATING,OPTIN_TIME,CONFIRM_TIME\n"
            "carl@people.example,2,2026-01-05 10:00:00,2026-01-05 11:00:00\n"
        )
        wanted = Wanted(layout="mailchimp-subscribed")
        assert importing.contacts(content.encode(), "csv", None, wanted=wanted).added == 1
        assert importing.contact("carl@people.example").collected_at is not None

    def test_two_address_columns_in_different_languages_are_rejected(
        self, importing: Importing
    ) -> None:
        content = b"Email Address,E-Mail-Adresse,UNSUB_TIME\na@x.example,b@x.example,\n"
        with pytest.raises(ImportFault, match=r"Email Address.*E-Mail-Adresse.*both the address"):
            importing.suppressions(content)
