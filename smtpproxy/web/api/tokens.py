"""Who may use the API: bearer tokens (RFC 6750), each with its rights and its rate."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest

from smtpproxy.settings import TokenSettings
from smtpproxy.web.api.problems import Refused
from smtpproxy.web.rates import Bucket

UNKNOWN = "unknown"
"""The name under which requests without a known token are counted."""


class Gate:
    """Knows the tokens by their hashes. `clock`: monotonic seconds."""

    def __init__(self, tokens: Sequence[TokenSettings], clock: Callable[[], float]) -> None:
        self._tokens = tuple(tokens)
        self._hashes = tuple(bytes.fromhex(token.sha256) for token in tokens)
        self._buckets = {token.name: Bucket(token.requests_per_minute) for token in tokens}
        self._clock = clock

    def who(self, authorization: str | None) -> TokenSettings | None:
        """Return the token of an Authorization header.

        Every hash is compared in constant time, whichever matches.
        """
        scheme, _, secret = (authorization or "").strip().partition(" ")
        digest = sha256(secret.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for token, known in zip(self._tokens, self._hashes, strict=True):
            if compare_digest(digest, known):
                found = token
        return found if scheme.lower() == "bearer" else None

    def admit(self, token: TokenSettings | None, right: str, *, given: bool) -> TokenSettings:
        """Return the token.

        Raises Refused: 401 without a known token, 403 without the right, 429 above its rate.
        """
        if token is None:
            problem = ', error="invalid_token"' if given else ""
            error = "token_unknown" if given else "token_missing"
            raise Refused(
                error,
                "send a known token: Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": f'Bearer realm="smtpproxy"{problem}'},
            )
        if right not in token.may:
            text = (
                f'the token {token.name} lacks the right "{right}"; `may` in the configuration'
                " grants it"
            )
            challenge = 'Bearer realm="smtpproxy", error="insufficient_scope"'
            headers = {"WWW-Authenticate": challenge}
            raise Refused("not_permitted", text, headers=headers)
        wait = self._buckets[token.name].take(self._clock())
        if wait:
            text = f"the token {token.name} may make {token.requests_per_minute} requests a minute"
            headers = {"Retry-After": str(_whole(wait))}
            raise Refused("too_many_requests", text, headers=headers)
        return token

    def rate(self, token: TokenSettings) -> Mapping[str, str]:
        """Return the header fields with a token's rate limit, and how much of it is left.

        After draft-ietf-httpapi-ratelimit-headers-11. The quota refills continuously, so `t` is
        given only while a client has to wait.
        """
        bucket = self._buckets[token.name]
        then = "" if bucket.left else f";t={_whole(bucket.wait)}"
        return {
            "RateLimit-Policy": f'"token";q={token.requests_per_minute};w=60',
            "RateLimit": f'"token";r={bucket.left}{then}',
        }


def _whole(seconds: float) -> int:
    return int(seconds) + 1
