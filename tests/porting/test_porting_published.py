"""Published weights by name: fetched, verified, kept, and what is said where that fails. No network is used."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from ps_jax.errors import ConfigError, PortingError
from ps_jax.porting import published, read_tensors

FILE = Path(__file__).parent / "torch_files" / "network.pth"


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder in the place of the network, with one published file, and an empty cache."""
    data = FILE.read_bytes()
    name = f"small-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / name).write_bytes(data)
    monkeypatch.setattr(published, "URL", (tmp_path / "shop").as_uri() + "/")
    monkeypatch.setitem(published.PUBLISHED, "torchvision/small", name)
    monkeypatch.setenv("PS_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "shop" / name, tmp_path / "cache" / name


def test_a_file_is_fetched_once_and_then_used(shop):
    source, kept = shop
    assert len(read_tensors("torchvision/small")) == 9
    assert kept.read_bytes() == source.read_bytes()
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]  # nothing half-written
    source.unlink()
    np.testing.assert_array_equal(read_tensors("torchvision/small")["1.running_var"], np.ones(3))


def test_without_a_network_the_url_and_the_place_are_named(shop):
    source, kept = shop
    data = source.read_bytes()
    source.unlink()
    with pytest.raises(PortingError) as caught:
        read_tensors("torchvision/small")
    message = str(caught.value)
    assert f"{source.as_uri()} could not be fetched" in message
    assert (
        f"put it at {kept} (or into another folder named by the environment variable PS_JAX_CACHE)" in message
    )
    assert not list(kept.parent.iterdir())
    kept.write_bytes(data)  # as the message says
    assert len(read_tensors("torchvision/small")) == 9


def test_another_file_under_the_name_is_refused(shop):
    source, kept = shop
    source.write_bytes(b"a page that asks to log in")
    found = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    wanted = kept.stem.removeprefix("small-")
    with pytest.raises(
        PortingError, match=f"its sha256 begins with {found}, that of the published one with {wanted}"
    ):
        read_tensors("torchvision/small")


def test_unknown_names_are_answered_with_the_known_ones(shop):
    with pytest.raises(
        ConfigError, match=r"no weights 'torchvision/vgg16'.*torchvision/resnet50, .*or name a file"
    ):
        read_tensors("torchvision/vgg16")


def test_every_published_file_carries_its_hash():
    names = set(published.PUBLISHED.values())
    assert len(names) == len(published.PUBLISHED) == 12
    for name, file in published.PUBLISHED.items():
        model = name.removeprefix("torchvision/").removesuffix("/v2")
        assert re.fullmatch(rf"{model}-[0-9a-f]{{8}}\.pth", file)
