"""DKIM with keys and network: signing what we relay, checking what apps have signed."""
