"""The reference for correctness: transformers on the same weights."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from llama_cpu.model.config import ModelConfig
from tests.support.checkpoints import Weights, hugging_face_config, hugging_face_weights


def reference_model(config: ModelConfig, weights: Weights) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**hugging_face_config(config)))
    missing, unexpected = model.load_state_dict(hugging_face_weights(config, weights), strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config.tied_output else set())
    model.tie_weights()
    return model.eval()


def reference_from_gguf(path: Path) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model.eval()


def greedy_reference(model: PreTrainedModel, prompt_ids: list[int], count: int) -> list[int]:
    """``count`` ids, end tokens included and not heeded."""
    with torch.inference_mode():
        ids = model.generate(
            torch.tensor([prompt_ids]),
            attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.int64),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=0,
        )
    return ids[0, len(prompt_ids) :].tolist()


def templated(
    library: tokenizers.Tokenizer, chat: list[dict[str, str]], template: str, bos: str, eos: str
) -> list[int]:
    """Prompt ids of a conversation, by transformers."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=library, bos_token=bos or None, eos_token=eos, chat_template=template
    )
    encoded: Any = fast.apply_chat_template(chat, add_generation_prompt=True)
    ids: list[int] = encoded["input_ids"]
    return ids
