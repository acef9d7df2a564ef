"""Conversations on disk, in one SQLite database.

``store`` has the operations, in class History. ``rows`` has the data types, ``database`` opens the
file and explains errors, ``migrations`` has the schema, version by version, and ``statements`` the
SQL statements. ``writers`` tells whether the process that writes an answer still runs. ``search``
is the full-text search, ``transfer`` exports and imports.
"""
