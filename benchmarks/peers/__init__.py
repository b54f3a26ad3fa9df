"""Other relays for comparison; each only passes mail on, without any policy."""
