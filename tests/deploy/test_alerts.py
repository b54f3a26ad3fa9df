"""Each alert fires for its own problem alone and stays quiet for lookalikes."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from msgspec import Struct

from smtpproxy.sinks.families import FAMILIES, PREFIX
from tests.kit.parts import needs
from tests.kit.processes import run

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "config" / "prometheus"
ALERTS = CONFIG / "alerts.yml"

Series = Mapping[str, str]


class Case(Struct, frozen=True):
    """Series in promtool's notation, one value per `step` (minutes), and when to look."""

    alert: str
    fires: Series
    quiet: Series
    at: int = 30
    step: int = 1
    instead: tuple[str, ...] = ()
    """Other alerts that fire on `quiet`."""


UP = {"up{job=smtpproxy}": "1x400"}


def ready(part: str) -> str:
    return f"smtpproxy_ready{{part={part}}}"


def buckets(name: str, fast: str, slow: str, bound: str, **labels: str) -> dict[str, str]:
    """A histogram with `fast` observations up to `bound` and `slow` ones up to 30 s."""
    pairs = ",".join(f"{key}={value}" for key, value in labels.items())
    return {
        f"{name}_bucket{{{pairs},le={bound}}}": fast,
        f"{name}_bucket{{{pairs},le=30.0}}": slow,
        f"{name}_bucket{{{pairs},le=+Inf}}": slow,
    }


RECIPIENTS = "smtpproxy_recipients_total{stream=offers,verdict=refuse,reason=no_record}"
MESSAGES = "smtpproxy_messages_total{stream=offers,verdict=refuse,reason=one_click_missing}"
REPLIES = "smtpproxy_upstream_replies_total{code_class=%s}"
RELAYED = "smtpproxy_relayed_total{listener=apps,stream=offers,code_class=%s}"
FAILURES = "smtpproxy_failures_total{listener=apps,part=%s}"
LAG = "smtpproxy_webhook_lag_seconds{webhook=crm}"
DEADLINE = "smtpproxy_webhook_deadline_seconds{webhook=crm}"
REFUSED = "smtpproxy_connections_refused_total{listener=apps,cause=%s}"

LIMITED = "smtpproxy_limited_total{listener=apps,limit=%s}"
IMPORTS = "smtpproxy_imports_total{outcome=%s}"
PAUSED = "smtpproxy_stream_paused{stream=offers,cause=%s}"
REACHED = "smtpproxy_stream_bound_reached{stream=offers,cause=%s}"
USABLE = "smtpproxy_certificate_usable{listener=apps}"
BACKGROUND = "smtpproxy_background_failures_total{work=%s}"
EXPIRY = "smtpproxy_certificate_expiry_timestamp_seconds{listener=apps}"
FDS = "process_%s_fds{job=smtpproxy}"
LAST_PURGE = "smtpproxy_purge_last_success_timestamp_seconds"

NOTHING_ACCEPTED = {
    "smtpproxy_connections_total{listener=apps}": "0+5x40",
    "smtpproxy_messages_total": "0+5x40",
    RELAYED % "2xx": "0x40",
    FAILURES % "upstream": "0+5x40",
    REPLIES % "none": "0+5x40",
}

