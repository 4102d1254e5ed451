"""Searches for people in your own pictures and videos.

    python search.py index PICTURES_OR_VIDEO ... --model DIR --gallery g/ [--fps 1]
    python search.py find --gallery g/ --query picture.jpg [--box X1 Y1 X2 Y2 | --pick N] [--cbgm 10,3]
    python search.py serve --gallery g/ [--port 8000]

DIR is a work directory of train.py or a package of python -m ps_jax.export. `index` looks at what is new or changed and
can be stopped at any time; the same command goes on. Read docs/responsible_use.md first. Exit codes: 2 something the
user can mend (one message on stderr), 130 after Ctrl-C (what was looked at is kept).
"""

import os
import sys

from ps_jax.errors import PersonSearchError


def main(arguments: list[str]) -> None:
    from ps_jax.search.answers import printable
    from ps_jax.search.commands import parser

    options = parser(__doc__).parse_args(arguments)
    for line in options.run(options).split("\n"):
        print(printable(line))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # JAX's compiler, too, greets through it
    try:
        main(sys.argv[1:])
    except PersonSearchError as error:
        print(f"search.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("search.py: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
