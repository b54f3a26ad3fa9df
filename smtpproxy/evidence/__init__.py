"""The evidence document about one address: what is known, what was sent, why, and the proof."""
