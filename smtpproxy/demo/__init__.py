"""`smtpproxy demo`: the real relay in a temporary directory, with invented people."""
