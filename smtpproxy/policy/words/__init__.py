"""The words of explanations as data: one table for each language, and what fills them in."""
