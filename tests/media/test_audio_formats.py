"""Every container and sample format that is taken, against samples worked out here."""

import io
import struct

import numpy as np
import pytest

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import SAMPLE_RATE, load_audio, modality_of
from llama_index_mm.media.formats import CODECS, DEMUXERS, SOUNDS

av = pytest.importorskip("av")

PCM, FLOAT, ALAW, MULAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
NOISE = np.random.default_rng(0).uniform(-0.9, 0.9, 4000)


def wav(data, *, code=PCM, bits=16, rate=16_000, channels=1, before=b"", riff=b"RIFF", stated=None, extra=b""):
    """A WAV file around raw bytes; `before` goes in front of the data chunk, `stated` is the length that the header tells."""
    width = bits // 8 * channels
    form = struct.pack("<HHIIHH", code, channels, rate, rate * width % 2**32, width % 2**16, bits) + extra
    size = len(data) if stated is None else stated
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + data
    return riff + struct.pack("<I", 0xFFFFFFFF if riff == b"RF64" else len(body)) + body


def whole(samples, bits):
    return np.rint(samples * (2 ** (bits - 1) - 1)).astype(np.int64)


def packed24(samples):
    return whole(samples, 24).astype("<i4").reshape(-1, 1).view("u1").reshape(-1, 4)[:, :3].tobytes()


def mulaw(code):
    """G.711: the value of a code byte, in 16 bits."""
    code = ~code & 0xFF
    size = (((code & 0x0F) << 3) + 0x84 << (code >> 4 & 7)) - 0x84
    return -size if code & 0x80 else size


def alaw(code):
    """G.711: the value of a code byte, in 16 bits."""
    code ^= 0x55
    size, step = (code & 0x0F) << 4, code >> 4 & 7
    size = size + 8 if step == 0 else size + 0x108 << step - 1
    return size if code & 0x80 else -size


def test_eight_bits_are_unsigned():
    data = np.arange(256, dtype=np.uint8).repeat(20)
    np.testing.assert_array_equal(load_audio(wav(data.tobytes(), bits=8)).samples, (data / 128.0 - 1).astype(np.float32))


@pytest.mark.parametrize(
    ("bits", "data"),
    [(16, whole(NOISE, 16).astype("<i2").tobytes()), (24, packed24(NOISE)), (32, whole(NOISE, 32).astype("<i4").tobytes())],
)
def test_whole_numbers(bits, data):
    wanted = (whole(NOISE, bits) / 2 ** (bits - 1)).astype(np.float32)
    np.testing.assert_allclose(load_audio(wav(data, bits=bits)).samples, wanted, atol=6e-8, rtol=0)


@pytest.mark.parametrize("bits", [32, 64])
def test_floats(bits):
    data = NOISE.astype(f"<f{bits // 8}").tobytes()
    np.testing.assert_array_equal(load_audio(wav(data, code=FLOAT, bits=bits)).samples, NOISE.astype(np.float32))


@pytest.mark.parametrize(("code", "value"), [(MULAW, mulaw), (ALAW, alaw)])
def test_telephone_codes(code, value):
    codes = np.arange(256, dtype=np.uint8).repeat(16)
    wanted = np.array([value(int(one)) for one in codes]) / 32768
    np.testing.assert_allclose(load_audio(wav(codes.tobytes(), code=code, bits=8)).samples, wanted, atol=1e-7)


def test_extensible():
    kind = struct.pack("<H", PCM) + bytes.fromhex("000000001000800000aa00389b71")
    extra = struct.pack("<HHI", 22, 16, 4) + kind
    data = whole(NOISE, 16).astype("<i2").tobytes()
    wanted = load_audio(wav(data)).samples
    np.testing.assert_array_equal(load_audio(wav(data, code=EXTENSIBLE, extra=extra)).samples, wanted)


def test_rf64():
    data = whole(NOISE, 16).astype("<i2").tobytes()
    sizes = b"ds64" + struct.pack("<IQQQI", 28, len(data) + 80, len(data), len(data) // 2, 0)
    got = load_audio(wav(data, riff=b"RF64", before=sizes, stated=0xFFFFFFFF)).samples
    np.testing.assert_array_equal(got, load_audio(wav(data)).samples)


def test_chunks_of_odd_size_and_unknown_names():
    data = whole(NOISE, 16).astype("<i2").tobytes()
    before = b"LIST" + struct.pack("<I", 5) + b"INFO!" + b"\0" + b"junk" + struct.pack("<I", 3) + b"abc\0"
    np.testing.assert_array_equal(load_audio(wav(data, before=before)).samples, load_audio(wav(data)).samples)


def test_header_that_states_more_than_there_is():
    data = whole(NOISE, 16).astype("<i2").tobytes()
    np.testing.assert_array_equal(load_audio(wav(data, stated=0xFFFFFFF0)).samples, load_audio(wav(data)).samples)


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 8, 16, 64])
def test_channels_are_averaged(channels):
    parts = np.random.default_rng(1).uniform(-1, 1, (3000, channels)).astype("<f4")
    got = load_audio(wav(parts.tobytes(), code=FLOAT, bits=32, channels=channels)).samples
    np.testing.assert_allclose(got, parts.mean(1), atol=1e-6)


