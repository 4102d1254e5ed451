"""The persistent compilation cache, turned on by the mains."""

import os
from pathlib import Path

import jax


def enable_compilation_cache(directory: str | os.PathLike | None = None) -> None:
    """Keeps compiled programs on disk, so that a second run starts in seconds.

    Args:
      directory: where to keep them. None takes JAX_COMPILATION_CACHE_DIR where that is set, else
        `ps_jax/jax` in the user's cache directory (XDG_CACHE_HOME, else ~/.cache).
    """
    if directory is None and jax.config.jax_compilation_cache_dir:
        return
    if directory is None:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ps_jax" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