CASES = (
    Case(
        "SmtpproxyDown",
        {"up{job=smtpproxy}": "1x10 0x30"},
        {"up{job=smtpproxy}": "1x29 0x10"},
    ),
    Case("SmtpproxyDown", {"up{job=smtpproxy}": "1x5"}, UP),  # the target is gone entirely
    Case(
        "SmtpproxyNotListening",
        UP | {ready("listeners"): "1x10 0x30"},
        UP | {ready("listeners"): "1x28 0x30"},
    ),
    Case(
        "SmtpproxyWorkerMissing",
        UP | {ready("workers"): "1x10 0x30"},
        UP | {ready("workers"): "1x40"},
    ),
    Case(
        "SmtpproxyWorkersDying",
        UP | {"smtpproxy_worker_exits_total": "0x24 1 2 3 4x10"},
        UP | {"smtpproxy_worker_exits_total": "0x24 1x10"},
        instead=("SmtpproxyWorkerRestarted",),
    ),
    Case(
        "SmtpproxyWorkerRestarted",
        UP | {"smtpproxy_worker_exits_total": "0x10 1x30"},
        UP | {"smtpproxy_worker_exits_total": "1x40"},
    ),
    Case(
        "SmtpproxyFilesRunningOut",
        UP | {FDS % "open": "100x5 900x40", FDS % "max": "1024x40"},
        UP | {FDS % "open": "100x27 900x2 100x10", FDS % "max": "1024x40"},
    ),
    Case(  # time starts at 0: in 13 days, and in 15
        "SmtpproxyCertificateExpiring",
        UP | {EXPIRY: f"{13 * 86_400}x40"},
        UP | {EXPIRY: f"{15 * 86_400}x40"},
    ),
    Case("SmtpproxyCertificateExpired", UP | {EXPIRY: "600x40"}, UP | {EXPIRY: f"{2**31}x40"}),
    Case(
        "SmtpproxyCertificateNotReloaded",
        UP | {USABLE: "1x10 0x30"},
        UP | {USABLE: "1x10 0x4 1x12 0x4"},
    ),
    Case(
        "SmtpproxyStoreFailing",
        UP | {ready("store"): "1x10 0x30"},
        UP | {ready("store"): "1x30"},
    ),
    Case(  # one alert, however it shows
        "SmtpproxyStoreFailing",
        UP | {ready("store"): "1x10 0x30", FAILURES % "store": "0x10 1+5x30"},
        UP | {ready("store"): "1x30", FAILURES % "store": "3x40"},
    ),
    Case(
        "SmtpproxyStoreFailing",
        UP | {FAILURES % "store": "0x20 1+1x20"},
        UP | {FAILURES % "store": "7x40"},
    ),
    Case(
        "SmtpproxyClockWrong",
        UP | {"smtpproxy_time_seconds": "0+60x10 860+60x30"},
        UP | {"smtpproxy_time_seconds": "30+60x40"},
    ),
    Case(
        "SmtpproxyUnsubscribesFailing",
        UP | {"smtpproxy_web_failures_total{page=unsubscribe}": "0x28 1x10"},
        UP | {"smtpproxy_web_failures_total{page=unsubscribe}": "0x10 1x30"},
    ),
    Case(
        "SmtpproxyAuditFailing",
        UP | {FAILURES % "audit": "0x28 1x10"},
        UP | {FAILURES % "audit": "0x10 1x30"},
    ),
    Case(  # a balancer that asks /readyz sends it no mail that could fail
        "SmtpproxyAuditFailing",
        UP | {ready("audit"): "1x28 0x10"},
        UP | {ready("audit"): "1x40"},
    ),
    Case(
        "SmtpproxyStorePoolExhausted",
        UP | {"smtpproxy_store_waiting": "0x5 1x40"},
        UP | {"smtpproxy_store_waiting": "0 1 1 0 0 1 0 1 0x30"},
    ),
    Case(  # a database that does not answer at all has enough connections
        "SmtpproxyStorePoolExhausted",
        UP | {"smtpproxy_store_waiting": "0x5 1x40", ready("store"): "1x45"},
        UP | {"smtpproxy_store_waiting": "0x5 1x40", ready("store"): "1x5 0x40"},
        instead=("SmtpproxyStoreFailing",),
    ),
    Case(
        "SmtpproxySuppressionsLost",
        UP | {"smtpproxy_suppressions{scope=all,origin=complaint}": "1000x70 900x30"},
        UP | {"smtpproxy_suppressions{scope=all,origin=complaint}": "1000x70 995x30"},
        at=90,
    ),
    Case(
        "SmtpproxyStreamPaused",
        UP | {PAUSED % "complaint": "0x20 1x20", REACHED % "complaint": "1x40"},
        UP | {PAUSED % "person": "1x40", PAUSED % "configuration": "1x40"},
    ),
    Case(
        "SmtpproxyRestorePending",
        UP | {PAUSED % "restore": "0x10 1x30"},
        UP | {PAUSED % "restore": "0x28 1x12", PAUSED % "person": "1x40"},
    ),
    Case(
        "SmtpproxyStreamWarned",
        UP | {REACHED % "unsubscribe": "0x20 1x20", PAUSED % "complaint": "0x40"},
        UP | {REACHED % "unsubscribe": "1x20 0x20"},
    ),
    Case(  # entries removed by the daily purge are not lost
        "SmtpproxySuppressionsLost",
        UP
        | {
            "smtpproxy_suppressions{scope=all,origin=complaint}": "1000x70 800x30",
            "smtpproxy_purged_total{kind=suppressions}": "50x70 150x30",
        },
        UP
        | {
            "smtpproxy_suppressions{scope=all,origin=complaint}": "1000x70 900x30",
            "smtpproxy_purged_total{kind=suppressions}": "50x70 150x30",
        },
        at=90,
    ),
    Case(  # … nor are those removed by another relay of the same store
        "SmtpproxySuppressionsLost",
        UP
        | {
            "smtpproxy_suppressions{scope=all,origin=complaint,instance=relay1}": "1000x70 800x30",
            "smtpproxy_suppressions{scope=all,origin=complaint,instance=relay2}": "1000x70 1000x30",
            "smtpproxy_purged_total{kind=suppressions,instance=relay2}": "50x70 150x30",
        },
        UP
        | {
            "smtpproxy_suppressions{scope=all,origin=complaint,instance=relay1}": "1000x70 900x30",
            "smtpproxy_suppressions{scope=all,origin=complaint,instance=relay2}": "1000x70 900x30",
            "smtpproxy_purged_total{kind=suppressions,instance=relay2}": "50x70 150x30",
        },
        at=90,
    ),
    Case(
        "SmtpproxyNotReloaded",
        UP | {"smtpproxy_reloads_total{outcome=failed}": "0x20 1x20"},
        UP | {"smtpproxy_reloads_total{outcome=done}": "0x20 1x20"},
    ),
    Case(
        "SmtpproxyKeyMissing",
        UP | {"smtpproxy_store_misfits{kind=key}": "1x40"},
        UP | {"smtpproxy_store_misfits{kind=key}": "0x40"},
    ),
    Case(
        "SmtpproxyRelaysDiffer",
        UP | {"smtpproxy_store_misfits{kind=configuration}": "1x40"},
        UP | {"smtpproxy_store_misfits{kind=configuration}": "1x10 0x30"},
        at=35,
    ),
    Case(
        "SmtpproxyPurgeFailing",
        UP | {"smtpproxy_purge_failures_total": "0x20 1x20"},
        UP | {"smtpproxy_purge_failures_total": "1x40"},
    ),
    Case(
        "SmtpproxyPurgeFailing",
        UP | {LAST_PURGE: "0x120"},
        UP | {LAST_PURGE: "0x66 129600x54"},
        at=3_000,
        step=30,
    ),
    Case(  # it ends with the next purge that succeeds
        "SmtpproxyPurgeFailing",
        UP | {"smtpproxy_purge_failures_total": "0x60 1x60 2x60 3x60", LAST_PURGE: "0x300"},
        UP | {"smtpproxy_purge_failures_total": "0x60 1x60 2x120", LAST_PURGE: "0x170 10000x100"},
        at=200,
    ),
    Case(
        "SmtpproxySnapshotStale",
        {
            "up{job=smtpproxy}": "1x400",
            "smtpproxy_snapshot_taken_timestamp_seconds{partner=boots-ltd}": "0x400",
        },
        {
            "up{job=smtpproxy}": "1x400",
            "smtpproxy_snapshot_taken_timestamp_seconds{partner=boots-ltd}": "0x83 72000x200",
        },
        at=1_605,
        step=15,
    ),
    Case(
        "SmtpproxySnapshotStale",
        {
            "up{job=smtpproxy}": "1x60",
            "smtpproxy_snapshot_taken_timestamp_seconds{partner=boots-ltd}": "90000x60",
        },
        {
            "up{job=smtpproxy}": "1x60",
            "smtpproxy_snapshot_taken_timestamp_seconds{partner=boots-ltd}": "0x60",
        },
        at=30,
    ),
    Case(
        "SmtpproxyUndecided",
        UP | {"smtpproxy_undecided_total{stream=offers}": "0x20 1x20"},
        UP | {"smtpproxy_undecided_total{stream=offers}": "3x40"},
    ),
    Case(
        "SmtpproxyObserveMode",
        {"up{job=smtpproxy}": "1x500", "smtpproxy_observe_mode{stream=offers}": "1x500"},
        {"up{job=smtpproxy}": "1x500", "smtpproxy_observe_mode{stream=offers}": "1x150 0x350"},
        at=8 * 24 * 60,
        step=30,
    ),
    Case(  # a week is a week, though the relay was restarted in it
        "SmtpproxyObserveMode",
        {"up{job=smtpproxy}": "1x500", "smtpproxy_observe_mode{stream=offers}": "1x150 _ 1x350"},
        {"up{job=smtpproxy}": "1x500", "smtpproxy_observe_mode{stream=offers}": "0x150 1x350"},
        at=8 * 24 * 60,
        step=30,
    ),
    Case(
        "SmtpproxyClientsThrottled",
        UP | {LIMITED % "credential_message_rate": "0x10 1+1x90"},
        UP | {LIMITED % "message_rate": "0x10 1+1x15 15x30 15+1x45", LIMITED % "size": "0+1x100"},
        at=95,
    ),
    Case(
        "SmtpproxyImportFailed",
        UP | {IMPORTS % "failed": "0x20 1x20"},
        UP | {IMPORTS % "complete": "0+1x40", IMPORTS % "failed": "3x40"},
    ),
    Case(
        "SmtpproxyNoMailAccepted",
        UP | {"smtpproxy_connections_total{listener=apps}": "0+5x40", RELAYED % "2xx": "100x40"},
        UP | {"smtpproxy_connections_total{listener=apps}": "0+5x40", RELAYED % "2xx": "0+1x40"},
    ),
    Case(  # an MTA that only asks delivers by itself, so nothing is relayed
        "SmtpproxyNoMailAccepted",
        UP | {"smtpproxy_connections_total{listener=apps}": "0+5x40", RELAYED % "2xx": "0x40"},
        UP | {"smtpproxy_connections_total{listener=mta}": "0+5x40"},
    ),
    Case(  # nor do its connections count beside a relay that nobody uses
        "SmtpproxyNoMailAccepted",
        UP | {"smtpproxy_connections_total{listener=apps}": "0+5x40", RELAYED % "2xx": "0x40"},
        UP | {"smtpproxy_connections_total{listener=mta}": "0+5x40", RELAYED % "2xx": "0x40"},
    ),
    Case(  # nor is a failure of the store another problem
        "SmtpproxyStoreFailing",
        UP
        | {ready("store"): "0x40"}
        | {
            "smtpproxy_connections_total{listener=apps}": "0+5x40",
            "smtpproxy_messages_total": "0+5x40",
            RELAYED % "2xx": "0x40",
            FAILURES % "store": "0+5x40",
        },
        UP | {ready("store"): "1x40"},
    ),
    Case(
        "SmtpproxyTemporaryFailures",
        UP | {FAILURES % "upstream": "0+1x40", "smtpproxy_messages_total": "0+10x40"},
        UP | {FAILURES % "upstream": "0+1x40", "smtpproxy_messages_total": "0+1000x40"},
    ),
    Case(  # the store has its own alert
        "SmtpproxyTemporaryFailures",
        UP | {FAILURES % "sign": "0+1x40", "smtpproxy_messages_total": "0+10x40"},
        UP | {FAILURES % "store": "0+1x40", "smtpproxy_messages_total": "0+10x40"},
        instead=("SmtpproxyStoreFailing",),
    ),
    Case(
        "SmtpproxyUpstreamDown",
        UP | {ready("upstream"): "1x10 0x30"},
        UP | {ready("upstream"): "1x28 0x30"},
    ),
    Case(  # however it shows: one alert
        "SmtpproxyUpstreamDown",
        UP | {ready("upstream"): "1x10 0x30"} | NOTHING_ACCEPTED,
        UP | {ready("upstream"): "0x28 1x30"},
    ),
    Case(  # one that greets now and then is no longer down when its alert would fire
        "SmtpproxyUpstreamDown",
        UP | {ready("upstream"): "1x10 0x30"},
        UP | {ready("upstream"): "1 0 " * 20} | NOTHING_ACCEPTED,
        instead=(
            "SmtpproxyNoMailAccepted",
            "SmtpproxyTemporaryFailures",
            "SmtpproxyUpstreamFailing",
        ),
    ),
    Case(
        "SmtpproxyUpstreamFailing",
        UP | {REPLIES % "2xx": "0+100x40", REPLIES % "4xx": "0+10x40"},
        UP | {REPLIES % "2xx": "0+100x40", REPLIES % "4xx": "0+1x40"},
    ),
    Case(
        "SmtpproxyUpstreamRefusing",
        UP | {RELAYED % "2xx": "0+100x40", RELAYED % "5xx": "0+10x40"},
        UP | {RELAYED % "2xx": "0+100x40", RELAYED % "5xx": "0+1x40"},
    ),
    Case(  # relaying denied: the answer to RCPT, so that no message is ever offered; one alert
        "SmtpproxyUpstreamRefusing",
        UP | {REPLIES % "2xx": "0+20x40", REPLIES % "5xx": "0+10x40", RELAYED % "2xx": "0x40"},
        UP | {REPLIES % "2xx": "0+100x40", REPLIES % "5xx": "0+1x40", RELAYED % "2xx": "0+30x40"},
    ),
    Case(
        "SmtpproxyUpstreamRefusing",
        UP | {REPLIES % "5xx": "0+10x40", RELAYED % "2xx": "0+90x40", RELAYED % "5xx": "0+10x40"},
        UP | {REPLIES % "2xx": "0+20x40", RELAYED % "2xx": "0+20x40", RELAYED % "5xx": "0x40"},
    ),
    Case(
        "SmtpproxyUpstreamSlow",
        UP | buckets("smtpproxy_stage_seconds", "0+80x40", "0+100x40", "2.5", stage="upstream"),
        UP | buckets("smtpproxy_stage_seconds", "0+95x40", "0+100x40", "2.5", stage="upstream"),
    ),
    Case(  # its clients wait too: one alert
        "SmtpproxyUpstreamSlow",
        UP
        | buckets("smtpproxy_stage_seconds", "0+80x40", "0+100x40", "2.5", stage="upstream")
        | buckets("smtpproxy_transaction_seconds", "0+80x40", "0+100x40", "10.0", listener="apps"),
        UP | buckets("smtpproxy_transaction_seconds", "0+100x40", "0+100x40", "10.0", listener="x"),
    ),
    Case(
        "SmtpproxySlow",
        UP | buckets("smtpproxy_stage_seconds", "0+980x40", "0+1000x40", "0.1", stage="store"),
        UP | buckets("smtpproxy_stage_seconds", "0+995x40", "0+1000x40", "0.1", stage="store"),
    ),
    Case(  # DNS lookups vary: 0.2 s is usual, 5 s means a dead name server
        "SmtpproxySlow",
        UP | buckets("smtpproxy_stage_seconds", "0+980x40", "0+1000x40", "2.5", stage="dns"),
        UP | buckets("smtpproxy_stage_seconds", "0+995x40", "0+1000x40", "0.25", stage="dns"),
    ),
    Case(
        "SmtpproxyLatencyHigh",
        UP | buckets("smtpproxy_transaction_seconds", "0+980x40", "0+1000x40", "10.0"),
        UP | buckets("smtpproxy_transaction_seconds", "0+995x40", "0+1000x40", "10.0"),
    ),
    Case(
        "SmtpproxyWorkersBusy",
        UP | {"smtpproxy_cpu_seconds_total": "0+55x40", "smtpproxy_workers_configured": "1x40"},
        UP | {"smtpproxy_cpu_seconds_total": "0+55x40", "smtpproxy_workers_configured": "2x40"},
    ),
    Case(
        "SmtpproxyUpstreamSaturated",
        UP | {"smtpproxy_upstream_saturated_workers": "0x5 1x40"},
        UP | {"smtpproxy_upstream_saturated_workers": "0 1 1 0 0 1 0 1 0x30"},
    ),
    Case(
        "SmtpproxyReplicaUnused",
        UP | {"smtpproxy_replica_unused": "0x5 1x40"},
        UP | {"smtpproxy_replica_unused": "0 1x8 0 1x8 0x30"},
    ),
    Case(
        "SmtpproxyConnectionsRefused",
        UP | {REFUSED % "address_limit": "0+2x40"},
        UP | {REFUSED % "draining": "0+2x40"},
    ),
    Case(
        "SmtpproxyWebhookOverdue",
        UP | {LAG: "0x10 86401x30", DEADLINE: "172800x40"},
        UP | {LAG: "0x10 800x30", DEADLINE: "172800x40"},
    ),
    Case(
        "SmtpproxyWebhookLate",
        UP | {LAG: "0x10 1000+60x30", DEADLINE: "172800x40"},
        UP | {LAG: "0x27 1000x30", DEADLINE: "172800x60"},
    ),
    Case(
        "SmtpproxyWebhookDeadLetters",
        UP | {"smtpproxy_webhook_dead_letters{webhook=crm}": "0x10 1x30"},
        UP | {"smtpproxy_webhook_dead_letters{webhook=crm}": "0x40"},
    ),
    Case(
        "SmtpproxyWebhookDisabled",
        UP | {"smtpproxy_webhook_disabled{webhook=crm}": "0x10 1x30"},
        UP | {"smtpproxy_webhook_disabled{webhook=crm}": "0x40"},
    ),
    Case(
        "SmtpproxyAuditIndexBehind",
        UP | {"smtpproxy_audit_index_backlog_seconds": "0x10 950+60x30"},
        UP | {"smtpproxy_audit_index_backlog_seconds": "0x10 950x3 20x30"},
    ),
    Case(
        "SmtpproxyBackgroundFailing",
        UP | {BACKGROUND % "feedback": "0x5 1+2x40"},
        UP | {BACKGROUND % "feedback": "0x10 7x40"},
    ),
    Case(  # the store has its own alert, which must not trigger this one
        "SmtpproxyBackgroundFailing",
        UP | {BACKGROUND % "streams": "0x5 1+60x40", ready("store"): "1x45"},
        UP | {BACKGROUND % "streams": "0x5 1+60x30 1800x40", ready("store"): "1x5 0x30 1x40"},
        at=50,
    ),
    Case(
        "SmtpproxyBouncesWait",
        UP | {"smtpproxy_feedback_reports{state=hand_on}": "0x10 3x90"},
        UP | {"smtpproxy_feedback_reports{state=hand_on}": "3x40 0x1 3x59"},
        at=90,
    ),
    Case(
        "SmtpproxyBouncesWait",
        UP | {"smtpproxy_feedback_reports{state=elsewhere}": "0x10 3x90"},
        UP | {"smtpproxy_feedback_reports{state=elsewhere}": "3x40 0x1 3x59"},
        at=90,
    ),
    Case(
        "SmtpproxyRecipientRefusalsJump",
        UP | {RECIPIENTS: "0+5x300 1600+100x10"},
        UP | {RECIPIENTS: "0+100x310"},
        at=1525,
        step=5,
    ),
    Case(  # a relay that has run for less than two hours: its own usual, not a day's
        "SmtpproxyRecipientRefusalsJump",
        UP | {RECIPIENTS: "_x285 0+5x15 100+100x10"},
        UP | {RECIPIENTS: "_x285 0+100x30"},
        at=1525,
        step=5,
    ),
    Case(
        "SmtpproxyMessageRefusalsJump",
        UP | {MESSAGES: "0x300 1+20x10"},
        UP | {MESSAGES: "0x300 1+1x10"},
        at=1525,
        step=5,
    ),
)


