import io
import wave

import numpy as np
import pytest

from llama_index_mm.errors import DecodeError
from llama_index_mm.media import SAMPLE_RATE, MediaLimits, Waveform, load_audio, wav_bytes

av = pytest.importorskip("av")


def loudest(sound: Waveform) -> float:
    """Frequency with the most energy, in Hz."""
    spectrum = np.abs(np.fft.rfft(sound.samples * np.hanning(len(sound.samples))))
    return float(np.argmax(spectrum) * sound.rate / len(sound.samples))


def encode(path, samples, rate, codec, layout="mono"):
    """Samples ``(n,)`` by FFmpeg's own encoder."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype("<i2"), format="s16", layout=layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_every_rate_and_width(make, rate, width):
    sound = load_audio(make.tone("tone.wav", hertz=440, seconds=1.5, rate=rate, width=width))
    assert (sound.rate, sound.samples.dtype, sound.samples.ndim) == (SAMPLE_RATE, np.float32, 1)
    assert sound.seconds == pytest.approx(1.5, abs=0.005)
    assert loudest(sound) == pytest.approx(440, abs=1)
    middle = sound.samples[4000:-4000]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.02)


def test_what_is_above_half_the_rate_is_filtered_out(make):
    sound = load_audio(make.tone("high.wav", hertz=12_000, rate=44_100))
    assert np.abs(sound.samples[2000:-2000]).max() < 0.01


def test_samples_at_16_khz_come_through_exactly(make):
    samples = np.random.default_rng(0).uniform(-1, 1, 5000)
    path = make.wav("noise.wav", samples)
    np.testing.assert_array_equal(load_audio(path).samples, (np.rint(samples * 32767) / 32768).astype(np.float32))
    np.testing.assert_array_equal(load_audio(path.read_bytes()).samples, load_audio(str(path)).samples)


def test_stereo_becomes_the_mean(make):
    left = 0.5 * np.sin(np.arange(8000) / 10)
    right = 0.3 * np.cos(np.arange(8000) / 7)
    sound = load_audio(make.wav("two.wav", np.stack([left, right], 1)))
    np.testing.assert_allclose(sound.samples, (left + right) / 2, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("width", [2, 4])
def test_equal_channels_keep_their_loudness(make, channels, width):
    samples = 0.9 * np.sin(np.arange(8000) / 9)
    sound = load_audio(make.wav("same.wav", np.stack([samples] * channels, 1), width=width))
    np.testing.assert_allclose(sound.samples, samples, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "codec", "rate"), [("a.flac", "flac", 44_100), ("a.ogg", "libopus", 48_000), ("a.m4a", "aac", 44_100)]
)
def test_compressed(tmp_path, name, codec, rate):
    samples = 0.5 * np.sin(2 * np.pi * 660 * np.arange(rate * 2) / rate)
    sound = load_audio(encode(tmp_path / name, samples, rate, codec))
    assert sound.seconds == pytest.approx(2, abs=0.1)
    assert loudest(sound) == pytest.approx(660, abs=2)


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (None, None, (0, 3)),
        (1, 2, (1, 2)),
        (0.25, 0.75, (0.25, 0.75)),
        (None, 1.5, (0, 1.5)),
        (2.5, None, (2.5, 3)),
        (2, 99, (2, 3)),
        (-5, 1, (0, 1)),
    ],
)
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_cut(make, start, end, wanted, rate):
    path = make.wav("noise.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 3 * rate), rate)
    whole = load_audio(path).samples
    first, last = (round(second * SAMPLE_RATE) for second in wanted)
    np.testing.assert_array_equal(load_audio(path, start=start, end=end).samples, whole[first:last])


@pytest.mark.parametrize(("start", "end"), [(5, None), (2, 1), (1, 1), (None, 0), (None, -1), (0, -0.5)])
def test_empty_cut(make, start, end):
    with pytest.raises(DecodeError, match=r"^tone\.wav holds no sound"):
        load_audio(make.tone("tone.wav", seconds=3), start=start, end=end)


def test_neighbouring_cuts_make_the_whole(make):
    path = make.tone("tone.wav", seconds=2, rate=44_100)
    parts = [load_audio(path, start=start, end=end).samples for start, end in ((None, 0.3337), (0.3337, 1.1), (1.1, None))]
    np.testing.assert_array_equal(np.concatenate(parts), load_audio(path).samples)


def test_floats_out_of_range_are_clipped(make):
    sound = load_audio(make.wav("loud.wav", np.array([0, 3, -3, 0.5] * 100), width=4))
    np.testing.assert_array_equal(sound.samples, np.array([0, 1, -1, 0.5] * 100, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_floats_that_are_not_finite(make, bad):
    with pytest.raises(DecodeError, match=r"^bad\.wav has samples that are not finite"):
        load_audio(make.wav("bad.wav", np.array([0.1, bad] * 500), width=4))


def test_truncated_file_gives_what_is_there(make):
    path = make.tone("tone.wav", seconds=2)
    whole = load_audio(path).samples
    path.write_bytes(path.read_bytes()[: 44 + 2 * 20_000])
    np.testing.assert_array_equal(load_audio(path).samples, whole[:20_000])


@pytest.mark.parametrize("kept", [4, 20, 44])
def test_file_that_breaks_off_in_its_header(make, kept):
    path = make.tone("tone.wav")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DecodeError, match=r"^tone\.wav "):
        load_audio(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"Dear all, this is a text.\n" * 20, "can't be decoded as sound"),
        (b"\0" * 999, "can't be decoded as sound"),
    ],
)
def test_no_sound(make, data, reason):
    with pytest.raises(DecodeError, match=rf"^no\.wav {reason}"):
        load_audio(make.bytes("no.wav", data))


def test_no_bytes_missing_file_and_folder(tmp_path):
    with pytest.raises(DecodeError, match="given as bytes"):
        load_audio(b"")
    with pytest.raises(DecodeError, match="is missing"):
        load_audio(tmp_path / "gone.wav")
    with pytest.raises(DecodeError, match="no regular file"):
        load_audio(tmp_path)


def save_video(path, *, sound: bool):
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=10)
        pictures.width = pictures.height = 32
        pictures.pix_fmt = "yuv420p"
        tones = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        if tones is not None:
            samples = (0.5 * np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000)).astype(np.float32)
            for at in range(0, 15_360, 1024):
                part = av.AudioFrame.from_ndarray(samples[None, at : at + 1024], format="fltp", layout="mono")
                part.sample_rate, part.pts = 16_000, at
                container.mux(tones.encode(part))
            container.mux(tones.encode(None))
    return path


def test_video_without_sound(tmp_path):
    with pytest.raises(DecodeError, match=r"^mute\.mp4 has no sound track"):
        load_audio(save_video(tmp_path / "mute.mp4", sound=False))


def test_video_gives_its_sound(tmp_path):
    sound = load_audio(save_video(tmp_path / "talk.mp4", sound=True))
    assert sound.seconds == pytest.approx(0.96, abs=0.15)
    assert loudest(sound) == pytest.approx(500, abs=5)


def test_too_long(make):
    limits = MediaLimits(seconds=1.0)
    path = make.tone("long.wav", seconds=3)
    with pytest.raises(DecodeError, match=r"^long\.wav is longer than 1 s"):
        load_audio(path, limits=limits)
    assert load_audio(path, end=0.5, limits=limits).seconds == 0.5


def test_wav_bytes_round_trip():
    samples = np.random.default_rng(0).uniform(-1, 1, 4321).astype(np.float32)
    data = wav_bytes(Waveform(samples))
    with wave.open(io.BytesIO(data)) as file:
        assert file.getparams()[:4] == (1, 2, SAMPLE_RATE, len(samples))
    np.testing.assert_allclose(load_audio(data).samples, samples, atol=2 / 32768)


def test_wav_bytes_clips():
    got = load_audio(wav_bytes(Waveform(np.array([2, -2, 0] * 50, np.float32)))).samples
    np.testing.assert_allclose(got, [1, -1, 0] * 50, atol=2 / 32768)


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_seconds_and_cut_of_a_waveform(rate):
    sound = Waveform(np.arange(2 * rate, dtype=np.float32), rate)
    assert sound.seconds == 2
    part = sound.cut(0.5, 1.5)
    assert part.rate == rate
    np.testing.assert_array_equal(part.samples, sound.samples[rate // 2 : rate + rate // 2])
