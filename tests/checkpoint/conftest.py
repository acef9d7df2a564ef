"""The shards and the output folder of the tests of conversion."""

from tests.conversion.conftest import output, shards

__all__ = ["output", "shards"]
