"""Worker for Hugging Face's transformers: safetensors with Meta's names."""

import time
from pathlib import Path

from benchmarks.workers.protocol import Options, Run, Task, Times, prompt_ids, serve


def load(options: Options) -> tuple[str, Run]:
    import torch
    import transformers
    from transformers import DynamicCache

    torch.set_num_threads(options.threads)
    model = _model(options)

    @torch.inference_mode()
    def read(ids: list[int], cache: DynamicCache) -> int:
        output = model(torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return int(output.logits[0, -1].argmax())

    def run(task: Task) -> Times:
        cache = DynamicCache()
        began = time.perf_counter()
        token = read(prompt_ids(task.prompt), cache)
        prefill = time.perf_counter() - began
        decode = []
        for _ in range(task.decode):
            began = time.perf_counter()
            token = read([token], cache)
            decode.append(time.perf_counter() - began)
        return Times(prefill, decode)

    return f"transformers {transformers.__version__}", run


def _model(options: Options):
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    from llama_cpu.model.config import ModelConfig
    from tests.support.checkpoints import hugging_face_config, hugging_face_weights

    ours = ModelConfig(**options.config)
    config = LlamaConfig(**hugging_face_config(ours))
    weights = hugging_face_weights(ours, load_file(Path(options.model)))
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    for name in list(weights):
        weights[name] = weights[name].to(getattr(torch, options.precision))
    model.load_state_dict(weights, strict=False, assign=True)
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    model.tie_weights()
    return model.eval()


if __name__ == "__main__":
    serve(load)