ALONE = ("SmtpproxyDown", "SmtpproxySuppressionsLost")
"""Alerts that also consider all relays together."""


class Relay(Struct, frozen=True):
    """The series of a relay, and the alerts that they raise."""

    instance: str
    series: Series
    firing: tuple[str, ...]


def looks() -> Iterator[tuple[Case, list[Relay]]]:
    """Group the relays of all cases with the same step and time of looking.

    Each raises its own alerts, and promtool takes as long for one as for all."""
    together: dict[tuple[int, int], list[Relay]] = {}
    for number, case in enumerate(CASES):
        name = "relay1" if case.alert in ALONE else f"{case.alert}-{number}-%s"
        fires = Relay(name.replace("%s", "fires"), case.fires, (case.alert,))
        quiet = Relay(name.replace("%s", "quiet"), case.quiet, case.instead)
        if case.alert in ALONE:
            yield case, [fires]
            yield case, [quiet]
            continue
        there = together.setdefault((case.at, case.step), [])
        there += [fires, quiet]
        if len(there) == 2:
            yield case, there


LOOKS = list(looks())


def quoted(series: str, instance: str) -> str:
    """Add quotes to `name{a=b}`, and the instance that every real series has."""
    name, _, labels = series.rstrip("}").partition("{")
    pairs = {"instance": instance} | dict(pair.split("=") for pair in labels.split(",") if pair)
    return name + written(pairs)


