"""The evidence file of one address: what is known, what was sent, on which basis, how proven."""

from smtpproxy.evidence.gather import Evidence, Mailing, Proof, evidence

__all__ = ["Evidence", "Mailing", "Proof", "evidence"]
