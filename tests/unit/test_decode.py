import contextlib
import io
import struct
import time
import zlib

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from motif.images import decode as decoding
from motif.images.decode import DecodeError, decode


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode(data).image
    assert image.mode == "RGB"
    return np.asarray(image)


def refusal(data: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert caught.value.message
    return caught.value.error_class


def chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(width: int, height: int, *, depth: int, colour: int, rows: bytes, extra: bytes = b""):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def exif(*, tag: int = 0x0112, kind: int = 3, count: int = 1, value: bytes = b"\1\0\0\0") -> bytes:
    """EXIF with one entry, little-endian; kind 3 is SHORT, 2 is ASCII."""
    entry = struct.pack("<HHI", tag, kind, count) + value
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + b"\0\0\0\0"


@pytest.fixture
def upright(picture) -> Image.Image:
    return picture(3, width=64, height=48)


def test_plain_png_keeps_its_pixels_and_is_hashed(upright):
    data = encoded(upright, "PNG")
    result = decode(data)
    np.testing.assert_array_equal(np.asarray(result.image), np.asarray(upright))
    assert len(result.content_hash) == 32
    assert result.perceptual_hash == str(imagehash.phash(upright))


def test_plain_jpeg_is_what_pillow_decodes(upright):
    data = encoded(upright, "JPEG", quality=90)
    np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))


