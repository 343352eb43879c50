"""Make the audio files of the demo collection: spoken words by espeak-ng, sounds by NumPy, stored as Ogg Opus.

    python scripts/make_demo_audio.py
    python scripts/make_demo_audio.py --only rain bell --out some/folder
    python scripts/make_demo_audio.py --check path/to/whisper

Needs the program ``espeak-ng`` (Debian and Ubuntu: ``apt install espeak-ng``; macOS: ``brew install espeak-ng``) and
the extra ``audio`` of this package. The same versions of espeak-ng, NumPy and PyAV give the same bytes on every run.
``--check`` takes a folder with faster-whisper weights and prints what Whisper hears in each spoken file.
"""

import argparse
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float64]
"""One channel of sound, (samples,), within -1 ... 1."""

SPEECH_RATE = 24000  # Hz; Opus takes 8, 12, 16, 24 or 48 kHz
SOUND_RATE = 48000  # Hz
SPEECH_BITS = 32_000  # per second
SOUND_BITS = 64_000  # per second
PAUSE = 1.0  # seconds between two parts of a spoken file
PEAK = 0.6  # the loudest sample of each file

SHE = ("en-us+f2", 50)  # the two speakers: voice of espeak-ng, and its pitch from 0 to 99
HE = ("en-us", 35)

Speaker = tuple[str, int]

SPEECH: dict[str, list[tuple[Speaker, str]]] = {
    "podcast-lighthouse-keepers": [
        (SHE, "Welcome to the coast podcast. Today we talk about lighthouse keepers."),
        (
            HE,
            "The lighthouse on Falcon Point was built in eighteen twelve. "
            "Its lamp can be seen from a distance of twenty miles.",
        ),
        (SHE, "Three keepers lived in the tower. Each of them kept watch for four hours every night."),
        (HE, "In the early years the lamp burned whale oil. Later the keepers used paraffin, because it was cheaper."),
        (
            SHE,
            "There are one hundred forty four steps to the top. They had to carry all of the oil up the stairs by hand.",
        ),
        (HE, "When there was fog, they rang a large bell every thirty seconds, to warn the ships about the rocks."),
        (SHE, "In nineteen eighty six the lighthouse got an electric lamp, and the last keeper went home."),
        (HE, "Today the house of the keepers is a small museum. It is open on Saturdays in the summer."),
    ],
    "podcast-bread-baking": [
        (HE, "Welcome to the kitchen podcast. Today we are going to bake sourdough bread."),
        (
            SHE,
            "Mix five hundred grams of flour with three hundred and fifty grams of water. "
            "Then let the dough rest for one hour.",
        ),
        (HE, "Now add one hundred grams of sourdough starter, and ten grams of salt."),
        (SHE, "Stretch and fold the dough four times, with thirty minutes between the folds."),
        (HE, "Leave the dough in the refrigerator for twelve hours. The cold gives the bread a better taste."),
        (SHE, "Heat the oven to two hundred and fifty degrees, and put an iron pot inside."),
        (
            HE,
            "The bread stays in the oven for twenty minutes with the lid on, and for twenty five minutes without the lid.",
        ),
        (SHE, "Wait for at least one hour before you cut the bread, or else it will be sticky inside."),
    ],
    "memo-garden": [
        (
            HE,
            "This is a note about the garden. Give water to the tomatoes every second morning. "
            "Plant the tulips in October, fifteen centimeters deep. "
            "And bring the blue ladder back to the neighbor on Friday.",
        ),
    ],
}


