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
                "gather": 1313.431,
            },
            "AlignPS neck: v1, 3 x 3, 768 to 256, on 1 x 113 x 188": {
                "gather": 5285.97,
            },
        },
        "grid_sample": {
            "8 x 512 x 512 x 3 at 256 x 256": {
                "gather": 130.189,
            },
        },
        "nms": {
            "AlignPS: 1000 boxes, 0.5, at most 100": {
                "greedy": 1.137,
                "tiles": 2.044,
            },
            "SeqNet test: 6000 boxes, 0.7, at most 300": {
                "greedy": 16.806,
                "tiles": 21.18,
            },
            "SeqNet: 12000 boxes, 0.7, at most 2000": {
                "greedy": 187.073,
                "tiles": 70.791,
            },
        },
        "roi_align": {
            "LEAPS, with offsets: 100 boxes, 7 x 7, on 1 x 113 x 188 x 256": {
                "at_once": 130.7,
                "one_by_one": 84.384,
            },
            "SPNet: 128 boxes, 14 x 14, on 1 x 116 x 188 x 384": {
                "at_once": 559.253,
                "one_by_one": 156.26,
                "separable": 980.782,
            },
            "SeqNet: 128 boxes, 14 x 14, on 1 x 57 x 94 x 1024": {
                "at_once": 1312.445,
                "one_by_one": 326.559,
                "separable": 1079.963,
            },
        },
        "roi_transform": {
            "RDLR: 16 boxes, 256 x 128, from 1 x 1080 x 1920 x 3, u8": {
                "gather": 24.031,
            },
        },
    },
}
