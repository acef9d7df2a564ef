"""Conversations on disk, in one SQLite database.

``rows``: the data types. ``database``: opening and errors.
``migrations``: the schema, version by version. ``statements``: the SQL statements.
``writers``: whether the process that writes an answer still runs. ``search``: full-text search.
``store``: the operations, in class History. ``transfer``: export and import.
"""
