"""Tests. `enforce` checks shapes and types in them: beartype, with an int where a float is asked for (PEP 484)."""

from beartype import BeartypeConf, beartype

enforce = beartype(conf=BeartypeConf(is_pep484_tower=True))