@pytest.mark.parametrize("rate", [1_000, 4_000, 8_000, 12_000, 32_000, 88_200, 176_400, 192_000, 384_000, 1_000_000])
def test_rates(rate):
    tone = 0.5 * np.sin(2 * np.pi * 200 * np.arange(rate) / rate)
    sound = load_audio(wav(whole(tone, 16).astype("<i2").tobytes(), rate=rate))
    assert sound.seconds == pytest.approx(1, abs=0.005)
    wanted = 0.5 * np.sin(2 * np.pi * 200 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    np.testing.assert_allclose(sound.samples[4000:12000], wanted[4000:12000], atol=0.02)


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1, 2**32 - 1])
def test_rates_of_no_recording(make, rate):
    path = make.bytes("odd.wav", wav(bytes(4000), rate=rate))
    with pytest.raises(DecodeError, match=r"^odd\.wav (has .* samples a second; from 1,000 to 1,000,000 are taken|can't be)"):
        load_audio(path)


@pytest.mark.parametrize("channels", [65, 512, 65535])
def test_channels_of_no_recording(make, channels):
    with pytest.raises(
        DecodeError, match=r"^odd\.wav (has \d+ channels; at most 64 are taken|can't be decoded|holds no sound)"
    ):
        load_audio(make.bytes("odd.wav", wav(bytes(65535 * 4), channels=channels)))


