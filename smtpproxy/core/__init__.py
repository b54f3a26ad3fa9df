"""The life of one message: judged, recorded, relayed. Nothing here waits (docs/flow.md)."""
