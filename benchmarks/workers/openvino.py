"""Worker for OpenVINO GenAI: a GGUF file, converted once to its own format.

int8 weights are symmetric with one scale per row, the default of its tools (nncf). int4 weights are
in groups of 32 with a scale and a zero point, as ours; nncf leaves the embedding and the output in
int8. Quantized files are read by its own reader, which keeps their blocks.
"""

import itertools
import shutil
from pathlib import Path

from benchmarks.workers.protocol import Options, Run, Task, Times, prompt_ids, serve

# Without the hint, float32 would be computed in bfloat16 on processors with AMX.
HINTS = {"float32": {"INFERENCE_PRECISION_HINT": "f32"}}
# Arguments of nncf.compress_weights by mode.
COMPRESSIONS: dict[str, dict] = {"INT8_SYM": {}, "INT4_ASYM": {"group_size": 32, "ratio": 1.0}}


def load(options: Options) -> tuple[str, Run]:
    import numpy as np
    import openvino as ov
    import openvino_genai

    folder = converted(Path(options.model), options.precision)
    hints = HINTS.get(options.precision, {})
    pipeline = openvino_genai.LLMPipeline(
        str(folder), "CPU", INFERENCE_NUM_THREADS=options.threads, **hints
    )

    first_tokens = itertools.count(300)

    def run(task: Task) -> Times:
        ids = np.array([prompt_ids(task.prompt)])
        ids[0, 0] = next(first_tokens)  # otherwise it would reuse the cache of the last prompt
        inputs = openvino_genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        config = openvino_genai.GenerationConfig()
        config.ignore_eos = True
        config.max_new_tokens = task.decode + 1
        metrics = pipeline.generate(inputs, config).perf_metrics
        first = metrics.get_ttft().mean / 1e3  # given in milliseconds
        return Times(first, [duration / 1e6 for duration in metrics.raw_metrics.m_durations])

    return f"openvino-genai {openvino_genai.__version__}", run


def converted(source: Path, precision: str) -> Path:
    """Return the folder of the model in OpenVINO's format, after converting it if necessary."""
    is_compressed = precision in COMPRESSIONS
    folder = source.with_suffix(f".openvino-{precision}" if is_compressed else ".openvino")
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        partial.mkdir(exist_ok=True)
        if is_compressed:
            _compress(converted(source, "as stored"), partial, precision)
        else:
            _convert(source, partial)
        partial.rename(folder)
    return folder


def _convert(source: Path, folder: Path) -> None:
    """Convert a GGUF file with OpenVINO's reader, which writes its result beside the file."""
    import openvino_genai

    link = folder / source.name
    link.symlink_to(source.absolute())
    openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
    link.unlink()


def _compress(source: Path, folder: Path, mode: str) -> None:
    import nncf
    import openvino as ov

    model = ov.Core().read_model(source / "openvino_model.xml")
    compression = nncf.CompressWeightsMode[mode]
    model = nncf.compress_weights(model, mode=compression, **COMPRESSIONS[mode])
    ov.save_model(model, folder / "openvino_model.xml")
    for path in source.iterdir():
        if not path.name.startswith("openvino_model."):
            shutil.copy(path, folder)


if __name__ == "__main__":
    serve(load)
