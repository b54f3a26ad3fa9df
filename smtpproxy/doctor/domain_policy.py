"""DMARC of a domain, and whether its mail is aligned with what SPF and DKIM prove."""

from collections.abc import Sequence

from smtpproxy.doctor.dmarc import Dmarc
from smtpproxy.doctor.finding import Check, Finding, Status
from smtpproxy.doctor.signatures import PublishedKey

_RECORD = "v=DMARC1; p=none; rua=mailto:dmarc@{domain}"


def judge_dmarc(domain: str, found: Dmarc) -> Finding:
    """Judge the record that holds for a domain of From."""
    record, at = found.record, found.at
    if found.problem and (record is None or at != domain):
        text = f"the record cannot be used: {found.problem}"
        return _dmarc(domain, Status.FAIL, text, f'publish one TXT "{_example(domain)}"')
    if record is None:
        mend = f'publish TXT "{_example(domain)}" at _dmarc.{found.organisation}'
        return _dmarc(domain, Status.FAIL, "no DMARC record", mend)
    text = f"p={found.policy(domain)} at _dmarc.{at}"
    if record.broken_reports:
        text += f", and nobody gets reports: {record.no_reports}"
        return _dmarc(domain, Status.FAIL, text, f"rua=mailto:dmarc@{domain}, or no rua= at all")
    if record.ignored:
        text += f"; receivers read past this: {'; '.join(record.ignored)}"
        return _dmarc(domain, Status.WARN, text, f'write it as in "{_example(domain)}"')
    if record.testing:
        return _dmarc(domain, Status.WARN, f"{text}, but t=y: it is not carried out", "drop t=y")
    if found.policy(domain) == "none":
        mend = "once the reports show that all mail is aligned, set p=quarantine or p=reject"
        return _dmarc(domain, Status.WARN, f"{text}: forged mail is only reported", mend)
    if record.no_reports:
        return _dmarc(domain, Status.WARN, f"{text}, and nobody gets reports", "add rua=mailto:…")
    return _dmarc(domain, Status.PASS, text)


def judge_alignment(
    domain: str,
    found: Dmarc,
    spf: Finding,
    dkim: Sequence[Finding],
    keys: Sequence[PublishedKey],
    organisations: dict[str, str],
) -> Finding:
    """`dkim` are the findings for `keys`; `organisations` has those of their domains.

    SPF is aligned where the reverse path is of the domain of From, which is the sending
    application's choice: only DKIM makes it certain.
    """
    record = found.record
    strict = record is not None and record.strict_dkim
    good = (Status.PASS, Status.WARN)
    aligned = [
        key.settings.domain
        for key, finding in zip(keys, dkim, strict=False)
        if finding.status in good
        and _aligned(key.settings.domain, domain, organisations, found.organisation, strict)
    ]
    if aligned:
        text = f"DKIM signs with d={aligned[0]}, which is aligned"
        return Finding(Check.ALIGNMENT, domain, Status.PASS, text)
    unsure = [each for each in (spf, *dkim) if each.status is Status.UNKNOWN]
    if keys and any(finding.status in good for finding in dkim):
        text = f"adkim=s asks for d={domain}, and the relay signs as {keys[0].settings.domain}"
        mend = f"sign as {domain}, or drop adkim=s"
        return Finding(Check.ALIGNMENT, domain, Status.FAIL, text, mend)
    if spf.status in good:
        text = f"only by SPF, and only where the reverse path is of {domain} too"
        return Finding(Check.ALIGNMENT, domain, Status.WARN, text, _SIGN)
    if unsure:
        text = "whether SPF or DKIM would pass is not known"
        return Finding(Check.ALIGNMENT, domain, Status.UNKNOWN, text, _SIGN)
    text = "neither SPF nor DKIM would pass"
    return Finding(Check.ALIGNMENT, domain, Status.FAIL, text, _SIGN)


_SIGN = "sign with a key of the domain ([[dkim]]), so that forwarded mail is believed too"


def _aligned(
    signer: str, domain: str, organisations: dict[str, str], organisation: str, strict: bool
) -> bool:
    if signer == domain:
        return True
    return not strict and organisations.get(signer, signer) == organisation


def _example(domain: str) -> str:
    return _RECORD.format(domain=domain)


def _dmarc(domain: str, status: Status, text: str, mend: str = "") -> Finding:
    return Finding(Check.DMARC, domain, status, text, mend)
