"""The restorer without networks, for tests of files, faults and kills."""

from tests.batch.conftest import fake, here

__all__ = ["fake", "here"]
