"""Files are found, read upright and dated; what is broken, hostile or too large is said to be so."""

import io
import os
import struct
import zlib
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from gallery_cases import make_part
from PIL import Image
from search_fakes import draw_scene, make_video, save

from ps_jax.errors import DataError, GalleryError
from ps_jax.search import media
from ps_jax.search.media import (
    MediaFile,
    decode,
    find_files,
    frames_expected,
    look_at_picture,
    look_at_video,
    scene_image,
)


def media_file(path):
    status = path.stat()
    return MediaFile(str(path), status.st_size, status.st_mtime_ns)


def part_of(path):
    status = os.stat(path)
    changes = {"path": str(path), "size": status.st_size, "modified": status.st_mtime_ns}
    return make_part(0, 1, height=120, width=200, **changes)


def test_folders_are_searched_to_the_bottom(tmp_path):
    for name in ("b.PNG", "a/deep/c.jpeg", "a/film.MP4", "notes.txt", "a/d.svg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found = find_files([tmp_path, tmp_path / "b.PNG"])
    names = [os.path.relpath(file.path, tmp_path) for file in found]
    assert names == ["a/deep/c.jpeg", "a/film.MP4", "b.PNG"]
    assert [file.is_video for file in found] == [False, True, False]
    assert found[0].size == 1 and found[0].modified == (tmp_path / "a/deep/c.jpeg").stat().st_mtime_ns
    with pytest.raises(DataError, match=r"notes.txt: neither a picture nor a video"):
        find_files([tmp_path / "notes.txt"])
    with pytest.raises(DataError, match="there is no such file or folder"):
        find_files([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there are no pictures or videos in it"):
        find_files([tmp_path / "empty"])


def test_pictures_are_turned_upright_and_dated(tmp_path):
    image = draw_scene({0: 10})
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    exif.get_ifd(0x8769)[36867] = "2024:05:17 10:30:00"
    exif.get_ifd(0x8769)[36881] = "+02:00"
    path = save(image, tmp_path / "phone.png", exif=exif)
    look = look_at_picture(media_file(path))
    np.testing.assert_array_equal(look.image, np.rot90(image, -1))
    expected = datetime(2024, 5, 17, 10, 30, tzinfo=timezone(timedelta(hours=2))).timestamp()
    assert (look.taken, look.last, look.damage, look.number) == (expected, True, "", 0)
    plain = save(image, tmp_path / "plain.png")
    os.utime(plain, ns=(0, 1_500_000_000_250_000_000))
    assert look_at_picture(media_file(plain)).taken == pytest.approx(1_500_000_000.25, abs=1e-6)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_colour_mode_becomes_rgb(mode):
    buffer = io.BytesIO()
    Image.fromarray(draw_scene({1: 10})).convert(mode).save(buffer, "TIFF")
    image, taken = decode(buffer.getvalue(), "x")
    assert image.shape == (120, 200, 3) and image.dtype == np.uint8 and taken is None


def png_of(width, height):
    """A PNG file that claims a size and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(9000, 9000), (10_000, 9_500), (50_000, 50_000), (40_000, 10)])
def test_decompression_bombs_are_refused_before_they_are_decoded(size):
    with pytest.raises(DataError, match=r"bomb.png: .*too many"):
        decode(png_of(*size), "bomb.png")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"GIF89a" + bytes(40),
        b"\xff\xd8\xff\xe0" + bytes(30),
        png_of(10, 10),
    ],
    ids=["empty", "svg", "postscript", "gif", "cut jpeg", "png without pixels"],
)
def test_what_is_no_whole_picture_is_refused(data):
    with pytest.raises(DataError, match="no picture that can be read"):
        decode(data, "x")


def test_any_cut_of_a_picture_is_damage_and_nothing_else(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(draw_scene({1: 10})).save(buffer, "JPEG")
    data = buffer.getvalue()
    for length in range(0, len(data) - 100, len(data) // 20):
        path = tmp_path / "cut.jpg"
        path.write_bytes(data[:length])
        look = look_at_picture(media_file(path))
        assert look.image is None and look.damage.startswith("this is no picture") and look.last


def test_frames_of_a_video_come_at_the_asked_rate(tmp_path):
    file = media_file(make_video(tmp_path / "walk.mp4"))  # 5 seconds at 10 frames a second
    looks = list(look_at_video(file, fps=2))
    assert [look.number for look in looks] == list(range(10))
    np.testing.assert_allclose([look.moment for look in looks], np.arange(10) / 2, atol=1e-6)
    assert [look.last for look in looks] == [False] * 9 + [True]
    assert frames_expected(file, 2) == 10
    # The walker of frame 5 k stands at 5 + 5 k.
    for k, look in enumerate(looks):
        red = look.image[60].astype(int)
        left = np.flatnonzero((red[:, 0] > 180) & (red[:, 1] < 90))[0]
        assert abs(left - (5 + 5 * k)) <= 2
    rest = list(look_at_video(file, fps=2, first=7))
    assert [look.number for look in rest] == [7, 8, 9]
    np.testing.assert_array_equal(rest[0].image, looks[7].image)
    assert len(list(look_at_video(file, fps=100))) == 50  # not more than there are
    again = scene_image(part_of(file.path), looks[7].moment)
    np.testing.assert_array_equal(again, looks[7].image)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\0" * 400,
        b"\0\0\0\x18ftypmp42" + bytes(500),
    ],
    ids=["empty", "play list", "concatenation", "zeros", "head alone"],
)
def test_broken_videos_and_lists_of_files_are_damage(tmp_path, data):
    path = tmp_path / "film.mp4"
    path.write_bytes(data)
    looks = list(look_at_video(media_file(path), fps=1))
    assert len(looks) == 1 and looks[0].image is None and looks[0].last and "video" in looks[0].damage
    assert frames_expected(media_file(path), 1) == 1


def test_scenes_that_are_gone_or_changed_are_said_to_be(tmp_path):
    path = save(draw_scene({0: 1}), tmp_path / "a.png")
    part = part_of(path)
    np.testing.assert_array_equal(scene_image(part, 0.0), draw_scene({0: 1}))
    save(draw_scene({0: 90}), path)  # another picture of the same height and width
    with pytest.raises(GalleryError, match="has changed since it was indexed"):
        scene_image(part, 0.0)
    path.unlink()
    with pytest.raises(GalleryError, match="is gone"):
        scene_image(part, 0.0)
    assert media.MOST_PIXELS * 3 < 2**28  # what one picture may take, in bytes
