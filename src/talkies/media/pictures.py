"""Reads pictures. A guarded child process decodes them, in bands: that needs little memory besides the decoder's."""

from __future__ import annotations

import io
import math
import mmap
import os
import re
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import InputError, printable
from .ffmpeg import TRANSFERS, ffmpeg_path, hdr_filters
from .guarded import allow, read_guarded

if TYPE_CHECKING:  # importing numpy and pillow takes longer than importing this file
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as PillowImage
    from PIL import ImageCms

    Frame = NDArray[np.uint8]  # [height, width, 3], RGB

MIN_SIDE = 8  # pixels; smaller pictures show nothing
MAX_SIDE = 20_000
MAX_PIXELS = 120_000_000  # 120 MP: 360 MB as RGB
MAX_PICTURE_BYTES = 1 << 30
AGAIN = "scale it down, or save it again with another program"
# pillow's formats for photos and drawings; none starts another program (as EPS does).
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF", "PPM", "JPEG2000")
HEAD_BYTES = 1 << 16  # in which HEIF and AVIF tell of their colours
BAND_PIXELS = 4_000_000
LARGE_PIXELS = 30_000_000  # from this size on, a decoder may reach the memory limit
SECONDS = 10  # seconds of processor time for a picture, and for each megapixel (JPEG 2000, the slowest, takes 0.2) …
SECONDS_A_MEGAPIXEL = 1
THREADS = 4  # threads, for decoders that use them

_turn = threading.Lock()


def size_fault(width: int, height: int) -> str | None:
    """Return what is wrong with the size of a picture or clip; None for a good one."""
    if min(width, height) < MIN_SIDE:
        return f"{width}x{height} pixels is too small: give one of at least {MIN_SIDE} a side"
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        return (
            f"{width}x{height} pixels is too large: scale it to at most {MAX_SIDE:,} a side and "
            f"{MAX_PIXELS // 10**6} megapixels"
        )
    return None


def read_picture(path: str | Path) -> Frame:
    """Return a picture as viewers show it: uint8 [H,W,3], sRGB.

    It is turned as EXIF says, with transparency on white and its colour profile applied; high dynamic range (HEIC,
    AVIF) is mapped to ours; grey, palette, 16 bit, float, CMYK and 1 bit are converted; of an animation it
    is the first frame.

    Raises InputError if it is not a picture, is damaged, crashes its decoder, needs too much memory or time, or has
    sides under 8 or over 20,000 pixels or over 120 megapixels; TalkiesError or OSError if the machine failed.
    """
    return read_reduced(path, MAX_SIDE)[0]


def read_reduced(path: str | Path, side: int) -> tuple[Frame, tuple[int, int]]:
    """Return a picture as `read_picture` does, and its width and height.

    A JPEG is decoded at a half, a quarter or an eighth of its size if that leaves its longer side `side` pixels.
    """
    import numpy as np

    with _turn:  # one large picture at a time
        answer, shared = read_guarded(path, f"picture {side}", again=AGAIN, most=MAX_PICTURE_BYTES)
    width, height = answer["size"]
    try:
        pixels = mmap.mmap(shared, width * height * 3)
    finally:
        os.close(shared)
    picture = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    if answer["hdr"]:
        _map_hdr(picture, answer["hdr"])
    return picture, tuple(answer["whole"])


