"""A server of a small gallery in a process of its own: python served.py FOLDER PORT_FILE."""

import socket
import sys
from pathlib import Path

import uvicorn
from search_fakes import ColourDetector, make_folder, make_video
from test_indexing import index

from ps_jax.search import guards
from ps_jax.search.gallery import Gallery
from ps_jax.search.guards import CONNECTIONS, Prompt
from ps_jax.search.server import SearchService, make_app
from ps_jax.search.stores import open_store


def main(folder: Path, port_file: Path) -> None:
    guards.HEAD_SECONDS = 5.0  # for a test that waits for it
    make_folder(folder / "pictures")
    make_video(folder / "pictures" / "walk.mp4", frames=20)
    index(folder / "g", folder / "pictures")
    service = SearchService(Gallery(open_store(str(folder / "g"))), ColourDetector())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(200)
        port_file.write_text(str(listener.getsockname()[1]))
        config = uvicorn.Config(
            make_app(service, ["Search.example"], most_upload=1 << 20),
            http=Prompt,
            log_level="warning",
            server_header=False,
            limit_concurrency=CONNECTIONS,
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
