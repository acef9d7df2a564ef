"""The sampling that GGUF files recommend. Does not import the ``gguf`` library."""

import math
from collections.abc import Mapping
from typing import Any

# The keys of recommended sampling (gguf.constants.Keys.General) by the names of our settings.
_SAMPLING = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


def sampling_in_gguf(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling that a GGUF file recommends, by the names of generation_config.json.

    The values are not checked. Where llama.cpp takes negative numbers for "no limit", or for
    greedy sampling, 0 is returned.
    """
    values = {name: metadata[key] for name, key in _SAMPLING.items() if key in metadata}
    for name, value in values.items():
        if isinstance(value, float) and math.isfinite(value):
            values[name] = float(f"{value:.7g}")  # stored as float32, so 0.6 was read as 0.60000002
        if name in ("top_k", "temperature") and isinstance(value, (int, float)) and value < 0:
            values[name] = 0
    return values
