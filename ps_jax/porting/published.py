"""ImageNet weights by name: the files that torchvision publishes, fetched on request, verified, kept.

`--config.weights=torchvision/resnet50` looks for the file in the cache folder ($PS_JAX_CACHE, else ~/.cache/ps_jax),
fetches it if it is not there, and compares its hash with the one that torchvision writes into the file's name.
Without a network the same file can be put there by hand.
"""

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

from absl import logging

from ps_jax.errors import ConfigError, PortingError

URL = "https://download.pytorch.org/models/"
TIMEOUT = 30.0  # seconds without a byte
PREFIX = "torchvision/"

# torchvision's name of the model -> its file, whose name ends in the first 8 hexadecimal digits of its sha256. The
# first weights published of each (IMAGENET1K_V1), which papers start from; "/v2" are IMAGENET1K_V2, a longer recipe.
PUBLISHED = {
    "torchvision/resnet50": "resnet50-0676ba61.pth",
    "torchvision/resnet50/v2": "resnet50-11ad3fa6.pth",
    "torchvision/convnext_tiny": "convnext_tiny-983f1562.pth",
    "torchvision/convnext_base": "convnext_base-6075fbad.pth",
    "torchvision/swin_t": "swin_t-704ceda3.pth",
    "torchvision/swin_s": "swin_s-5e29d889.pth",
    "torchvision/swin_b": "swin_b-68c6b09e.pth",
    "torchvision/swin_v2_t": "swin_v2_t-b137f0e2.pth",
    "torchvision/swin_v2_s": "swin_v2_s-637d8ceb.pth",
    "torchvision/swin_v2_b": "swin_v2_b-781e5279.pth",
    "torchvision/mobilenet_v2": "mobilenet_v2-b0353104.pth",
    "torchvision/mobilenet_v2/v2": "mobilenet_v2-7ebf99e0.pth",
}


def is_published(weights: str | Path) -> bool:
    """Whether this is the name of published weights rather than a path."""
    return str(weights).startswith(PREFIX) and not Path(weights).exists()


def published_weights(name: str) -> Path:
    """The file of published weights, fetched if it is not in the cache yet.

    Args:
      name: one of `PUBLISHED`.

    Returns:
      Path of the verified file.

    Raises:
      ConfigError: there are no weights of that name.
      PortingError: the file cannot be fetched, which says where to put it by hand, or is not the published one.
    """
    if name not in PUBLISHED:
        raise ConfigError(
            f"There are no weights {name!r}. Choose one of: {', '.join(PUBLISHED)}; or name a file."
        )
    file = PUBLISHED[name]
    path = cache_folder() / file
    if not path.is_file():
        _fetch(URL + file, path)
    _verify(path, URL + file)
    return path


def cache_folder() -> Path:
    """Where fetched files are kept: $PS_JAX_CACHE, else ~/.cache/ps_jax."""
    return Path(os.environ.get("PS_JAX_CACHE") or Path.home() / ".cache" / "ps_jax")


def _fetch(url: str, path: Path) -> None:
    """Downloads to a file beside `path`, which appears only when it is whole."""
    logging.info("fetching %s", url)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=TIMEOUT) as source, unfinished.open("wb") as target:
            while block := source.read(1 << 20):
                target.write(block)
            wanted = source.headers.get("Content-Length")
            if wanted is not None and target.tell() != int(wanted):
                raise OSError(f"the connection ended after {target.tell()} of {wanted} bytes")
        unfinished.replace(path)
    except OSError as error:  # urllib's errors among them
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise PortingError(
            f"{url} could not be fetched ({reason}). Where there is no network, fetch this file elsewhere and put it "
            f"at {path} (or into another folder named by the environment variable PS_JAX_CACHE)."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _verify(path: Path, url: str) -> None:
    """Compares the hash with the digits in the file's name."""
    wanted = path.stem.rpartition("-")[2]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[: len(wanted)]
    if found != wanted:
        raise PortingError(
            f"{path} is damaged or another file: its sha256 begins with {found}, that of the published one with "
            f"{wanted}. Delete it and start again, or put there what {url} gives."
        )
