"""DCT-scaled decodes, the gates on embeddings, and the pixels of a decoder that is not Pillow."""

import io

import cv2
import imagehash
import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageCms

from benchmarks.textures import TEXTURES, jpeg
from motif.encoder.encoder import Encoder
from motif.encoder.source import resolve
from motif.images import decode as decoding
from motif.images.decode import DecodeError, decode
from motif.images.preprocess import SCALED_DECODE_MARGIN, to_pixels, wanted_side


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def size_of(data: bytes, shortest_side: int | None) -> tuple[int, int]:
    return decode(data, shortest_side=shortest_side).image.size


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.fixture(scope="module")
def large(picture) -> Image.Image:
    return picture(4, width=640, height=480)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    ("wanted", "factor"), [(None, 1), (241, 1), (240, 2), (121, 2), (120, 4), (60, 8), (1, 8)]
)
def test_jpeg_keeps_at_least_the_side_wanted(large, progressive, wanted, factor):
    data = saved(large, "JPEG", quality=90, progressive=progressive)
    assert size_of(data, wanted) == (640 // factor, 480 // factor)


def test_sides_that_do_not_divide_are_rounded_up(picture):
    data = saved(picture(1, width=333, height=501), "JPEG")
    assert size_of(data, 160) == (167, 251)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_scaled_picture_is_the_full_one_but_smaller(large, mode):
    data = saved(large.convert(mode), "JPEG", quality=92)
    full, scaled = decode(data), decode(data, shortest_side=200)
    assert scaled.image.size == (320, 240)
    assert scaled.image.mode == "RGB"
    expected = np.asarray(full.image.reduce(2)).astype(int)
    assert np.abs(np.asarray(scaled.image) - expected).mean() < 2
    assert scaled.content_hash == full.content_hash


@pytest.mark.parametrize("turn", [3, 6, 8])
def test_orientation_is_applied_after_scaling(large, turn):
    data = saved(large, "JPEG", quality=92, exif=orientation(turn))
    scaled = decode(data, shortest_side=200).image
    assert scaled.size == ((320, 240) if turn == 3 else (240, 320))
    expected = np.asarray(decode(data).image.reduce(2)).astype(int)
    assert np.abs(np.asarray(scaled) - expected).mean() < 2


def test_multi_picture_file_is_scaled_too(large):
    data = saved(large, "MPO", save_all=True, append_images=[Image.new("RGB", (640, 480))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    scaled = decode(data, shortest_side=200).image
    assert scaled.size == (320, 240)
    expected = np.asarray(large.reduce(2)).astype(int)
    assert np.abs(np.asarray(scaled) - expected).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_other_formats_are_decoded_in_full(large, kind):
    assert size_of(saved(large, kind), 10) == (640, 480)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_jpeg_is_refused_when_scaled(large, progressive, share):
    data = saved(large, "JPEG", quality=92, progressive=progressive)
    with pytest.raises(DecodeError) as caught:
        decode(data[: int(share * len(data))], shortest_side=100)
    assert caught.value.error_class == "truncated"


def test_bomb_is_refused_by_its_full_size(large, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 640 * 480 - 1)
    with pytest.raises(DecodeError) as caught:
        decode(saved(large, "JPEG"), shortest_side=10)
    assert caught.value.error_class == "bomb"


def test_side_that_is_not_positive_is_refused(large):
    with pytest.raises(ValueError, match="shortest_side must be positive, got 0"):
        decode(saved(large, "JPEG"), shortest_side=0)


# The gates; benchmarks/decode.py measures them on more pictures, and larger ones.


@pytest.fixture(scope="module")
def lite() -> Encoder:
    return Encoder(resolve("lite"))


def open_clips(image: Image.Image, encoder: Encoder) -> np.ndarray:
    """What open_clip's own transform makes of a picture, as uint8."""
    config = PreprocessCfg(
        **{
            name: getattr(encoder.space.preprocess, name)
            for name in ("size", "mean", "std", "interpolation", "resize_mode", "fill_color")
        }
    )
    transform = image_transform_v2(config, is_train=False)
    scaled = transform(image).permute(1, 2, 0).numpy()
    mean, std = np.array(config.mean), np.array(config.std)
    return np.round((scaled * std + mean) * 255).astype(np.uint8)


def test_embeddings_are_those_of_open_clips_transform_on_the_full_decode(lite):
    preprocess = lite.space.preprocess
    ours, theirs = [], []
    for name in TEXTURES:
        data = jpeg(TEXTURES[name](np.random.default_rng(5), (1080, 1200)))
        assert len(data) / (1080 * 1200) > 0.3  # bytes per pixel: fine detail is really there
        decoded = decode(data, shortest_side=wanted_side(preprocess))
        ours.append(to_pixels(decoded.image, preprocess))
        theirs.append(open_clips(Image.open(io.BytesIO(data)).convert("RGB"), lite))
    found, expected = (lite.encode_images(np.stack(p)).embedding for p in (ours, theirs))
    cosine = (found * expected).sum(axis=1)
    assert np.median(cosine) >= 0.9999
    assert cosine.min() >= 0.999


@pytest.mark.parametrize("name", TEXTURES)
def test_scaled_pixels_stay_close_at_the_margin_that_is_allowed(lite, name):
    side = 32
    shortest = SCALED_DECODE_MARGIN * side
    data = jpeg(TEXTURES[name](np.random.default_rng(6), (2 * shortest, 2 * shortest)))
    config = {**vars(lite.space.preprocess), "size": side}
    preprocess = type(lite.space.preprocess)(**config)
    assert wanted_side(preprocess) == shortest
    scaled, full = decode(data, shortest_side=shortest), decode(data)
    assert scaled.image.width == shortest
    apart = np.abs(
        to_pixels(scaled.image, preprocess).astype(int) - to_pixels(full.image, preprocess)
    )
    assert apart.mean() < 1.0
    assert (
        imagehash.hex_to_hash(scaled.perceptual_hash) - imagehash.hex_to_hash(full.perceptual_hash)
        <= 4
    )


# OpenCV's readers of GIF, BMP and PNG's modes are its own, and so is its code around libjpeg,
# libwebp and libtiff. It applies no colour profile.


def opencv(data: bytes) -> np.ndarray:
    """RGB, 8 bits, orientation applied, transparency dropped."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def opencv_on_white(data: bytes) -> np.ndarray:
    bgra = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).astype(float)
    alpha = bgra[..., 3:] / 255
    return (bgra[..., 2::-1] * alpha + 255 * (1 - alpha)).round()


def sixteen_bits(kind: str) -> bytes:
    values = np.random.default_rng(0).integers(0, 65536, (60, 80)).astype(np.uint16)
    return saved(Image.fromarray(values), kind)


def profiled(image: Image.Image, kind: str, **options) -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    return saved(image, kind, icc_profile=profile, **options)


OPAQUE = {
    "jpeg-420": lambda p: saved(p, "JPEG", quality=90, subsampling="4:2:0"),
    "jpeg-444": lambda p: saved(p, "JPEG", quality=90, subsampling="4:4:4"),
    "jpeg-progressive": lambda p: saved(p, "JPEG", quality=90, progressive=True),
    "jpeg-grey": lambda p: saved(p.convert("L"), "JPEG", quality=90),
    "jpeg-cmyk": lambda p: saved(p.convert("CMYK"), "JPEG", quality=95),
    "jpeg-profile": lambda p: profiled(p, "JPEG", quality=90),
    **{
        f"jpeg-orientation-{n}": lambda p, n=n: saved(p, "JPEG", exif=orientation(n))
        for n in range(1, 9)
    },
    "png": lambda p: saved(p, "PNG"),
    "png-profile": lambda p: profiled(p, "PNG"),
    "png-grey": lambda p: saved(p.convert("L"), "PNG"),
    "png-one-bit": lambda p: saved(p.convert("1"), "PNG"),
    "png-palette": lambda p: saved(p.quantize(32), "PNG"),
    "png-16-bit": lambda p: sixteen_bits("PNG"),
    "tiff": lambda p: saved(p, "TIFF", compression="tiff_lzw"),
    "tiff-16-bit": lambda p: sixteen_bits("TIFF"),
    "gif": lambda p: saved(p.quantize(64), "GIF"),
    "gif-animated": lambda p: saved(
        p.quantize(64), "GIF", save_all=True, append_images=[Image.new("RGB", p.size, "red")]
    ),
    "webp": lambda p: saved(p, "WEBP", quality=90),
    "webp-animated": lambda p: saved(
        p, "WEBP", lossless=True, save_all=True, append_images=[Image.new("RGB", p.size, "red")]
    ),
    "bmp": lambda p: saved(p, "BMP"),
}
# OpenCV takes the high byte of 16 bits and has its own rounding of CMYK and of WebP's chroma.
TOLERANCE = {"png-16-bit": 1, "tiff-16-bit": 1, "jpeg-cmyk": 3, "webp": 3}


@pytest.mark.parametrize("name", OPAQUE)
def test_pixels_are_those_of_opencv(picture, name):
    data = OPAQUE[name](picture(8, width=80, height=60))
    found, expected = np.asarray(decode(data).image).astype(int), opencv(data)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE.get(name, 0)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})]
)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_on_white_is_opencvs(picture, kind, options, mode):
    layered = picture(9, width=80, height=60).convert("RGBA")
    layered.putalpha(picture(10, width=80, height=60).convert("L"))
    data = saved(layered.convert(mode), kind, **options)
    found = np.asarray(decode(data).image).astype(int)
    assert np.abs(found - opencv_on_white(data)).max() <= 1
