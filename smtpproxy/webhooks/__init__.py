"""Webhooks: telling other systems of the company at once who must not be mailed any more.

`dispatcher.py` reads the log of changes and delivers it, in a process of its own.
"""
