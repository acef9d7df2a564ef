"""Worker for the tokens per pass of prompt lookup, when code is repeated with one name changed.

A task is a number of answers of up to ``decode`` tokens. The model is always the demo model,
because models with random weights do not repeat text.
"""

from pathlib import Path
from threading import Event as Flag

from benchmarks.workers.protocol import Options, Run, Task, Times, serve
from llama_cpu.system.process import prepare_for_torch

PAGE = Path(__file__).with_name("heap.txt")
QUESTION = "Repeat this code word for word, but rename the class Heap to {}:\n\n```python\n{}```"
NAMES = ("Queue", "Pile", "Store", "Ranking")  # several, because a single answer may repeat little


def load(options: Options) -> tuple[str, Run]:
    prepare_for_torch()
    import llama_cpu
    from llama_cpu.chat.session import ChatSession
    from llama_cpu.chat.templates import choose_template
    from llama_cpu.generation.events import Token
    from llama_cpu.generation.sampling import Sampling
    from llama_cpu.generation.speculative_decoding import DraftLength
    from llama_cpu.loading.demo_model import fetch_demo_model
    from llama_cpu.loading.load import load as load_model
    from llama_cpu.loading.plan import plan_loading
    from llama_cpu.weights.formats import format_of

    class Longest(DraftLength):
        """Always the longest draft: the costs of the demo model do not matter here."""

        def choose(self) -> int:
            return loaded.longest_draft

    plan = plan_loading(
        fetch_demo_model(),
        precision=format_of(options.precision),
        threads=options.threads,
        lookup=True,
    )
    loaded = load_model(plan, lambda done, total, name: None, Flag())
    template = choose_template(None, loaded.tokenizer, plan.name)

    def answer(name: str, longest: int) -> list[Token]:
        session = ChatSession(loaded, template, Sampling(temperature=0.0), longest)
        session._generator.draft_length = Longest(loaded.longest_draft)
        session.conversation.add_user(QUESTION.format(name, PAGE.read_text()))
        try:
            return [event for event in session.answer(Flag()) if isinstance(event, Token)]
        finally:
            session.close()

    def run(task: Task) -> Times:
        tokens = [token for name in NAMES for token in answer(name, task.decode)]
        passes = sum(not token.drafted for token in tokens)
        figures = {"tokens": len(tokens), "passes": passes, "rows": loaded.longest_draft + 1}
        return Times(0.0, [], figures)

    return llama_cpu.__version__, run


if __name__ == "__main__":
    serve(load)
