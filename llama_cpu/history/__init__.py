"""Conversations on disk, in one SQLite database.

``rows``: the data types. ``database``: opening, schema and errors. ``tables``: the statements.
``writers``: whether the process that writes an answer still runs. ``search``: full-text search.
``store``: the operations, in class History. ``transfer``: export and import.
"""
