"""How well speech is written down, its language told, and its speakers: error rates, accuracy, time.

    python benchmarks/speech.py --data DATA [--transcriber faster|openai] [--model MODEL] [--beam N] [--clips N] [--json]

DATA has the folder speech with transcripts.csv (file, language, speaker, text). No language is told to the transcriber.

    WER               errors in words over words said, languages with spaces; case and punctuation don't count
    CER               errors in characters over characters said, Chinese
    CER, numbers      the same after Arabic numerals are spelt out in characters on both sides
    not simplified    share of the Chinese characters written that GB 2312 has not: traditional ones
    language          share of clips whose language was told right
    RTF               seconds of computing (wall, and of all processors) for a second of sound
    EER, R@1          speakers: equal error rate over all pairs of clips; nearest other clip is of the same speaker
"""

import argparse
import csv
import itertools
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from llama_index_mm.evaluation import character_error_rate, characters_of, equal_error_rate, word_error_rate
from llama_index_mm.media import Waveform, load_audio
from llama_index_mm.transforms.transcript import Decoding, Transcriber

DIGITS = "零一二三四五六七八九"
PLACES = ("", "十", "百", "千")


def spell(text: str) -> str:
    """Spell out Arabic numerals in Chinese characters: short ones as numbers, long ones digit by digit."""
    joined = re.sub(r"(?<=\d)-(?=\d)", "", text)
    plain = re.sub(r"\d+", lambda found: number(found.group()), joined)
    return plain.translate({ord("幺"): "一", ord("〇"): "零"})


def number(digits: str) -> str:
    """One numeral in characters: 29 is 二十九, 305 三百零五, 13628066930 digit by digit."""
    if len(digits) > len(PLACES) or digits.startswith("0"):
        return "".join(DIGITS[int(one)] for one in digits)
    places = PLACES[len(digits) - 1 :: -1]
    parts = [DIGITS[int(one)] + place if one != "0" else "零" for one, place in zip(digits, places, strict=True)]
    said = re.sub("零+", "零", "".join(parts)).rstrip("零")
    return said.removeprefix("一") if said.startswith("一十") else said


def traditional(text: str) -> bool:
    """Whether a character is a Chinese one that GB 2312 has not."""
    try:
        text.encode("gb2312")
    except UnicodeEncodeError:
        return "\u4e00" <= text <= "\u9fff"
    return False


def make_transcriber(kind: str, model: str | None, decoding: Decoding | None) -> Transcriber:
    """The transcriber asked for."""
    if kind == "openai":
        from llama_index_mm.transforms.openai_whisper import OpenAIWhisperTranscriber

        options = {"decoding": decoding} if decoding else {}
        return OpenAIWhisperTranscriber(model or "base", **options)
    from llama_index_mm.transforms.whisper import FasterWhisperTranscriber

    return FasterWhisperTranscriber(model, decoding=decoding)


def write_down(transcriber: Transcriber, table: list[dict[str, str]], sounds: list[Waveform]) -> dict[str, Any]:
    """Transcribe all clips and count."""
    transcriber.transcribe(sounds[0])  # loads the model
    wall, cpu = time.perf_counter(), time.process_time()
    heard = [transcriber.transcribe(sound) for sound in sounds]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    seconds = sum(sound.seconds for sound in sounds)
    told: dict[str, Any] = {
        "language": np.mean([one.language == row["language"] for one, row in zip(heard, table, strict=True)]).item(),
        "RTF": {"wall": wall / seconds, "processors": cpu / seconds},
        "seconds": seconds,
    }
    pairs = {
        language: [(row["text"], one.text) for row, one in zip(table, heard, strict=True) if row["language"] == language]
        for language in sorted({row["language"] for row in table})
    }
    for language, said in pairs.items():
        if language != "zh":
            told[f"WER {language}"] = word_error_rate(said)
            continue
        written = [one for _, text in said for one in characters_of(text)]
        told["CER zh"] = character_error_rate(said)
        told["CER zh, numbers"] = character_error_rate([(spell(one), spell(other)) for one, other in said])
        told["not simplified"] = sum(map(traditional, written)) / max(1, len(written))
    rows = [
        {**row, "heard": one.text, "detected": one.language, "probability": one.probability}
        for row, one in zip(table, heard, strict=True)
    ]
    return {**told, "clips": rows}


def tell_speakers(table: list[dict[str, str]], sounds: list[Waveform]) -> dict[str, float]:
    """Compare the voices of all clips."""
    from llama_index_mm.embeddings.speaker import SpeakerEncoder

    encoder = SpeakerEncoder()
    encoder.encode(sounds[:1])
    wall = time.perf_counter()
    voices = encoder.encode(sounds)
    wall = time.perf_counter() - wall
    speakers = [row["speaker"] for row in table]
    alike = voices @ voices.T
    same, other = [], []
    for one, two in itertools.combinations(range(len(table)), 2):
        (same if speakers[one] == speakers[two] else other).append(alike[one, two])
    np.fill_diagonal(alike, -np.inf)
    asked = [at for at, speaker in enumerate(speakers) if speakers.count(speaker) > 1]
    right = [speakers[int(alike[at].argmax())] == speakers[at] for at in asked]
    return {
        "EER": equal_error_rate(same, other),
        "R@1": float(np.mean(right)),
        "speakers": float(len(set(speakers))),
        "RTF": wall / sum(sound.seconds for sound in sounds),
    }


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--transcriber", choices=("faster", "openai", "none"), default="faster")
    parser.add_argument("--model", help="folder, .pt file, or name; the offline preset's, or openai's base, if not given")
    parser.add_argument("--beam", type=int, help="readings followed at once; the transcriber's own choice if not given")
    parser.add_argument("--samples", type=int, default=5, help="readings drawn where the first try fails; with --beam")
    parser.add_argument("--clips", type=int, help="only every so many-th clip, so that about this many are taken")
    parser.add_argument("--no-speakers", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    folder = given.data / "speech"
    with (folder / "transcripts.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    if given.clips:
        table = table[:: max(1, len(table) // given.clips)]
    sounds = [load_audio(folder / row["file"]) for row in table]
    told: dict[str, Any] = {"transcriber": given.transcriber, "count": len(table)}
    if given.transcriber != "none":
        decoding = Decoding(given.beam, given.samples) if given.beam else None
        told["transcripts"] = write_down(make_transcriber(given.transcriber, given.model, decoding), table, sounds)
    if not given.no_speakers:
        told["speakers"] = tell_speakers(table, sounds)
    if given.json:
        json.dump(told, sys.stdout, indent=2, ensure_ascii=False)
        return
    print(f"{len(table)} clips, {sum(sound.seconds for sound in sounds):.0f} s, transcriber: {given.transcriber}")
    for name, value in told.get("transcripts", {}).items():
        if isinstance(value, float) and name != "seconds":
            print(f"{name:18} {100 * value:6.1f} %")
    if "transcripts" in told:
        spent = told["transcripts"]["RTF"]
        print(f"{'RTF':18} {spent['wall']:6.2f}   of all processors {spent['processors']:.2f}")
    if "speakers" in told:
        voices = told["speakers"]
        print(f"speakers: {voices['speakers']:.0f}, EER {100 * voices['EER']:.1f} %, R@1 {100 * voices['R@1']:.1f} %")


if __name__ == "__main__":
    main()