def _map_hdr(picture: Frame, transfer: str) -> None:
    """Map a picture with this transfer function and BT.2020's primaries, in its place."""
    import numpy as np

    width = picture.shape[1]
    rows = max(1, BAND_PIXELS // width)  # of bands: their light takes 12 bytes a pixel
    for top in range(0, len(picture), rows):
        band = picture[top : top + rows]
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
        command = [ffmpeg_path(), "-v", "error", *raw, "-s", f"{width}x{len(band)}", "-i", "pipe:0"]
        command += ["-vf", f"format=gbrp16le,{hdr_filters(transfer)}", *raw, "pipe:1"]
        mapped = subprocess.run(command, input=band.tobytes(), stdout=subprocess.PIPE, check=True).stdout
        band[:] = np.frombuffer(mapped, np.uint8).reshape(band.shape)


# --- in the child process ----------------------------------------------------------------------------------


def why(head: bytes, error: Exception) -> str:
    """Return what is wrong with a picture."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        return f"its picture is too large: scale it to at most {MAX_PIXELS // 10**6} megapixels"
    if re.match(rb"\s*(<!doctype html|<html)", head, re.IGNORECASE):
        return "this is a web page, not a picture; download the picture itself"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that can be read: give a PNG, JPEG, WebP, HEIC, AVIF, TIFF, GIF or BMP"
    return f"the picture is damaged or cut short ({printable(str(error))[:120]}); copy or download it again"


def read(file: BinaryIO, side: int = MAX_SIDE) -> tuple[dict[str, Any], int]:
    """Return a picture's width and height, and a descriptor of shared memory: rows of 8 bit sRGB.

    side: see `read_reduced`. whole: width and height in the file. hdr: their transfer function, if that is of high
    dynamic range.
    """
    from PIL import Image, ImageOps

    allow(SECONDS)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if head[4:8] == b"ftyp":
        _register_heif()
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked here; odd EXIF needs no message
        with Image.open(file, formats=[f for f in FORMATS if f in Image.OPEN]) as opened:
            if fault := size_fault(*opened.size):
                raise InputError("", fault)
            allow(SECONDS + SECONDS_A_MEGAPIXEL * math.prod(opened.size) / 1e6)
            whole = width, height = opened.size
            least = side / max(whole)
            opened.draft(opened.mode, (math.ceil(width * least), math.ceil(height * least)))  # of JPEG alone
            reduced = opened.size
            _load(opened)
            profile = opened.info.get("icc_profile")
            try:
                ImageOps.exif_transpose(opened, in_place=True)
            except MemoryError:
                raise
            except Exception:
                pass  # unreadable EXIF does not matter
            transfer = None if profile else _transfer(head)
            whole = whole if opened.size == reduced else whole[::-1]
            return {"size": opened.size, "whole": whole, "hdr": transfer}, _to_shared_memory(opened, profile)


def _load(image: PillowImage.Image) -> None:
    """Decode the pixels. A decoder that gets no memory says so, or says that the picture is damaged."""
    try:
        image.load()
    except OSError as error:
        if math.prod(image.size) < LARGE_PIXELS:
            raise
        reason = f"its decoder fails ({printable(str(error))[:120]})"
        raise InputError("", f"{reason}: scale it down, as it is large, or copy or download it again") from None


@cache
def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        return  # not needed for other pictures
    pillow_heif.options.DECODE_THREADS = min(THREADS, pillow_heif.options.DECODE_THREADS)
    pillow_heif.register_heif_opener()


def _transfer(head: bytes) -> str | None:
    """Return "PQ" or "HLG" of a HEIF or AVIF file, from its colour box: primaries, transfer function, matrix."""
    place = head.find(b"colrnclx") if head[4:8] == b"ftyp" else -1
    return TRANSFERS.get(int.from_bytes(head[place + 10 : place + 12])) if place > 0 else None


def _to_shared_memory(image: PillowImage.Image, profile: bytes | None) -> int:
    descriptor = os.memfd_create("picture")
    try:
        full = _full_scale(image)
        for band in _bands(image):
            rest = memoryview(_to_rgb(band, profile, full))
            while rest:
                rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _bands(image: PillowImage.Image) -> Iterator[PillowImage.Image]:
    width, height = image.size
    rows = max(1, BAND_PIXELS // width)
    if rows >= height:
        yield image
        return
    for top in range(0, height, rows):
        yield image.crop((0, top, width, min(top + rows, height)))


def _to_rgb(image: PillowImage.Image, profile: bytes | None, full: float) -> bytes:
    """Return the bytes of an image as 8 bit sRGB, with transparency on white."""
    colours, alpha = _split_alpha(image)
    rgb = _to_srgb(colours, profile, full)
    if alpha is None:
        return rgb.tobytes()
    from PIL import Image

    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)  # colours are not premultiplied by alpha
    return white.tobytes()


def _split_alpha(image: PillowImage.Image) -> tuple[PillowImage.Image, PillowImage.Image | None]:
    """Return the colours and, if there is any transparency, alpha (mode L)."""
    keyed = "transparency" in image.info and image.mode in ("1", "L", "RGB", "P")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or keyed:
        rgba = image.convert("RGBA")
        grey = image.mode in ("LA", "La", "L", "1")
        return rgba.convert("RGB").convert("L") if grey else rgba.convert("RGB"), rgba.getchannel("A")
    if image.mode == "P":
        return image.convert("RGB"), None
    return image, None


def _to_srgb(image: PillowImage.Image, profile: bytes | None, full: float) -> PillowImage.Image:
    """Convert an image without alpha to 8 bit sRGB, by its colour profile if it has a usable one."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_eight_bits(image, full)
    if image.mode == "1":
        image = image.convert("L")
    if profile and image.mode in ("RGB", "L", "CMYK"):
        from PIL import ImageCms

        # A profile that does not fit the picture's colours is common; viewers ignore it too.
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            if (transform := _transform(profile, image.mode)) is not None:
                return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")  # converting to the same mode would copy


@lru_cache(maxsize=4)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None if it is sRGB."""
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "srgb" in ImageCms.getProfileDescription(source).lower():
        return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


def _full_scale(image: PillowImage.Image) -> float:
    """Return the white level of 16 bit grey (65535) or float (1, 255 or 65535, by its largest value)."""
    if image.mode != "F":
        return 65535.0
    import numpy as np

    largest = max(float(np.nan_to_num(np.asarray(band, np.float64)).max()) for band in _bands(image))
    return 65535.0 if largest > 255 else 255.0 if largest > 1 else 1.0


def _to_eight_bits(image: PillowImage.Image, full: float) -> PillowImage.Image:
    """Scale 16 bit or float grey to 8 bits."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, np.float64))
    return Image.fromarray(np.clip(np.rint(values * (255 / full)), 0, 255).astype(np.uint8), "L")
