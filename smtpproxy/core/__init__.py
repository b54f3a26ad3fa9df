"""One message is judged, recorded and relayed. Nothing here waits (docs/flow.md)."""
