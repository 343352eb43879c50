"""Labels to vectors through prompts: the words around a label make it a caption, as such models were trained on.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv:2103.00020,
section 3.1.4; its seven templates are those that the authors' notebook "Prompt Engineering for ImageNet" ends with.
"""

from collections.abc import Callable, Sequence

from llama_index_mm.embeddings.base import Vectors, unit
from llama_index_mm.errors import EncodeError

__all__ = ["PICTURE_PROMPTS", "SOUND_PROMPTS", "encode_labels", "label_prompts"]

PICTURE_PROMPTS = (
    "itap of a {}.",  # "I took a picture"
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
SOUND_PROMPTS = ("This is a sound of {}.",)


def label_prompts(labels: Sequence[str], templates: Sequence[str] = PICTURE_PROMPTS) -> list[str]:
    """Put every label into every template.

    Args:
        labels: names of what is looked for, such as ``"cat"``.
        templates: texts in which ``{}`` stands for the label.

    Returns:
        ``len(labels) * len(templates)`` texts; all of the first label come first.

    Raises:
        EncodeError: there is no template, or one has no ``{}``.
    """
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        raise EncodeError(
            f"Expected templates such as 'a photo of a {{}}.', got {wrong[0]!r}." if wrong else "Give a template."
        )
    return [template.replace("{}", label) for label in labels for template in templates]


def encode_labels(
    encode: Callable[[Sequence[str]], Vectors], labels: Sequence[str], templates: Sequence[str] = PICTURE_PROMPTS
) -> Vectors:
    """Encode each label as the mean of its prompts' unit vectors, scaled to length 1.

    Args:
        encode: gives the unit vectors of texts, ``(n, d)`` float32.
        labels: names of what is looked for.
        templates: texts in which ``{}`` stands for the label.

    Returns:
        ``(len(labels), d)`` float32, rows of length 1.

    Raises:
        EncodeError: there is no template, or one has no ``{}``.
    """
    vectors = encode(label_prompts(labels, templates))
    return unit(vectors.reshape(len(labels), len(templates), vectors.shape[1]).mean(1, dtype=float))
