"""Worker for CTranslate2: safetensors with Meta's names, converted once to its own format."""

import itertools
import json
import struct
import time
from pathlib import Path

from benchmarks.workers.protocol import Options, Run, Task, Times, prompt_ids, serve


def load(options: Options) -> tuple[str, Run]:
    import ctranslate2

    compute_type = options.precision
    known = ctranslate2.get_supported_compute_types("cpu")
    if compute_type not in known:
        raise RuntimeError(f"this processor can compute {', '.join(sorted(known))} only")
    folder = Path(options.model).with_suffix(f".ctranslate2-{options.precision}")
    if not folder.exists():
        convert(Path(options.model), folder, options.config, compute_type)
    generator = ctranslate2.Generator(
        str(folder), compute_type=compute_type, intra_threads=options.threads
    )

    def run(task: Task) -> Times:
        moments = [time.perf_counter()]
        count = task.decode + 1
        generator.generate_batch(
            [[str(index) for index in prompt_ids(task.prompt)]],
            include_prompt_in_result=False,
            min_length=count,
            max_length=count,
            callback=lambda step: moments.append(time.perf_counter()),
        )
        seconds = [after - before for before, after in itertools.pairwise(moments)]
        return Times(seconds[0], seconds[1:])

    return f"ctranslate2 {ctranslate2.__version__}", run


def convert(source: Path, folder: Path, config: dict, compute_type: str) -> None:
    """Convert a model as CTranslate2's converter for transformers does, without transformers."""
    import numpy as np
    from ctranslate2.specs import common_spec, transformer_spec

    weights = _read_safetensors(source)
    shared = config["n_kv_heads"] != config["n_heads"]
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config["n_layers"],
        config["n_heads"],
        activation=common_spec.Activation.SWISH,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,
        rotary_interleave=True,
        rotary_base=config["rope_theta"],
        num_heads_kv=config["n_kv_heads"] if shared else None,
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = weights["tok_embeddings.weight"]
    decoder.layer_norm.gamma = weights["norm.weight"]
    output = "tok_embeddings" if config["tied_output"] else "output"
    decoder.projection.weight = weights[f"{output}.weight"]
    for number, layer in enumerate(decoder.layer):
        prefix = f"layers.{number}"
        attention, ffn = f"{prefix}.attention", f"{prefix}.feed_forward"
        layer.self_attention.layer_norm.gamma = weights.pop(f"{prefix}.attention_norm.weight")
        wqkv = [weights.pop(f"{attention}.{name}.weight") for name in ("wq", "wk", "wv")]
        layer.self_attention.linear[0].weight = np.concatenate(wqkv)
        layer.self_attention.linear[1].weight = weights.pop(f"{attention}.wo.weight")
        layer.ffn.layer_norm.gamma = weights.pop(f"{prefix}.ffn_norm.weight")
        layer.ffn.linear_0.weight = weights.pop(f"{ffn}.w1.weight")
        layer.ffn.linear_0_noact.weight = weights.pop(f"{ffn}.w3.weight")
        layer.ffn.linear_1.weight = weights.pop(f"{ffn}.w2.weight")
    spec.register_vocabulary([str(index) for index in range(config["vocab_size"])])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
    spec.config.layer_norm_epsilon = config["norm_eps"]
    spec.validate()
    spec.optimize(quantization=compute_type)
    partial = folder.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    spec.save(str(partial))
    partial.rename(folder)


def _read_safetensors(path: Path) -> dict:
    """Return every tensor as float32. The library's own reader fails for bfloat16 in numpy."""
    import numpy as np

    data = np.memmap(path, np.uint8, "r")
    (size,) = struct.unpack("<Q", data[:8].tobytes())
    weights = {}
    for name, entry in json.loads(data[8 : 8 + size].tobytes()).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            values = (data[begin:end].view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.array(data[begin:end].view(np.float32))
        weights[name] = values.reshape(entry["shape"])
    return weights


if __name__ == "__main__":
    serve(load)
