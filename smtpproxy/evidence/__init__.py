"""The evidence file of one address: what is known, what was sent, on which basis, how proven."""
