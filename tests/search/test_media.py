"""Files are found, read upright and dated; what is broken, hostile or too large is said to be so."""

import errno
import io
import os
import re
import struct
import zlib
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from gallery_cases import make_part
from PIL import Image
from search_fakes import draw_scene, make_video, save

from ps_jax.errors import DataError, GalleryError
from ps_jax.search import media
from ps_jax.search.files import MediaFile, find_files
from ps_jax.search.media import decode, look_at_picture, scene_image
from ps_jax.search.video import frames_expected, look_at_video


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
    os.symlink("nothing", tmp_path / "link.png")
    found, unread = find_files([tmp_path, tmp_path / "b.PNG"])
    assert unread == {}
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


@pytest.mark.parametrize(
    ("date", "offset"), [("0001:01:01 00:00:00", "+14:00"), ("9999:12:31 23:59:59", "-14:00")]
)
def test_dates_that_no_calendar_has_are_not_taken(date, offset):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[36867] = date
    exif.get_ifd(0x8769)[36881] = offset
    buffer = io.BytesIO()
    Image.fromarray(draw_scene({0: 10})).save(buffer, "PNG", exif=exif)
    assert decode(buffer.getvalue(), "x")[1] is None


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_pictures_of_sixteen_bits_keep_their_greys(kind):
    grey = draw_scene({1: 10})[:, :, 0]
    buffer = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(buffer, kind)
    image, _ = decode(buffer.getvalue(), "x")
    np.testing.assert_array_equal(image, np.repeat(grey[:, :, None], 3, axis=2))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pictures_that_do_not_say_what_is_white_are_refused(dtype):
    buffer = io.BytesIO()
    Image.fromarray(draw_scene({1: 10})[:, :, 0].astype(dtype)).save(buffer, "TIFF")
    with pytest.raises(DataError, match=r"x: .* which number is white; save it with 8 or 16 bits"):
        decode(buffer.getvalue(), "x")


def test_files_larger_than_any_picture_are_not_read(tmp_path, monkeypatch):
    path = save(draw_scene({0: 1}), tmp_path / "a.png")
    with path.open("r+b") as file:
        file.truncate((3 << 30) + 1)  # takes no room on the disk
    monkeypatch.setattr(Path, "read_bytes", None)
    look = look_at_picture(media_file(path))
    assert look.damage.startswith("3072 MiB are too many") and not look.passing


def test_what_cannot_be_read_now_is_no_damage(tmp_path, monkeypatch):
    picture, film = save(draw_scene({0: 1}), tmp_path / "a.png"), make_video(tmp_path / "a.mp4", frames=3)
    parts = [part_of(picture), part_of(film)]

    def faulty(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", faulty)
        looks = [look_at_picture(media_file(picture)), *look_at_video(media_file(film), 1.0)]
        assert [(look.passing, look.image) for look in looks] == [(True, None)] * 2
        assert {look.damage for look in looks} == {"cannot be read (Input/output error)"}
        for part in parts:
            with pytest.raises(GalleryError, match=r"cannot be read \(Input/output error\)"):
                scene_image(part, 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(media.Image, "open", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
        look = look_at_picture(media_file(picture))
        assert look.passing and look.damage == "cannot be read (out of memory)"


def test_folders_and_files_that_cannot_be_looked_at_are_listed(tmp_path, monkeypatch):
    for name in ("a.png", "closed/b.png", "c.png"):
        save(draw_scene({0: 1}), tmp_path / name)
    scandir, status_of = os.scandir, os.stat

    def denied(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", lambda path: (denied if "closed" in str(path) else scandir)(path))
    monkeypatch.setattr(
        os,
        "stat",
        lambda path, **more: denied(path) if str(path).endswith("c.png") else status_of(path, **more),
    )
    found, unread = find_files([tmp_path])
    assert [file.path for file in found] == [str(tmp_path / "a.png")]
    reason = "cannot be read (Permission denied)"
    assert unread == {str(tmp_path / "c.png"): reason, str(tmp_path / "closed"): reason}


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


def test_a_video_that_breaks_off_says_so(tmp_path):
    whole = make_video(tmp_path / "walk.avi", frames=20, kind="MJPG")
    assert [look.damage for look in look_at_video(media_file(whole), 10.0)] == [""] * 20
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) * 3 // 10])
    looks = list(look_at_video(media_file(whole), 10.0))
    assert 1 < len(looks) < 10 and looks[-1].last and looks[-1].image is not None
    assert re.fullmatch(r"the video breaks off after 0\.\d of 2\.0 seconds", looks[-1].damage)
    assert {look.damage for look in looks[:-1]} == {""}


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
