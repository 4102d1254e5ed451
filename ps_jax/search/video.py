"""Videos: the frames at a steady rate, and single ones again. Only files that begin like a video are opened."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from ps_jax.search.files import RGB, Look, MediaFile, reason_of


def look_at_video(file: MediaFile, fps: float, first: int = 0) -> Iterator[Look]:
    """The frames of a video at a steady rate: for each k the first frame that is not before k / fps seconds.

    Args:
      file: the video.
      fps: frames a second of it.
      first: number of the first frame wanted; the ones before it are passed over without being kept.

    Yields:
      Looks; a single one with its damage where no frame can be read. Where the video ends long before its own length,
      the last one says so.
    """
    taken = file.modified / 1e9
    try:
        damage = "" if _is_container(file.path) else "this is no video that can be read, or it is broken"
    except OSError as error:
        yield Look(file, first, 0.0, taken, None, True, reason_of(error), passing=True)
        return
    if damage:
        yield Look(file, first, 0.0, taken, None, True, damage)
        return
    import cv2

    capture = cv2.VideoCapture(file.path, cv2.CAP_FFMPEG)
    try:
        before: Look | None = None
        number, moment = 0, 0.0
        while capture.grab():
            moment = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            if moment < number / fps - 1e-3:
                continue
            if number >= first:
                readable, frame = capture.retrieve()
                if not readable:
                    break
                if before is not None:
                    yield before
                image = np.ascontiguousarray(frame[:, :, ::-1])
                before = Look(file, number, moment, taken, image, False)
            number = max(number + 1, int(np.ceil((moment + 1e-3) * fps)))  # a gap in the video is passed over
        _, length = _rate_and_length(capture)
        if moment + 1 < 0.9 * length:  # many files say their length roughly
            damage = f"the video breaks off after {moment:.1f} of {length:.1f} seconds"
        if before is not None:
            yield dataclasses.replace(before, last=True, damage=damage)
        else:
            if not number:
                damage = "no frame of this video can be read; it is broken or of an unknown coding"
            yield Look(file, first, 0.0, taken, None, True, damage)
    finally:
        capture.release()


def frames_expected(file: MediaFile, fps: float) -> int:
    """About how many frames `look_at_video` gives; 1 for a picture or where the video does not say."""
    try:
        if not file.is_video or not _is_container(file.path):
            return 1
    except OSError:
        return 1
    import cv2

    capture = cv2.VideoCapture(file.path, cv2.CAP_FFMPEG)
    try:
        rate, length = _rate_and_length(capture)
    finally:
        capture.release()
    return max(1, int(np.ceil(length * min(rate, fps))))


def _rate_and_length(capture: Any) -> tuple[float, float]:
    """Frames a second, and seconds, as a video's file says; zeros where it does not."""
    import cv2

    rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return (rate, count / rate) if rate > 0 and count > 0 else (0.0, 0.0)


def frame_at(path: str, moment: float) -> RGB | None:
    """The first frame not before a moment: by a jump to somewhat before it, where the video can be jumped in."""
    if not _is_container(path):
        return None
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    try:
        for start in (max(0.0, moment - 2.0), 0.0):
            capture.set(cv2.CAP_PROP_POS_MSEC, 1e3 * start)
            while capture.grab():
                here = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                if here > moment + 0.5:
                    break  # the jump went too far
                if here >= moment - 1e-3:
                    readable, frame = capture.retrieve()
                    return np.ascontiguousarray(frame[:, :, ::-1]) if readable else None
        return None
    finally:
        capture.release()


def _is_container(path: str) -> bool:
    """Whether a file begins like a video: a play list, a text that names other files, is never opened."""
    with open(path, "rb") as file:
        head = file.read(12)
    signs = (b"\x1a\x45\xdf\xa3", b"RIFF", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"\x47")
    boxes = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    return head.startswith(signs) or head[4:8] in boxes