def written(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{{{pairs}}}"


def unit_test(case: Case, *relays: Relay) -> dict[str, object]:
    step = f"{case.step}m"
    series = [
        {"series": quoted(name, relay.instance), "values": values}
        for relay in relays
        for name, values in relay.series.items()
    ]
    by = ("alertname",) if len(relays) == 1 else ("alertname", "instance")
    firing = [
        {"alertname": alert, "instance": relay.instance}
        for relay in relays
        for alert in relay.firing
    ]
    return {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": step,
        "tests": [
            {
                "interval": step,
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": f'count by ({", ".join(by)}) (ALERTS{{alertstate="firing"}})',
                        "eval_time": f"{case.at}m",
                        "exp_samples": [
                            {"labels": written({key: one[key] for key in by}), "value": 1}
                            for one in firing
                        ],
                    }
                ],
            }
        ],
    }


def written_alerts() -> set[str]:
    return set(re.findall(r"^ +- alert: (\w+)$", ALERTS.read_text(), re.MULTILINE))


def test_every_alert_has_a_case() -> None:
    assert {case.alert for case in CASES} == written_alerts()


@needs("promtool")
@pytest.mark.parametrize(
    ("case", "relays"), LOOKS, ids=[f"{case.alert}-{len(relays)}" for case, relays in LOOKS]
)
def test_alerts_fire_alone_and_only_when_they_should(
    case: Case, relays: list[Relay], tmp_path: Path
) -> None:
    test = tmp_path / "alerts.yml"
    test.write_text(json.dumps(unit_test(case, *relays)))  # JSON is YAML
    env = {"GOGC": "400"}  # saves a fifth of the work
    done = run("promtool", "test", "rules", str(test), env=env)
    assert done.returncode == 0, done.stdout + done.stderr