def say(text: str, speaker: Speaker) -> Wave:
    """Speak English ``text`` by espeak-ng: (samples,) at ``SPEECH_RATE``, without silence at the ends."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise SystemExit("espeak-ng is not installed; this script needs it to make the spoken files")
    voice, pitch = speaker
    manner = ["-v", voice, "-p", str(pitch), "-s", "150", "-g", "2"]  # words a minute, gaps of 20 ms
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run([program, *manner, "-w", str(path), text], check=True)
        with wave.open(str(path)) as reader:
            if reader.getnchannels() != 1 or reader.getsampwidth() != 2:
                raise SystemExit(f"expected 16-bit mono sound from espeak-ng, got {reader.getparams()}")
            rate = reader.getframerate()
            sound = np.frombuffer(reader.readframes(reader.getnframes()), dtype="<i2") / 32768
    loud = np.flatnonzero(np.abs(sound) > 0.003)
    return resampled(sound[loud[0] : loud[-1] + 1], rate)


def resampled(sound: Wave, rate: int) -> Wave:
    """The sound (samples,) at ``rate`` brought to the higher ``SPEECH_RATE``, through its spectrum."""
    samples = round(len(sound) * SPEECH_RATE / rate)
    return np.fft.irfft(np.fft.rfft(sound), samples) * (samples / len(sound))


def speech(parts: list[tuple[Speaker, str]]) -> Wave:
    """Speak the parts, each a (speaker, text), one after the other with ``PAUSE`` seconds between them."""
    edge = np.zeros(int(0.3 * SPEECH_RATE))
    pause = np.zeros(int(PAUSE * SPEECH_RATE))
    pieces = [edge]
    for number, (speaker, text) in enumerate(parts):
        sound = say(text, speaker)
        loudness = np.sqrt(np.mean(sound**2))
        pieces += [pause] if number else []
        pieces.append(sound * (0.1 / loudness))
    return np.concatenate([*pieces, edge])


def times(seconds: float) -> Wave:
    """Seconds since the start of each sample at ``SOUND_RATE``, (samples,)."""
    return np.arange(int(seconds * SOUND_RATE)) / SOUND_RATE


def noise(seconds: float, gain: Callable[[Wave], Wave], rng: np.random.Generator) -> Wave:
    """Random sound (samples,) of root mean square 1 whose spectrum follows ``gain`` (of frequencies in Hz)."""
    samples = int(seconds * SOUND_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) * gain(np.fft.rfftfreq(samples, 1 / SOUND_RATE))
    sound = np.fft.irfft(spectrum, samples)
    return sound / np.sqrt(np.mean(sound**2))


def band(low: float, high: float) -> Callable[[Wave], Wave]:
    """A spectrum gain that keeps about ``low`` to ``high`` Hz, with soft edges."""
    return lambda hertz: 1 / np.sqrt((1 + (low / np.maximum(hertz, 1.0)) ** 4) * (1 + (hertz / high) ** 4))


def room(sound: Wave, *, seconds: float, wet: float, rng: np.random.Generator) -> Wave:
    """Add echoes that die out within ``seconds``; ``wet`` is their share. Same length as ``sound``."""
    late = times(seconds)
    echo = noise(seconds, band(150, 5000), rng) * np.exp(-6.9 * late / seconds)
    size = len(sound) + len(echo)
    tail = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(echo, size), size)[: len(sound)]
    return sound + wet * tail / np.sqrt(np.sum(echo**2))


def add(target: Wave, piece: Wave, second: float) -> None:
    """Add ``piece`` to ``target`` in place from ``second`` on; what hangs over the end is cut."""
    start = int(second * SOUND_RATE)
    piece = piece[: max(len(target) - start, 0)]
    target[start : start + len(piece)] += piece


def partials(hertz: list[float], strength: list[float], decay: list[float], seconds: float) -> Wave:
    """A struck body: sines at ``hertz`` that start with ``strength`` and fall to 1/e after ``decay`` seconds."""
    at = times(seconds)
    tones = zip(hertz, strength, decay, strict=True)
    return sum((s * np.exp(-at / d) * np.sin(2 * np.pi * f * at) for f, s, d in tones), np.zeros(len(at)))


def rain(rng: np.random.Generator) -> Wave:
    """Steady rain, 5 s: a hiss of far drops, and some thousand near ones, each a short ring of its own pitch."""
    sound = noise(5.0, band(700, 9000), rng) + 0.35 * noise(5.0, band(80, 500), rng)
    for second in rng.uniform(0.0, 4.98, 2500):
        pitch = rng.uniform(1500, 7000)
        add(sound, partials([pitch], [rng.pareto(2.5) * 1.2], [rng.uniform(0.001, 0.004)], 0.02), second)
    return np.tanh(sound / 4)


def siren(rng: np.random.Generator) -> Wave:
    """An emergency siren, 5 s: a rich tone that wails twice between 550 and 1450 Hz, with an echo of the street."""
    at = times(5.0)
    pitch = 1000 - 450 * np.cos(2 * np.pi * at / 2.5)
    phase = 2 * np.pi * np.cumsum(pitch) / SOUND_RATE
    tone = sum((np.sin(k * phase) / k**1.2 for k in range(1, 8)), np.zeros(len(at)))
    return room(np.tanh(1.5 * tone), seconds=0.8, wet=0.5, rng=rng)


def bell(rng: np.random.Generator) -> Wave:
    """A church bell, 5 s, struck twice: hum, prime, minor third, fifth and octave, and the clang of higher partials."""
    ratios = [0.5, 1.0, 1.003, 1.19, 1.5, 2.0, 2.006, 2.52, 2.66, 3.01, 4.16, 5.43, 6.8]
    strength = [0.5, 0.5, 0.3, 0.6, 0.3, 0.8, 0.4, 0.3, 0.35, 0.4, 0.3, 0.2, 0.15]
    decay = [3.5, 2.4, 2.2, 1.8, 1.1, 1.3, 1.2, 0.7, 0.6, 0.6, 0.35, 0.22, 0.15]
    sound = np.zeros(len(times(5.0)))
    for second in (0.05, 2.5):
        add(sound, partials([260 * ratio for ratio in ratios], strength, decay, 5.0), second)
        add(sound, 0.8 * noise(0.06, band(800, 6000), rng) * np.exp(-times(0.06) / 0.008), second)
    return room(sound, seconds=1.5, wet=0.25, rng=rng)


def clock(rng: np.random.Generator) -> Wave:
    """A clock, 5 s: tick and tock in turn every half second, each two clicks of the escapement in a wooden case."""
    sound = 0.002 * noise(5.0, band(100, 4000), rng)
    click = noise(0.03, band(1500, 9000), rng) * np.exp(-times(0.03) / 0.0015)
    for number in range(10):
        pitch = 1.0 if number % 2 == 0 else 0.82
        case = partials(
            [pitch * f for f in (420.0, 980.0, 2300.0, 3900.0)], [0.25, 0.3, 0.5, 0.4], [0.02, 0.015, 0.008, 0.005], 0.1
        )
        for delay, strength in ((0.0, 0.5), (0.022, 1.0)):
            second = 0.1 + 0.5 * number + delay
            add(sound, 0.5 * strength * click, second)
            add(sound, strength * case, second)
    return room(sound, seconds=0.25, wet=0.15, rng=rng)


def telephone(rng: np.random.Generator) -> Wave:
    """An old telephone, 5 s: a clapper strikes two small gongs in turn, 22 times a second, in two rings of 1.7 s."""
    sound = np.zeros(len(times(5.0)))
    gongs = (1180.0, 1420.0)
    for start in (0.1, 2.9):
        for number in range(int(1.7 * 22)):
            base = gongs[number % 2]
            hertz = [base, 2.71 * base, 5.15 * base, 7.9 * base]
            strike = partials(hertz, [1.0, 0.7, 0.4, 0.15], [0.22, 0.12, 0.05, 0.02], 0.7)
            add(sound, rng.uniform(0.85, 1.0) * strike, start + number / 22)
    return room(sound, seconds=0.4, wet=0.2, rng=rng)


def waves(rng: np.random.Generator) -> Wave:
    """Ocean waves, 6 s: two waves that swell as a low roar, break, and run out over the sand as a fading hiss."""
    at = times(6.0)
    roar = noise(6.0, lambda hertz: band(60, 600)(hertz) / np.sqrt(np.maximum(hertz, 40.0)), rng)
    hiss = noise(6.0, lambda hertz: band(500, 7000)(hertz) / np.sqrt(np.maximum(hertz, 40.0)), rng)
    sound = 0.15 * roar + 0.04 * hiss
    for crest, height in ((1.3, 1.0), (4.2, 0.8)):
        late = at - crest
        swell = np.where(late < 0, np.exp(late / 0.45), np.exp(-late / 0.7))
        foam = np.where(late < 0, np.exp(late / 0.2), np.exp(-late / 1.1))
        sound += height * (swell * roar + 0.8 * foam * hiss)
    return sound


SOUNDS: dict[str, Callable[[np.random.Generator], Wave]] = {
    "rain": rain,
    "siren": siren,
    "church-bell": bell,
    "clock-ticking": clock,
    "telephone-ringing": telephone,
    "ocean-waves": waves,
}


def faded(sound: Wave, rate: int) -> Wave:
    """The sound with its peak at ``PEAK``, and its first and last 20 ms faded, so that it doesn't click."""
    ramp = np.linspace(0, 1, rate // 50)
    sound = sound * (PEAK / np.abs(sound).max())
    sound[: len(ramp)] *= ramp
    sound[-len(ramp) :] *= ramp[::-1]
    return sound


def write_ogg(path: Path, sound: Wave, rate: int, bits: int) -> None:
    """Store ``sound`` (samples,) as mono Ogg Opus of about ``bits`` per second; the same bytes each time."""
    with av.open(str(path), "w", format="ogg", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libopus", rate=rate, layout="mono")
        stream.bit_rate = bits
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        frame = av.AudioFrame.from_ndarray(sound.astype(np.float32)[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make(name: str, folder: Path) -> Path:
    """Make one file of the collection, by its name in ``SPEECH`` or ``SOUNDS``."""
    path = folder / f"{name}.ogg"
    if name in SPEECH:
        write_ogg(path, faded(speech(SPEECH[name]), SPEECH_RATE), SPEECH_RATE, SPEECH_BITS)
    else:
        sound = SOUNDS[name](np.random.default_rng(2024))
        write_ogg(path, faded(sound, SOUND_RATE), SOUND_RATE, SOUND_BITS)
    return path


def check(paths: list[Path], weights: Path) -> None:
    """Print what Whisper, with the faster-whisper weights in the folder ``weights``, hears in the spoken files."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(weights), device="cpu", compute_type="int8")
    for path in paths:
        if path.stem in SPEECH:
            print(f"\n{path.name}")
            for segment in model.transcribe(str(path), language="en", task="transcribe")[0]:
                print(f"  {segment.start:6.2f} {segment.end:6.2f} {segment.text}")


def main() -> None:
    """Read the command line, make the files, and say how large they are."""
    default = Path(__file__).resolve().parent.parent / "llama_index_mm" / "demo" / "data" / "audio"
    names = [*SPEECH, *SOUNDS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=default, help="folder to write to (default: the package's)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="faster-whisper weights to transcribe with")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    paths = [make(name, arguments.out) for name in arguments.only]
    for path in paths:
        print(f"{path.stat().st_size:8d} bytes  {path.name}")
    if arguments.check is not None:
        check(paths, arguments.check)


if __name__ == "__main__":
    main()
