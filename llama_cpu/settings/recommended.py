"""The sampling that is known to suit a family of models whose files do not name any.

A model's own files go first: ``generation_config.json``, or the keys ``general.sampling.*`` of a
GGUF file. Files that were converted before llama.cpp wrote these keys (November 2025), and Meta's,
have neither.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Recommended:
    """The sampling of the models whose names match ``pattern``. ``source``: who recommends it."""

    pattern: str  # a regular expression, found anywhere in the name in small letters
    values: Mapping[str, float]
    source: str


# The first row that matches counts. Names are those of files, folders and GGUF metadata, so that
# parts of them are separated by hyphens, dots, underscores or spaces.
RECOMMENDED = (
    Recommended(
        r"smollm2.135m",
        {"temperature": 0.0, "repetition_penalty": 1.03},
        "measured: docs/performance.md, 'Answers of the demo model'",
    ),
    Recommended(
        r"smollm2",
        {"temperature": 0.2, "top_p": 0.9},
        "Hugging Face's model cards of SmolLM2-Instruct",
    ),
    Recommended(
        r"smollm3",
        {"temperature": 0.6, "top_p": 0.95},
        "Hugging Face's model card of SmolLM3-3B",
    ),
    Recommended(
        r"qwen3.*instruct.2507",
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
        "Qwen's model cards of Qwen3-Instruct-2507",
    ),
    Recommended(
        r"qwen3",
        {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
        "Qwen's model cards and generation_config.json of Qwen3",
    ),
    Recommended(
        r"qwen2(\.5)?.(0\.5|1\.5)b.instruct",
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1},
        "generation_config.json of Qwen2.5-0.5B-Instruct",
    ),
    Recommended(
        r"qwen2.*instruct",
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
        "generation_config.json of Qwen2.5-7B-Instruct",
    ),
    Recommended(
        r"tinyllama.*chat",
        {"temperature": 0.7, "top_p": 0.95, "top_k": 50},
        "the model card of TinyLlama-1.1B-Chat-v1.0",
    ),
    Recommended(
        r"llama.?(2.*chat|3.*instruct)",
        {"temperature": 0.6, "top_p": 0.9},
        "Meta's example_chat_completion.py and generation_config.json of Llama-3.2-Instruct",
    ),
    Recommended(
        r"mistral.*nemo",
        {"temperature": 0.3, "top_p": 0.95},
        "Mistral's model card of Mistral-Nemo-Instruct-2407 (temperature)",
    ),
    Recommended(
        r"mistral.small",
        {"temperature": 0.15, "top_p": 0.95},
        "Mistral's model cards of Mistral-Small-Instruct (temperature)",
    ),
)


def recommended(name: str) -> Mapping[str, float]:
    """The sampling for a model of this name; nothing if the family is not known."""
    small = name.lower()
    for each in RECOMMENDED:
        if re.search(each.pattern, small):
            return each.values
    return {}
