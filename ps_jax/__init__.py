"""Person search in JAX: find one person in a gallery of whole, uncropped scenes."""

__version__ = "0.1.0"
