"""The schema of the database: the statements from each version to the next."""

# Stored in the file's header, so that another program's database is never written to.
APPLICATION_ID = 0x6C6C616D

# The statements from each version to the next; released ones never change. AUTOINCREMENT keeps the
# id of a deleted conversation, which another window may still show, from being used again.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE conversations (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            title TEXT NOT NULL,
            title_is_own INTEGER NOT NULL,
            model TEXT NOT NULL,
            settings TEXT NOT NULL,
            created REAL NOT NULL,
            updated REAL NOT NULL,
            leaf INTEGER REFERENCES messages (id) ON DELETE SET NULL
        )""",
        "CREATE INDEX conversations_leaf ON conversations (leaf)",
        "CREATE INDEX conversations_updated ON conversations (updated)",
        "CREATE TABLE writers (token TEXT PRIMARY KEY)",
        # A parent is older than its children, so there are no cycles and ids are in order. Branches
        # are not deleted by a cascade, as SQLite limits its depth to 1000.
        """CREATE TABLE messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            parent INTEGER CHECK (parent < id),
            role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
            state TEXT NOT NULL CHECK (state IN ('complete', 'writing', 'stopped', 'cut')),
            writer TEXT REFERENCES writers (token),
            model TEXT NOT NULL,
            created REAL NOT NULL,
            text TEXT NOT NULL,
            token_ids BLOB NOT NULL,
            token_seconds BLOB NOT NULL,
            token_logprobs BLOB NOT NULL,
            UNIQUE (conversation, id),
            FOREIGN KEY (conversation, parent) REFERENCES messages (conversation, id),
            CHECK ((state = 'writing') = (writer IS NOT NULL))
        )""",
        "CREATE INDEX messages_parent ON messages (conversation, parent)",
        "CREATE INDEX messages_writer ON messages (writer) WHERE writer IS NOT NULL",
    ),
    ("ALTER TABLE messages ADD COLUMN runs TEXT NOT NULL DEFAULT '[]'",),
    (
        "ALTER TABLE conversations ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX conversations_listed ON conversations (pinned, updated)",
    ),
)