def test_truncated_jpeg(upright):
    data = encoded(upright, "JPEG")
    assert refusal(data[: len(data) // 2]) == "truncated"


def test_jpeg_cut_in_its_header_is_refused(upright):
    assert refusal(encoded(upright, "JPEG")[:20]) in ("truncated", "not_an_image")


def test_truncated_png(upright):
    data = encoded(upright, "PNG")
    assert refusal(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_truncated_files_of_other_formats(upright, kind):
    data = encoded(upright, kind)
    assert refusal(data[: len(data) // 2]) in ("truncated", "not_an_image")


def test_empty_file():
    assert refusal(b"") == "truncated"


def test_text_named_jpg():
    assert refusal(b"<html><body>404 Not Found</body></html>") == "not_an_image"


def test_svg_is_not_an_image_for_pillow():
    assert refusal(b'<svg xmlns="http://www.w3.org/2000/svg"/>') == "not_an_image"


def test_cmyk_jpeg_becomes_rgb():
    # Cyan, magenta, yellow, black; full magenta and yellow print red.
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    blue = Image.new("CMYK", (16, 16), (255, 255, 0, 0))
    both = Image.new("CMYK", (32, 16))
    both.paste(red, (0, 0))
    both.paste(blue, (16, 0))
    found = pixels(encoded(both, "JPEG", quality=95)).astype(int)
    assert np.abs(found[:, :12] - [255, 0, 0]).max() <= 6
    assert np.abs(found[:, 20:] - [0, 0, 255]).max() <= 6


def test_sixteen_bit_grey_png_is_scaled_not_clipped():
    values = np.array([[0, 257, 32768, 65535], [128 * 257, 1, 300, 60000]], np.uint16)
    found = pixels(encoded(Image.fromarray(values), "PNG"))
    expected = np.round(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=2))


def test_dark_sixteen_bit_grey_png_stays_dark():
    values = np.full((4, 4), 200, np.uint16)
    assert pixels(encoded(Image.fromarray(values), "PNG")).max() == 1


def test_sixteen_bit_grey_tiff():
    values = np.array([[0, 65535], [257 * 7, 257 * 100]], np.uint16)
    found = pixels(encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(found[..., 0], [[0, 255], [7, 100]])


def test_float_tiff_in_the_unit_range():
    values = np.array([[0.0, 1.0], [0.5, np.nan]], np.float32)
    found = pixels(encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(found[..., 1].ravel()[:3], [0, 255, 128])


def test_sixteen_bit_rgb_png_keeps_its_high_bytes():
    values = np.array([[[0xFFFF, 0, 0x8001], [0x1234, 0xABCD, 0x00FF]]], ">u2")
    data = png(2, 1, depth=16, colour=2, rows=b"\0" + values.tobytes())
    np.testing.assert_array_equal(pixels(data)[0], [[255, 0, 0x80], [0x12, 0xAB, 0]])


def test_palette_png_with_transparency_is_laid_on_white():
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0])
    palette.putdata([0, 1, 2])
    data = encoded(palette, "PNG", transparency=bytes([255, 0, 128]))
    # Opaque red, transparent blue, green at half strength.
    found = pixels(data)[0].astype(int)
    assert np.abs(found - [[255, 0, 0], [255, 255, 255], [127, 255, 127]]).max() <= 1


def test_palette_png_with_one_transparent_index():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    found = pixels(encoded(palette, "PNG", transparency=1))[0]
    np.testing.assert_array_equal(found, [[255, 0, 0], [255, 255, 255]])


def test_rgba_is_laid_on_white():
    values = np.array([[[255, 0, 0, 255], [0, 0, 0, 0], [0, 0, 255, 128]]], np.uint8)
    found = pixels(encoded(Image.fromarray(values), "PNG"))[0].astype(int)
    assert np.abs(found - [[255, 0, 0], [255, 255, 255], [127, 127, 255]]).max() <= 1


def test_grey_with_alpha_is_laid_on_white():
    values = np.array([[[0, 255], [0, 0], [100, 128]]], np.uint8)
    found = pixels(encoded(Image.fromarray(values, "LA"), "PNG"))[0].astype(int)
    assert np.abs(found - [[0] * 3, [255] * 3, [177] * 3]).max() <= 1


def test_rgb_png_with_a_transparent_colour():
    rows = b"\0" + bytes([10, 20, 30, 200, 100, 50])
    key = chunk(b"tRNS", struct.pack(">HHH", 10, 20, 30))
    found = pixels(png(2, 1, depth=8, colour=2, rows=rows, extra=key))[0]
    np.testing.assert_array_equal(found, [[255, 255, 255], [200, 100, 50]])


def test_greyscale_jpeg_has_three_equal_channels():
    values = np.tile(np.arange(0, 256, 4, np.uint8), (16, 1))
    found = pixels(encoded(Image.fromarray(values), "JPEG", quality=95)).astype(int)
    assert (found[..., 0] == found[..., 1]).all()
    assert (found[..., 0] == found[..., 2]).all()
    assert np.abs(found[..., 0] - values).max() <= 4


def test_one_bit_png():
    values = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(pixels(encoded(values, "PNG"))[0], [[255] * 3, [0] * 3])


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})]
)
def test_first_frame_of_an_animation(kind, options):
    first, *rest = frames()
    data = encoded(first, kind, save_all=True, append_images=rest, duration=50, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (pixels(data) == [255, 0, 0]).all()


def test_transparent_gif_is_laid_on_white():
    image = Image.new("RGBA", (4, 1), (0, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    found = pixels(encoded(image, "GIF"))[0]
    np.testing.assert_array_equal(found, [[255, 0, 0], *[[255] * 3] * 3])


STORED = {
    # What the camera stores so that the viewer, applying the orientation, sees the upright picture.
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotated_jpeg_is_turned_upright(upright, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(upright))))
    tag = exif(value=bytes([orientation, 0, 0, 0]))
    data = encoded(stored, "JPEG", quality=95, subsampling=0, exif=tag)
    found = pixels(data).astype(int)
    assert found.shape == (48, 64, 3)
    assert np.abs(found - np.asarray(upright)).mean() < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_rotated_lossless_file_is_turned_upright(upright, orientation, kind):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(upright))))
    options = {"lossless": True} if kind == "WEBP" else {}
    tag = exif(value=bytes([orientation, 0, 0, 0]))[6:]
    data = encoded(stored, kind, exif=tag, **options)
    np.testing.assert_array_equal(pixels(data), np.asarray(upright))


