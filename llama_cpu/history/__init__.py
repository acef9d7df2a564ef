"""Conversations on disk, in one SQLite database.

``rows``: what is in it. ``database``: opening it, its schema and its errors. ``tables``: the
statements. ``writers``: whether the process that writes an answer still runs. ``search``: the
index. ``store``: the verbs. ``transfer``: conversations as Markdown and JSON.
"""