def encode(path, codec, *, rate=44_100, layout="mono", form=None, video=None, seconds=2, cover=False, tags=None):
    """A tone of 660 Hz by FFmpeg's own encoders."""
    tone = 0.5 * np.sin(2 * np.pi * 660 * np.arange(rate * seconds) / rate)
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    samples = np.tile((tone * 32767).astype("<i2")[:, None], (1, channels)).reshape(1, -1)
    with av.open(str(path), "w", format=form) as container:
        container.metadata.update(tags or {})
        pictures = container.add_stream(video, rate=25) if video else None
        if pictures is not None:
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        art = container.add_stream("png", rate=1) if cover else None
        if art is not None:
            art.width, art.height, art.pix_fmt, art.disposition = 16, 16, "rgb24", av.stream.Disposition.attached_pic
        stream = container.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2"})
        stream.bit_rate = 128_000 if rate > 8000 else 12_200
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=stream.frame_size or None)
        if art is not None:
            container.mux(art.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        for _ in range(25 * seconds if pictures else 0):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        if pictures is not None:
            container.mux(pictures.encode(None))
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


OPUS, TELEPHONE = {"rate": 48_000}, {"rate": 8_000}
ENCODED = {
    ".wav": ("pcm_s16le", {}),
    ".wave": ("adpcm_ima_wav", {"form": "wav"}),
    ".rf64": ("pcm_s24le", {"form": "wav"}),
    ".w64": ("pcm_s24le", {}),
    ".flac": ("flac", {}),
    ".mp3": ("libmp3lame", {}),
    ".mp2": ("mp2", {}),
    ".ogg": ("vorbis", {"layout": "stereo"}),
    ".oga": ("libopus", {**OPUS, "form": "ogg"}),
    ".opus": ("libopus", OPUS),
    ".m4a": ("aac", {}),
    ".m4b": ("alac", {}),
    ".aac": ("aac", {}),
    ".aif": ("pcm_s16be", {}),
    ".aiff": ("pcm_s24be", {}),
    ".aifc": ("pcm_s16be", {}),
    ".au": ("pcm_s16be", {}),
    ".snd": ("pcm_mulaw", {"form": "au"}),
    ".caf": ("pcm_s16le", {}),
    ".wma": ("wmav2", {}),
    ".amr": ("libopencore_amrnb", TELEPHONE),
    ".ac3": ("ac3", {"rate": 48_000, "layout": "5.1"}),
    ".mka": ("libopus", OPUS),
    ".weba": ("libopus", {**OPUS, "form": "webm"}),
    ".wv": ("wavpack", {}),
    ".tta": ("tta", {}),
    ".mp4": ("aac", {"video": "mpeg4"}),
    ".m4v": ("aac", {"video": "mpeg4", "form": "mp4"}),
    ".mov": ("pcm_s16le", {"video": "mpeg4"}),
    ".mkv": ("libopus", {**OPUS, "video": "mpeg4"}),
    ".webm": ("libopus", {**OPUS, "video": "libvpx"}),
    ".avi": ("libmp3lame", {"video": "mpeg4"}),
    ".wmv": ("wmav2", {"video": "wmv2"}),
    ".flv": ("libmp3lame", {"video": "flv"}),
    ".mpg": ("mp2", {"video": "mpeg1video"}),
    ".mpeg": ("mp2", {"video": "mpeg2video"}),
    ".mts": ("ac3", {"rate": 48_000, "video": "mpeg2video", "form": "mpegts"}),
    ".m2ts": ("aac", {"video": "mpeg2video", "form": "mpegts"}),
    ".3gp": ("libopencore_amrnb", {**TELEPHONE, "video": "mpeg4"}),
    ".ogv": ("libopus", {**OPUS, "form": "ogg"}),
}


def test_every_ending_has_a_file():
    assert set(ENCODED) == set(SOUNDS)


@pytest.mark.parametrize("suffix", sorted(ENCODED))
def test_every_container(tmp_path, suffix):
    codec, options = ENCODED[suffix]
    path = encode(tmp_path / f"tone{suffix}", codec, **options)
    assert modality_of(path) == "audio"
    sound = load_audio(path)
    assert sound.seconds == pytest.approx(2, abs=0.1)
    middle = sound.samples[4000:28000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * SAMPLE_RATE / len(middle) == pytest.approx(660, abs=1)
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)
    np.testing.assert_array_equal(load_audio(path.read_bytes()).samples, sound.samples)
    renamed = path.rename(tmp_path / "tone.wav")
    np.testing.assert_array_equal(load_audio(renamed).samples, sound.samples)


def test_mp3_with_tags_and_a_cover(tmp_path):
    path = encode(tmp_path / "song.mp3", "libmp3lame", cover=True, tags={"title": "Söng", "artist": "x" * 5000})
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    assert load_audio(path).seconds == pytest.approx(2, abs=0.1)


def test_recordings_in_a_row_may_differ(tmp_path):
    low, high = (encode(tmp_path / f"{rate}.mp3", "libmp3lame", rate=rate) for rate in (22_050, 44_100))
    joined = load_audio(low.read_bytes() + high.read_bytes())
    assert joined.seconds == pytest.approx(4, abs=0.2)
    for middle in (joined.samples[4000:28000], joined.samples[36000:60000]):
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
        assert np.argmax(spectrum) * SAMPLE_RATE / len(middle) == pytest.approx(660, abs=1)


def test_broken_packets_are_passed_over(tmp_path):
    path = encode(tmp_path / "a.mp3", "libmp3lame", seconds=20)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(3).bytes(3000)
    assert load_audio(bytes(data)).seconds == pytest.approx(20, abs=0.7)


def test_truncated_video_gives_what_is_there(tmp_path):
    data = encode(tmp_path / "a.mkv", "libopus", rate=48_000, video="mpeg4", seconds=8).read_bytes()
    assert 1 < load_audio(data[: len(data) * 2 // 3]).seconds < 8


def test_only_the_span_is_kept(tmp_path):
    path = encode(tmp_path / "a.flac", "flac", seconds=30)
    whole_sound = load_audio(path).samples
    part = load_audio(path, start=10, end=12.5)
    np.testing.assert_array_equal(part.samples, whole_sound[160_000:200_000])
    part.samples[0] = 0.25  # the samples belong to whoever asked


def test_what_is_no_sound_is_named(make, tmp_path):
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (9, 9)).save(picture, "PNG")
    with pytest.raises(DecodeError, match=r"^song\.mp3 can't be decoded as sound: .* It seems to hold a PNG picture\."):
        load_audio(make.bytes("song.mp3", picture.getvalue()))
    with pytest.raises(DecodeError, match="seems to hold a PDF document"):
        load_audio(b"%PDF-1.4\n" + bytes(500))


def test_whitelists_are_what_ffmpeg_knows():
    known = {name for names in av.formats_available for name in names.split(",")}
    assert set(DEMUXERS) <= known
    optional = {"libvorbis", "libspeex", "libgsm", "libgsm_ms", "libopencore_amrnb", "libopencore_amrwb", "libopus"}
    assert CODECS - optional <= av.codecs_available
    assert not {"hls", "concat", "dash", "sdp", "rtsp", "image2", "lavfi", "ffmetadata"} & set(DEMUXERS)
