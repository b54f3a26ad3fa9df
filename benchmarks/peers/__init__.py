"""Other relays, to compare with: each only passes mail on, without any policy."""
