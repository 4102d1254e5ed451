"""Milliseconds that decide which form of an operation is the default; written by a script, not by hand.

    python -m benchmarks.operations --write kernels/_choices.py

Platform -> operation -> case -> form -> milliseconds of the gradient with its forward, or of the forward where
there is no gradient.
"""

MACHINES: dict[str, str] = {
    "cpu": "2 cores, x86_64, jax 0.11.2",
}

MEASURED: dict[str, dict[str, dict[str, dict[str, float]]]] = {
    "cpu": {
        "deform_conv": {
            "AlignPS head: v2, 3 x 3, 256 to 256, on 1 x 113 x 188": {
                "gather": 4957.515,
            },
            "AlignPS neck: v1, 3 x 3, 768 to 256, on 1 x 113 x 188": {
                "gather": 22939.653,
            },
        },
        "grid_sample": {
            "8 x 512 x 512 x 3 at 256 x 256": {
                "gather": 359.873,
            },
        },
        "nms": {
            "AlignPS: 1000 boxes, 0.5, at most 100": {
                "greedy": 2.83,
                "tiles": 4.217,
            },
            "SeqNet test: 6000 boxes, 0.7, at most 300": {
                "greedy": 22.578,
                "tiles": 71.878,
            },
            "SeqNet: 12000 boxes, 0.7, at most 2000": {
                "greedy": 287.535,
                "tiles": 228.364,
            },
        },
        "roi_align": {
            "LEAPS, with offsets: 100 boxes, 7 x 7, on 1 x 113 x 188 x 256": {
                "at_once": 285.455,
                "one_by_one": 194.004,
            },
            "SPNet: 128 boxes, 14 x 14, on 1 x 116 x 188 x 384": {
                "at_once": 1761.172,
                "one_by_one": 371.7,
                "separable": 3297.216,
            },
            "SeqNet: 128 boxes, 14 x 14, on 1 x 57 x 94 x 1024": {
                "at_once": 4014.103,
                "one_by_one": 955.429,
                "separable": 3401.812,
            },
        },
        "roi_transform": {
            "RDLR: 16 boxes, 256 x 128, from 1 x 1080 x 1920 x 3, u8": {
                "gather": 127.956,
            },
        },
    },
}
