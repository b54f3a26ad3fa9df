"""Every metric there is: name, kind, labels and meaning.

docs/metrics.md says the same for people; a test holds the two together.
"""

from dataclasses import dataclass
from typing import Literal

from smtpproxy.events import DNS_OUTCOMES, LIMITS, STAGES
from smtpproxy.sinks import rows
from smtpproxy.sinks.rows import Rows

PREFIX = "smtpproxy_"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `zeros` yields the label rows that are shown before anything happens."""

    name: str  # without the prefix
    kind: Literal["counter", "gauge", "histogram", "info"]
    labels: tuple[str, ...]
    help: str
    zeros: Rows = rows.no_rows


FAMILIES: tuple[Family, ...] = (
    Family(
        "messages_total",
        "counter",
        ("listener", "stream", "verdict", "reason"),
        "Messages judged at the end of data. In observe mode: what would have been done.",
        rows.by_verdict(rows.message_verdicts),
    ),
    Family(
        "recipients_total",
        "counter",
        ("listener", "stream", "verdict", "reason"),
        "Recipients judged. In observe mode: what would have been done.",
        rows.by_verdict(rows.recipient_verdicts),
    ),
    Family(
        "allowed_total",
        "counter",
        ("stream", "basis"),
        "Recipients whose mail was put to the upstream, by the basis on which they may be mailed.",
        rows.by_basis,
    ),
    Family(
        "relayed_total",
        "counter",
        ("listener", "stream", "code_class"),
        "Messages put to the upstream, by the class of its final answer.",
        rows.by_final_answer,
    ),
    Family(
        "message_bytes_total",
        "counter",
        ("listener", "stream"),
        "Bytes of the messages that the upstream accepted.",
        rows.by_listener_and_stream,
    ),
    Family(
        "observed_refusals_total",
        "counter",
        ("stream", "reason"),
        "Messages and recipients that observe mode let pass and enforce mode would not have.",
        rows.by_observed_reason,
    ),
    Family(
        "undecided_total",
        "counter",
        ("stream",),
        "Messages and recipients that observe mode let pass though nothing could be decided.",
        rows.by_stream,
    ),
    Family(
        "undeclared_bulk_total",
        "counter",
        ("stream", "action"),
        "Messages on transactional streams with the marks of bulk mail, by what is done with them.",
        rows.by_bulk_action,
    ),
    Family(
        "unsubscribe_encoded_total",
        "counter",
        ("stream",),
        "Messages whose List-Unsubscribe field held encoded words, which RFC 2369 forbids.",
        rows.by_stream,
    ),
    Family(
        "transaction_seconds",
        "histogram",
        ("listener",),
        "Time the relay took for a message, without the client's own time.",
        rows.by_listener,
    ),
    Family(
        "stage_seconds",
        "histogram",
        ("stage",),
        "Time spent on a message in each stage.",
        rows.each(STAGES),
    ),
    Family(
        "connections",
        "gauge",
        ("listener",),
        "Client connections open now.",
        rows.by_listener,
    ),
    Family(
        "connections_total",
        "counter",
        ("listener",),
        "Client connections accepted.",
        rows.by_listener,
    ),
    Family(
        "connections_refused_total",
        "counter",
        ("listener", "cause"),
        "Client connections answered 421 at once, by cause.",
        rows.listeners_and(rows.REFUSAL_CAUSES),
    ),
    Family(
        "connections_ended_total",
        "counter",
        ("listener", "cause"),
        "Client connections that ended, by cause.",
        rows.listeners_and(rows.ENDS),
    ),
    Family(
        "limited_total",
        "counter",
        ("listener", "limit"),
        "Limits that were met without an end of the session: commands and messages were refused.",
        rows.listeners_and(LIMITS),
    ),
    Family(
        "proxy_headers_total",
        "counter",
        ("listener", "outcome"),
        "Connections to listeners with the PROXY protocol, by what their header came to.",
        rows.by_proxy_outcome,
    ),
    Family(
        "tls_handshakes_total",
        "counter",
        ("listener", "outcome"),
        "TLS handshakes with clients, by how they ended.",
        rows.by_tls_outcome,
    ),
    Family(
        "certificate_expiry_timestamp_seconds",
        "gauge",
        ("listener",),
        "When the certificate in use expires, in Unix time.",
    ),
    Family(
        "certificate_reloads_total",
        "counter",
        ("listener", "outcome"),
        "Changed certificate files that were read; failed: the old certificate stays in use.",
        rows.by_certificate_reading,
    ),
    Family(
        "auth_total",
        "counter",
        ("listener", "mechanism", "outcome"),
        "AUTH exchanges, by how they ended.",
        rows.by_auth_outcome,
    ),
    Family(
        "senders_refused_total",
        "counter",
        ("listener",),
        "MAIL commands refused because the client's credential has not that reverse path.",
        rows.by_authenticating_listener,
    ),
    Family(
        "upstream_connections",
        "gauge",
        ("state",),
        "Connections to the upstream open now.",
        rows.each(("idle", "busy")),
    ),
    Family(
        "upstream_connections_limit",
        "gauge",
        (),
        "Connections to the upstream that there may be, of all workers.",
        rows.one_row,
    ),
    Family(
        "upstream_waiting",
        "gauge",
        (),
        "Messages that wait for a connection to the upstream.",
        rows.one_row,
    ),
    Family(
        "upstream_saturated_workers",
        "gauge",
        (),
        "Relay processes all of whose connections to the upstream are in use while messages wait.",
        rows.one_row,
    ),
    Family(
        "upstream_replies_total",
        "counter",
        ("code_class",),
        "Replies of the upstream to MAIL, RCPT, DATA and the end of data; none: no answer.",
        rows.each(rows.CODE_CLASSES),
    ),
    Family(
        "dns_lookups_total",
        "counter",
        ("outcome",),
        "Questions to the DNS, by how they ended; failed: no answer.",
        rows.each(DNS_OUTCOMES),
    ),
    Family(
        "failures_total",
        "counter",
        ("listener", "part"),
        "Trouble of the relay's own, by the part that failed: a 451, but in observe mode.",
        rows.listeners_and(rows.FAILING_PARTS),
    ),
    Family(
        "feedback_total",
        "counter",
        ("kind", "stream"),
        "What people said back; unsubscribe: by a link that the relay added.",
        rows.by_feedback,
    ),
    Family(
        "suppressions",
        "gauge",
        ("scope", "origin"),
        "Suppressions in the store.",
    ),
    Family("contacts", "gauge", (), "Contacts in the store."),
    Family(
        "snapshot_taken_timestamp_seconds",
        "gauge",
        ("partner",),
        "When a partner's snapshot that counts was taken, in Unix time; 0: there is none.",
        rows.by_partner,
    ),
    Family(
        "webhook_lag_seconds",
        "gauge",
        ("webhook",),
        "Age of the oldest change that was not delivered, dead letters included; 0: none.",
    ),
    Family(
        "webhook_deadline_seconds",
        "gauge",
        ("webhook",),
        "By what age a change has to be delivered.",
    ),
    Family(
        "webhook_deliveries_total",
        "counter",
        ("webhook", "outcome"),
        "Attempts to deliver a message, by what came of them.",
        rows.by_webhook_outcome,
    ),
    Family(
        "webhook_dead_letters",
        "gauge",
        ("webhook",),
        "Messages that could not be delivered in time and wait for somebody to decide.",
    ),
    Family(
        "webhook_disabled",
        "gauge",
        ("webhook",),
        "1 when the receiver answered 410, so that nothing is sent to it any more.",
    ),
    Family(
        "api_requests_total",
        "counter",
        ("token", "code_class"),
        "Requests to the API, by token and class of the answer; unknown: no known token.",
        rows.by_token,
    ),
    Family(
        "ready",
        "gauge",
        ("part",),
        "1 when the part works, 0 when not; /readyz says the same.",
    ),
    Family(
        "purged_total",
        "counter",
        ("kind",),
        "Rows removed since they had outlived their period, by kind of data.",
        rows.each(rows.PURGED_KINDS),
    ),
    Family(
        "purge_failures_total",
        "counter",
        (),
        "Daily purges that failed.",
        rows.one_row,
    ),
    Family(
        "purge_last_success_timestamp_seconds",
        "gauge",
        (),
        "When the last purge came to its end, in Unix time.",
    ),
    Family("workers", "gauge", (), "Relay processes that are alive.", rows.one_row),
    Family(
        "workers_configured",
        "gauge",
        (),
        "Relay processes that there should be.",
    ),
    Family(
        "worker_exits_total",
        "counter",
        (),
        "Relay processes that ended while the relay went on.",
        rows.one_row,
    ),
    Family(
        "cpu_seconds_total",
        "counter",
        (),
        "Processor time used by all relay processes.",
        rows.one_row,
    ),
    Family(
        "observe_mode",
        "gauge",
        ("stream",),
        "1 when the stream is only observed, 0 when the rules are enforced.",
    ),
    Family(
        "start_time_seconds",
        "gauge",
        (),
        "When the relay was started, in Unix time.",
    ),
    Family("build_info", "info", ("version",), "The version that runs."),
    Family("config_info", "info", ("hash",), "The configuration that runs, by its hash."),
)