@needs("promtool")
def test_the_texts_name_what_is_affected(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.alert == "SmtpproxyRecipientRefusalsJump")
    test = unit_test(case, Relay("relay1", case.fires, (case.alert,)))
    test["tests"][0]["alert_rule_test"] = [  # type: ignore[index]
        {
            "eval_time": f"{case.at}m",
            "alertname": case.alert,
            "exp_alerts": [
                {
                    "exp_labels": {
                        "severity": "warning",
                        "instance": "relay1",
                        "stream": "offers",
                        "reason": "no_record",
                    },
                    "exp_annotations": {
                        "summary": "Stream offers: many more recipients refused, no_record",
                        "description": "Three times the day's rate on relay1, "
                        "and more than 50 in 15 minutes.",
                        "runbook_url": "docs/operations.md#smtpproxyrecipientrefusalsjump",
                    },
                }
            ],
        }
    ]
    (tmp_path / "texts.yml").write_text(json.dumps(test))
    done = run("promtool", "test", "rules", str(tmp_path / "texts.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@needs("promtool")
def test_promtool_accepts_configuration_and_rules() -> None:
    for arguments in (("config", "prometheus.yml"), ("rules", "--lint=all", "alerts.yml")):
        done = run("promtool", "check", *arguments, cwd=CONFIG)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAILED" not in done.stdout + done.stderr


def test_alerts_query_existing_metrics() -> None:
    names = {PREFIX + family.name for family in FAMILIES}
    used = set(re.findall(r"smtpproxy_\w+", ALERTS.read_text()))
    assert {re.sub("_bucket$", "", name) for name in used} <= names


def test_every_alert_is_explained() -> None:
    """Severity, texts, and a runbook in docs/operations.md under the alert's name."""
    operations = (REPOSITORY / "docs" / "operations.md").read_text()
    headings = set(re.findall(r"^#+ (\w+)$", operations, re.MULTILINE))
    assert headings >= written_alerts()
    for block in ALERTS.read_text().split("- alert: ")[1:]:
        name = block.split()[0]
        assert re.search(r"labels: \{severity: (critical|warning|info)\}", block), name
        assert re.search(r'summary: ".+"\n +description: ".+"\n', block), name
        assert f"runbook_url: docs/operations.md#{name.lower()}\n" in block, name
