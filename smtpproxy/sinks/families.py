"""All metrics: name, kind, labels and meaning.

docs/metrics.md has the same list; a test compares the two.
"""

from typing import Literal, get_args

from msgspec import Struct

from smtpproxy.events import DNS_OUTCOMES, LIMITS, STAGES, Work
from smtpproxy.sinks import rows
from smtpproxy.sinks.rows import Rows

PREFIX = "smtpproxy_"


Kind = Literal["counter", "gauge", "histogram", "info"]


class Family(Struct, frozen=True):
    """One metric. `rows` has its labels, and the rows shown before anything happens."""

    name: str  # without the prefix
    help: str
    rows: Rows
    histogram: bool = False

    @property
    def kind(self) -> Kind:
        if self.histogram:
            return "histogram"
        if self.name.endswith("_total"):
            return "counter"
        return "info" if self.name.endswith("_info") else "gauge"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.rows.labels


FAMILIES: tuple[Family, ...] = (
    Family(
        "messages_total",
        "Messages judged at the end of data. In observe mode: what would have been done.",
        rows.by_verdict(rows.message_verdicts),
    ),
    Family(
        "recipients_total",
        "Recipients judged. In observe mode: what would have been done.",
        rows.by_verdict(rows.recipient_verdicts),
    ),
    Family(
        "allowed_total",
        "Recipients whose mail was offered to the upstream, by the basis that allows it.",
        rows.by_basis,
    ),
    Family(
        "relayed_total",
        "Messages offered to the upstream, by the class of its final answer.",
        rows.by_final_answer,
    ),
    Family(
        "message_bytes_total",
        "Bytes of the messages that the upstream accepted.",
        rows.by_listener_and_stream,
    ),
    Family(
        "mailed_total",
        "Recipients of messages that the upstream accepted, or that were left to the MTA.",
        rows.by_stream,
    ),
    Family(
        "observed_refusals_total",
        "Messages and recipients that observe mode let pass and enforce mode would not have.",
        rows.by_observed_reason,
    ),
    Family(
        "undecided_total",
        "Messages and recipients that observe mode let pass though nothing could be decided.",
        rows.by_stream,
    ),
    Family(
        "undeclared_bulk_total",
        "Messages on transactional streams with the marks of bulk mail, by what happens to them.",
        rows.by_bulk_action,
    ),
    Family(
        "tracking_pixels_total",
        "Messages with tracking pixels, by what happened to them.",
        rows.by_tracking,
    ),
    Family(
        "unsubscribe_encoded_total",
        "Messages whose List-Unsubscribe field held encoded words, which RFC 2369 forbids.",
        rows.by_stream,
    ),
    Family(
        "transaction_seconds",
        "Time the relay took for a message, excluding the client's own.",
        rows.by_listener,
        histogram=True,
    ),
    Family(
        "stage_seconds",
        "Time spent on a message in each stage.",
        rows.crossed(stage=STAGES),
        histogram=True,
    ),
    Family("connections", "Client connections open now.", rows.by_listener),
    Family("connections_total", "Client connections accepted.", rows.by_listener),
    Family(
        "connections_refused_total",
        "Client connections answered 421 at once, by cause.",
        rows.crossed(listener=rows.listeners, cause=rows.REFUSAL_CAUSES),
    ),
    Family(
        "connections_ended_total",
        "Client connections that ended, by cause.",
        rows.crossed(listener=rows.listeners, cause=rows.ENDS),
    ),
    Family(
        "limited_total",
        "Limits met without ending the session: commands and messages were refused.",
        rows.crossed(listener=rows.listeners, limit=LIMITS),
    ),
    Family(
        "proxy_headers_total",
        "Connections to listeners with the PROXY protocol, by the outcome of their header.",
        rows.crossed(listener=rows.proxied, outcome=rows.PROXY_OUTCOMES),
    ),
    Family(
        "tls_handshakes_total",
        "TLS handshakes with clients, by outcome.",
        rows.crossed(listener=rows.with_tls, outcome=rows.TLS_OUTCOMES),
    ),
    Family(
        "certificate_expiry_timestamp_seconds",
        "When the certificate in use, or the first of its intermediates, expires, in Unix time.",
        rows.unknown("listener"),
    ),
    Family(
        "certificate_usable",
        "1 if the certificate's files can be used as they are now; 0: the old ones stay in use.",
        rows.unknown("listener"),
    ),
    Family(
        "certificate_reloads_total",
        "Certificate files reloaded after a change; failed: the old certificate stays in use.",
        rows.crossed(listener=rows.with_tls, outcome=("ok", "failed")),
    ),
    Family("auth_total", "AUTH exchanges, by outcome.", rows.by_auth_outcome),
    Family(
        "senders_refused_total",
        "MAIL commands refused because the client's credential does not permit the reverse path.",
        rows.by_listener,
    ),
    Family(
        "upstream_connections",
        "Connections to the upstream open now.",
        rows.crossed(state=("idle", "busy")),
    ),
    Family(
        "upstream_connections_limit",
        "The most connections to the upstream there can be, for all workers together.",
        rows.one_row,
    ),
    Family("upstream_waiting", "Messages waiting for a connection to the upstream.", rows.one_row),
    Family(
        "upstream_saturated_workers",
        "Relay processes all of whose connections to the upstream are in use while messages wait.",
        rows.one_row,
    ),
    Family(
        "store_connections",
        "The workers' connections to the database open now; none with SQLite.",
        rows.crossed(state=("idle", "busy")),
    ),
    Family(
        "store_connections_limit",
        "The most connections to the database there can be, for all workers together.",
        rows.one_row,
    ),
    Family("store_waiting", "Queries waiting for a connection to the database.", rows.one_row),
    Family(
        "store_waited_seconds_total",
        "Time that queries have waited for a connection to the database.",
        rows.one_row,
    ),
    Family(
        "upstream_replies_total",
        "Replies of the upstream to MAIL, RCPT, DATA and the end of data; none: no answer.",
        rows.crossed(code_class=rows.CODE_CLASSES),
    ),
    Family(
        "dns_lookups_total",
        "DNS lookups, by outcome; failed: no answer.",
        rows.crossed(outcome=DNS_OUTCOMES),
    ),
    Family(
        "failures_total",
        "Internal failures, by the part that failed: a 451, except in observe mode.",
        rows.crossed(listener=rows.listeners, part=rows.FAILING_PARTS),
    ),
    Family(
        "background_failures_total",
        "Failures of work beside the mail, which is tried again, and exits of its processes.",
        rows.crossed(work=get_args(Work)),
    ),
    Family(
        "web_failures_total",
        "Requests to pages and the API that the store did not answer: a 503.",
        rows.crossed(page=("unsubscribe", "confirmation", "api")),
    ),
    Family(
        "confirmations_total",
        "Buttons pressed on the pages of confirm links, by what the link was for.",
        rows.by_confirmation,
    ),
    Family(
        "feedback_total",
        "Feedback from people and mail servers: links used, and reports that came by mail.",
        rows.by_feedback,
    ),
    Family(
        "stream_paused",
        "1 while the mail of the stream is held back for that cause.",
        rows.by_pause_cause,
    ),
    Family(
        "stream_sent",
        "Messages, one for each recipient, that count for the stream within the breaker's window.",
        rows.by_marketing_stream,
    ),
    Family(
        "stream_heard",
        "People who gave that feedback on these messages, proven by a valid token.",
        rows.by_heard,
    ),
    Family(
        "stream_bound_reached",
        "1 while the stream, alone or with its brand, is at a bound that warns or pauses.",
        rows.by_heard,
    ),
    Family(
        "feedback_reports",
        "Reports that wait for a person, or to be handed on to the app; and messages that another"
        " relay has yet to report on.",
        rows.by_feedback_state,
    ),
    Family("suppressions", "Suppressions in the store.", rows.unknown("scope", "origin")),
    Family("contacts", "Contacts in the store.", rows.unknown()),
    Family(
        "snapshot_taken_timestamp_seconds",
        "When a partner's snapshot in use was taken, in Unix time; 0: there is none.",
        rows.by_partner,
    ),
    Family(
        "audit_index_backlog_rows",
        "Rows of the audit log not yet in the index of decisions.",
        rows.one_row,
    ),
    Family(
        "audit_index_backlog_seconds",
        "Age of the oldest of these rows; 0: there is none.",
        rows.one_row,
    ),
    Family(
        "replica_reads_total",
        "Reads of the mail path, if the store has a standby, by the server that answered.",
        rows.crossed(server=rows.SERVERS),
    ),
    Family(
        "replica_lag_seconds",
        "How far the store's standby is behind the primary; 0: it lacks nothing.",
        rows.one_row,
    ),
    Family(
        "replica_unused",
        "1 while the store's standby is not read from: too far behind, or silent.",
        rows.one_row,
    ),
    Family(
        "webhook_lag_seconds",
        "Age of the oldest undelivered change, dead letters included; 0: none.",
        rows.unknown("webhook"),
    ),
    Family(
        "webhook_deadline_seconds",
        "The age by which a change has to be delivered.",
        rows.unknown("webhook"),
    ),
    Family(
        "webhook_deliveries_total",
        "Attempts to deliver a message, by outcome.",
        rows.by_webhook_outcome,
    ),
    Family(
        "webhook_dead_letters",
        "Messages that were not delivered in time and await a decision.",
        rows.unknown("webhook"),
    ),
    Family(
        "webhook_disabled",
        "1 when the receiver answered 410, so that nothing more is sent to it.",
        rows.unknown("webhook"),
    ),
    Family(
        "api_requests_total",
        "Requests to the API, by token and class of the answer; unknown: no known token.",
        rows.by_token,
    ),
    Family(
        "ready", "1 when the part works, 0 when not; /readyz says the same.", rows.unknown("part")
    ),
    Family(
        "purged_total",
        "Rows removed because their retention period was over, by kind of data.",
        rows.crossed(kind=rows.PURGED_KINDS),
    ),
    Family("purge_failures_total", "Daily purges that failed.", rows.one_row),
    Family(
        "purge_last_success_timestamp_seconds",
        "When the last purge finished, in Unix time.",
        rows.unknown(),
    ),
    Family(
        "reloads_total",
        "How often the configuration was reloaded; failed: the old one is kept.",
        rows.crossed(outcome=("done", "failed")),
    ),
    Family(
        "imports_total",
        "Imports uploaded to the API that have ended, or could not be undone, by outcome.",
        rows.crossed(outcome=("complete", "failed", "cancelled", "not_undone")),
    ),
    Family(
        "store_misfits",
        "key: 1 while a key that the store's relays share is missing here; configuration: how many"
        " streams and brands differ from another relay's.",
        rows.crossed(kind=("key", "configuration")),
    ),
    Family("workers", "Relay processes alive.", rows.one_row),
    Family("workers_configured", "Relay processes that should be running.", rows.unknown()),
    Family(
        "worker_exits_total", "Relay processes that exited without being told to.", rows.one_row
    ),
    Family("cpu_seconds_total", "Processor time used by all relay processes.", rows.one_row),
    Family(
        "observe_mode",
        "1 when the stream is only observed, 0 when the rules are enforced.",
        rows.unknown("stream"),
    ),
    Family("time_seconds", "The relay's clock, in Unix time.", rows.unknown()),
    Family("start_time_seconds", "When the relay was started, in Unix time.", rows.unknown()),
    Family("stream_info", "The brand of the stream.", rows.unknown("stream", "brand")),
    Family("build_info", "The running version.", rows.unknown("version")),
    Family("config_info", "The configuration in use, by its hash.", rows.unknown("hash")),
)
