"""The life of one message: it is judged, recorded and relayed. Nothing here waits
(docs/flow.md)."""
