"""What the rules have to know of the DKIM signatures that a message came with."""

from msgspec.structs import replace

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.pipeline.parts import Parts
from smtpproxy.policy.model import MessageFeatures, SignatureState, Stream
from smtpproxy.relay.content import Body

UNSUBSCRIBE = (b"list-unsubscribe", b"list-unsubscribe-post")
"""What a signature has to cover (RFC 8058 section 4)."""


async def with_signatures(
    parts: Parts,
    stream: Stream,
    features: MessageFeatures,
    headers: HeaderBlock,
    body: Body | None,
) -> tuple[MessageFeatures, str]:
    """Return the features with what was found, and what failed ("" when nothing did).

    Where the relay signs the message itself nothing is looked up. `body` is None when it is
    not ours: then it is somebody else's to sign, and the header alone is checked.
    """
    signer = parts.signer if body is not None else None
    if signer is not None and signer.keys(features.from_domains, stream.name, parts.now()):
        return replace(features, signed_by_relay=True), ""
    if parts.verifier is None:
        return features, ""
    found = await parts.verifier.check(headers, body, UNSUBSCRIBE)
    failures = [each.detail for each in found if each.state is SignatureState.UNKNOWN]
    valid = any(each.state is SignatureState.VALID for each in found)
    told = tuple(replace(f, detail="") if f.state is SignatureState.UNKNOWN else f for f in found)
    return replace(features, signatures=told), "" if valid else "; ".join(failures)
