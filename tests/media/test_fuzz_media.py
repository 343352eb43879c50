"""Damaged files: each decoder gives a picture or a recording, or says that it can't, and does nothing else.

A few examples always run. ``LLAMA_INDEX_MM_FUZZ_SECONDS=90`` runs each decoder for that many seconds, in a child process, so
that a crash or a hang is seen as one; what broke it is left in the folder of temporary files.
"""

import contextlib
import io
import json
import os
import sys
from functools import cache, partial

import numpy as np
import pytest
from fuzzing import damage, fuzz, run_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import PICTURE_SIDE, MediaLimits, Waveform, load_audio, load_picture, wav_bytes

av = pytest.importorskip("av")

FUZZ_SECONDS = float(os.environ.get("LLAMA_INDEX_MM_FUZZ_SECONDS", "0"))
HANG = 30.0  # seconds for one damaged file of some kilobytes, on a busy machine
LIMITS = MediaLimits(pixels=4_000_000, seconds=600)


@cache
def pictures():
    y, x = np.mgrid[0:40, 0:56]
    image = Image.fromarray(np.stack([x * 4, y * 6, x * y % 256], 2).astype(np.uint8))
    options = {
        "JPEG": {"quality": 80, "progressive": True},
        "TIFF": {"compression": "tiff_lzw"},
        "ICO": {"sizes": [(32, 32)]},
        "GIF": {"save_all": True, "append_images": [image.rotate(90)]},
        "WEBP": {"save_all": True, "append_images": [image.rotate(90)]},
    }
    seeds = [(kind, "RGB", options.get(kind, {})) for kind in ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF")]
    seeds += [(kind, "RGB", options.get(kind, {})) for kind in ("JPEG2000", "ICO", "ICNS", "DDS", "QOI", "PCX", "SGI", "MPO")]
    seeds += [
        ("PNG", "P", {}),
        ("TIFF", "F", {}),
        ("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}),
        ("JPEG", "CMYK", {}),
    ]
    seeds += [("PNG", "I;16", {}), ("TIFF", "1", {"compression": "group4"}), ("BMP", "P", {}), ("WEBP", "RGBA", {})]
    seeds += [("TIFF", "RGB", {"compression": "jpeg"}), ("TIFF", "RGB", {"compression": "packbits"}), ("XBM", "1", {})]
    return tuple(
        _picture(image.convert("L").convert(mode) if mode in ("F", "I;16") else image.convert(mode), kind, option)
        for kind, mode, option in seeds
    ) + _heif(image)


def _picture(image, kind, options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _heif(image):
    with contextlib.suppress(ImportError):
        import pillow_heif

        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, quality=50)
        return (buffer.getvalue(),)
    return ()


@cache
def sounds():
    samples = 0.4 * np.sin(np.arange(8000) / 9)
    seeds = [("wav", "pcm_s16le"), ("wav", "adpcm_ima_wav"), ("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus")]
    seeds += [
        ("mp4", "aac"),
        ("ipod", "alac"),
        ("adts", "aac"),
        ("matroska", "libopus"),
        ("webm", "libopus"),
        ("aiff", "pcm_s16be"),
    ]
    seeds += [
        ("au", "pcm_mulaw"),
        ("caf", "pcm_s16le"),
        ("asf", "wmav2"),
        ("ac3", "ac3"),
        ("avi", "libmp3lame"),
        ("flv", "libmp3lame"),
    ]
    seeds += [("mpeg", "mp2"), ("mpegts", "aac"), ("wv", "wavpack"), ("tta", "tta"), ("w64", "pcm_s24le"), ("ogg", "vorbis")]
    return (*(_sound(form, codec, samples) for form, codec in seeds), wav_bytes(Waveform(samples.astype(np.float32))))


def _sound(form, codec, samples):
    buffer = io.BytesIO()
    rate, layout = (48_000 if codec == "libopus" else 44_100), ("stereo" if codec == "vorbis" else "mono")
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2"})
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype("<i2"), format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return buffer.getvalue()


LOAD = {
    "load_picture": lambda data: load_picture(data, longest=PICTURE_SIDE, limits=LIMITS),
    "load_audio": lambda data: load_audio(data, limits=LIMITS),
}
SEEDS = {"load_picture": pictures, "load_audio": sounds}


def check(entry, data):
    """Decode; give what came of it."""
    try:
        got = LOAD[entry](data)
    except DecodeError:
        return "refused"
    if entry == "load_picture":
        assert got.image.mode == "RGB"
        assert max(got.image.size) <= PICTURE_SIDE
        assert got.width * got.height <= LIMITS.pixels
        assert got.frames >= 1
    else:
        assert got.samples.dtype == np.float32
        assert 0 < got.seconds <= LIMITS.seconds + 1
        assert np.isfinite(got.samples).all()
        assert np.abs(got.samples).max() <= 1
    return "decoded"


@pytest.mark.parametrize("entry", sorted(LOAD))
def test_whole_files_are_decoded(entry):
    assert [check(entry, data) for data in SEEDS[entry]()] == ["decoded"] * len(SEEDS[entry]())


@pytest.mark.parametrize("entry", sorted(LOAD))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files(entry, data):
    seed = data.draw(st.sampled_from(SEEDS[entry]()))
    check(entry, damage(seed, lambda below: data.draw(st.integers(0, below - 1))))


@pytest.mark.skipif(not FUZZ_SECONDS, reason="set LLAMA_INDEX_MM_FUZZ_SECONDS to run for that many seconds")
@pytest.mark.parametrize("entry", sorted(LOAD))
def test_fuzz(entry, capsys):
    told = run_child(__file__, entry, FUZZ_SECONDS, HANG, capsys)
    assert set(told) <= {"decoded", "refused", "slowest"}
    assert told["slowest"] < HANG


if __name__ == "__main__":
    sys.stdout.write(json.dumps(fuzz(partial(check, sys.argv[1]), SEEDS[sys.argv[1]](), float(sys.argv[2]), sys.argv[3])))
