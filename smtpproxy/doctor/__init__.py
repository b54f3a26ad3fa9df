"""Whether mail that leaves here will be believed: DNS, TLS, keys, clock, unsubscribing."""
