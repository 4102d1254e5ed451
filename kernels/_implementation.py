"""The one place that resolves the `implementation` argument of the operations."""


def check_implementation(operation: str, implementation: str | None) -> None:
    """Raises unless the named implementation of an operation exists.

    Args:
      operation: name of the operation, for the message.
      implementation: None (choose), "xla" (plain JAX) or "pallas" (hand-written kernel).

    Raises:
      ValueError: for "pallas", which this version does not have, and for any other name.
    """
    if implementation == "pallas":
        raise ValueError(
            f'{operation}: implementation="pallas" is not available in this version; use "xla" or None'
        )
    if implementation not in (None, "xla"):
        raise ValueError(f'{operation}: implementation is {implementation!r}, wanted None, "xla" or "pallas"')
