from tests.history.conftest import database, history, start

__all__ = ["database", "history", "start"]
