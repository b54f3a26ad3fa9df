"""What is said to people, one file for each language: `en.toml`, `fr.toml`.

A text has a section and a key and may have placeholders: `reason.consent_missing`, `{purpose}`.
Every language has the texts of `en.toml` with the same placeholders; a test names what one lacks.
"""
