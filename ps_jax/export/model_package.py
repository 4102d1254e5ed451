"""Makes a model package of a work directory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ps_jax.errors import ConfigError
from ps_jax.evaluation.settings import Settings
from ps_jax.export.programs import export_programs
from ps_jax.training import load_system, provenance
from ps_jax.training.packages import write_package


def export_package(
    workdir: str | Path,
    out: str | Path,
    licence: str,
    picture_sizes: Sequence[tuple[int, int]] = (),
    phase: str | None = None,
    checkpoint: str = "last",
) -> dict[str, Any]:
    """Writes a model package.

    Args:
      workdir: work directory of a training.
      out: the folder to make.
      licence: of the weights: a file with its text, or the text itself, for example "CC-BY-NC-4.0".
      picture_sizes: (height, width) of pictures to export StableHLO for.
      phase, checkpoint: see `load_system`.

    Returns:
      What `package.json` says of the model.

    Raises:
      CheckpointError: there is no checkpoint.
      ConfigError: the folder cannot be written, or holds something else.
    """
    if not licence.strip():
        raise ConfigError("--licence: say under which licence the weights are passed on")
    system, variables, meta = load_system(workdir, phase, checkpoint)
    config = meta["config"]
    settings = Settings.of(config["eval"])
    threshold = settings.system_threshold(settings.score_threshold, system.module.score_threshold)
    system = system.changed(score_threshold=threshold, **settings.model)
    resize = tuple(config["data"]["resize"])
    programs, takes = export_programs(
        *(system, variables, resize, picture_sizes),
        *(config["data"].get("raw", False), settings.score_threshold),
    )
    file = Path(licence) if len(licence) < 1000 and "\n" not in licence else None
    text = file.read_text() if file is not None and file.is_file() else licence
    record = {
        "system": meta["system"],
        "model": meta["model"],
        "preprocessing": {
            "colours": "RGB, u8, upright as EXIF says",
            "resize": {
                "short_side": resize[0],
                "longest_side": resize[1],
                "method": "bilinear, no antialiasing",
            },
            "padded_to_multiples_of": 32,
            "pixel_mean": list(system.pixel_mean),
            "pixel_std": list(system.pixel_std),
        },
        "thresholds": {
            "score": settings.score_threshold,
            "detection": settings.detection_threshold,
            **{name: getattr(system.module, name) for name in system.test_options},
        },
        "search": {"similarity": settings.similarity, "branches": system.branches, "query": settings.query},
        "licence": text.strip().splitlines()[0],
        "provenance": provenance(meta),
        "programs": takes,
    }
    write_package(out, variables, meta, record, text, programs)
    return record
