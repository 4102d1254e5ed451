"""The checker of annotations that the tests run with (`--jaxtyping-packages` in pyproject.toml)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""beartype that takes a whole number where a float is asked for, as Python's typing rules say."""
