"""Evaluates a trained system: detection, search, pictures.

    python eval.py --workdir runs/spnet_qc [--phase finetune] [--mode qc] [--galleries all]
                   [--min_frame_gap 125] [--cross_camera] [--similarity score_cosine]
                   [--cbgm 10,3] [--cbgm_grid 10,20,30x2,3,4] [--cbgm_candidates scenes]
                   [--detector runs/seqnet] [--beside runs/nae] [--config.x.y=value ...]

What is not named is as the configuration of the training has it. Exit code 2: something the user can mend
(one message on stderr).
"""

import os
import sys

from ps_jax.errors import PersonSearchError


def main(arguments: list[str]) -> None:
    from ps_jax.evaluation.options import evaluation_config, output_directory, parse_arguments

    options, changes = parse_arguments(__doc__, arguments)
    config = evaluation_config(options, changes)

    from input_pipeline import open_source
    from ps_jax.evaluation import evaluate
    from ps_jax.training import compute_dtype, enable_compilation_cache, load_system, provenance

    enable_compilation_cache()
    dtype = compute_dtype(config.precision)

    system, variables, meta = load_system(options.workdir, options.phase, options.checkpoint, dtype=dtype)
    out = output_directory(options, meta, changes)
    source, origin = open_source(config.data), provenance(meta, changes)
    others = {}
    for name in ("detector", "beside"):
        workdir = getattr(options, name)
        if workdir is not None:
            *others[name], its_meta = load_system(workdir, dtype=dtype)
            origin[name] = " ".join(map(str, (workdir, *provenance(its_meta).values())))
    evaluate(
        *(system, variables, source, config.eval, out),
        partition=options.partition,
        provenance=origin,
        **others,
    )
    print(f"written to {out}")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greetings
    try:
        main(sys.argv[1:])
    except PersonSearchError as error:
        print(f"eval.py: {error}", file=sys.stderr)
        sys.exit(2)