@pytest.mark.parametrize(
    "odd",
    [
        b"Exif\0\0garbage that is no TIFF",
        b"Exif\0\0",
        exif(value=bytes([99, 0, 0, 0])),
        exif(value=bytes([0, 0, 0, 0])),
        exif(kind=2, count=4, value=b"six\0"),
        exif(kind=2, count=4000, value=b"\xff\xff\xff\x7f"),
        exif(kind=5, value=b"\x1a\0\0\0") + b"\0" * 8,
        exif(kind=3, count=2, value=b"\6\0\6\0"),
        exif()[:16],
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
    ],
    ids=[
        *("garbage", "empty", "orientation-99", "orientation-0", "orientation-is-text"),
        *("points-outside", "orientation-is-a-fraction", "two-orientations", "cut", "no-directory"),
    ],
)
def test_weird_exif_does_not_cost_the_picture(upright, odd):
    data = encoded(upright, "JPEG", quality=95, subsampling=0, exif=odd)
    found = pixels(data).astype(int)
    expected = np.asarray(upright).astype(int)
    turned = np.rot90(expected, -1)
    # Two orientations in one tag may be read as the first of them; nothing else may turn it.
    target = turned if found.shape == turned.shape else expected
    assert np.abs(found - target).mean() < 1.5


def bombs() -> dict[str, bytes]:
    small = Image.new("RGB", (8, 8), "red")
    jpeg = bytearray(encoded(small, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    gif = bytearray(encoded(small, "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    bmp = bytearray(encoded(small, "BMP"))
    bmp[18:26] = struct.pack("<ii", 100_000, 100_000)
    return {
        "png": png(60_000, 60_000, depth=8, colour=2, rows=b"\0" * 60_000),
        "png-one-bit": png(100_000, 100_000, depth=1, colour=0, rows=b"\0" * 1000),
        "jpeg": bytes(jpeg),
        "gif": bytes(gif),
        "bmp": bytes(bmp),
    }


@pytest.mark.parametrize("name", bombs())
def test_bomb_is_refused_from_its_header(name, monkeypatch):
    def load(self):
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    data = bombs()[name]
    assert len(data) < 10_000
    start = time.perf_counter()
    assert refusal(data) == "bomb"
    assert time.perf_counter() - start < 0.5


def test_limit_of_pixels_is_inclusive(monkeypatch, upright):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 64 * 48)
    decode(encoded(upright, "PNG"))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 64 * 48 - 1)
    assert refusal(encoded(upright, "PNG")) == "bomb"


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PPM", "TGA", "PCX"])
def test_formats_that_are_not_accepted(upright, kind):
    assert refusal(encoded(upright, kind)) == "unsupported"


def test_bit_flip_in_the_pixels_of_a_png(upright):
    data = bytearray(encoded(upright, "PNG"))
    data[data.index(b"IDAT") + 20] ^= 0xFF
    assert refusal(bytes(data)) == "truncated"


def test_damaged_header_of_a_png(upright):
    data = bytearray(encoded(upright, "PNG"))
    data[data.index(b"IHDR") + 5] ^= 0xFF
    assert refusal(bytes(data)) in ("truncated", "not_an_image")


def test_png_that_has_no_pixels(upright):
    data = encoded(upright, "PNG")
    start = data.index(b"IDAT") - 4
    assert refusal(data[:start] + chunk(b"IEND", b"")) == "truncated"


def test_hashes_of_a_byte_copy_and_of_a_reencoded_copy(picture):
    image = picture(5, width=200, height=150)
    first, copy = encoded(image, "JPEG", quality=95), encoded(image, "JPEG", quality=80)
    assert decode(first).content_hash == decode(bytes(first)).content_hash
    assert decode(first).content_hash != decode(copy).content_hash
    one, other = (imagehash.hex_to_hash(decode(data).perceptual_hash) for data in (first, copy))
    assert one - other <= 4
    stranger = imagehash.hex_to_hash(decode(encoded(picture(6), "PNG")).perceptual_hash)
    assert one - stranger > 12


KINDS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF")
SEEDS = [encoded(Image.effect_noise((24, 16), 60).convert("RGB"), kind) for kind in KINDS]


@settings(max_examples=300, deadline=None)
@given(
    data=st.sampled_from(SEEDS),
    cut=st.floats(0, 1),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
)
def test_damaged_files_decode_or_are_refused_and_nothing_else(data, cut, edits):
    damaged = bytearray(data)
    for place, value in edits:
        damaged[int(place * (len(damaged) - 1))] = value
    with contextlib.suppress(DecodeError):
        assert decode(bytes(damaged[: int(cut * len(damaged))])).image.mode == "RGB"
