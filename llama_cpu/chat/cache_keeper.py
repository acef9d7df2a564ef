"""Whose tokens the KV cache holds, and when they go to the disk and come back."""

import hashlib
from threading import Event as Flag

from llama_cpu import __version__
from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.templates import ChatTemplate
from llama_cpu.errors import Cancelled
from llama_cpu.kv_store.file_format import Progress
from llama_cpu.kv_store.store import KVStore
from llama_cpu.loading.plan import LoadPlan
from llama_cpu.model.kv_cache import KVCache

FORMAT = "llama_cpu KV cache 1"


class CacheKeeper:
    """One for a loaded model. All methods are for the model's thread but ``has_unkept``.

    What comes back from the disk is only a beginning: of it, an answer uses what agrees with its
    prompt, as of anything that is in the cache (``KVCache.reuse``).
    """

    def __init__(self, kept: KVStore, plan: LoadPlan, weights: str, cache: KVCache) -> None:
        """``weights``: the fingerprint of the model's."""
        self._kept = kept
        self._cache = cache
        self._vocab_size = plan.checkpoint.config.vocab_size
        self._model_label = {
            "format": FORMAT,
            "program": __version__,  # another one may compute otherwise
            "model": plan.name,
            "weights": weights,
            "precision": plan.precision.label,
        }
        self._label = self._model_label  # with the template that the tokens were made with
        self._conversation_id: int | None = None  # whose tokens the cache holds; None: nobody's
        self._message = 0  # the one that the last of them are of
        self._on_disk: list[int] = []  # what that conversation's file holds
        self._is_tidy = False

    @property
    def has_unkept(self) -> bool:
        """Whether ``keep`` would write something."""
        if self._conversation_id is None or not self._message:
            return False
        length = self._kept.length_kept(self._cache)
        return self._cache.token_ids[:length] != self._on_disk[:length]

    def turn_to(
        self, conversation: Conversation, template: ChatTemplate, on_progress: Progress, stop: Flag
    ) -> None:
        """Switch to another conversation: keep the KV cache of the previous one and load what is
        kept of this one. Does nothing if this conversation is already the current one.
        """
        if not self._is_tidy:
            self._is_tidy = True
            self._kept.tidy()
        conversation_id = conversation.kept_id
        if conversation_id == self._conversation_id:
            return
        self.keep(on_progress, stop)
        self._conversation_id, self._message, self._on_disk = conversation_id, 0, []
        if conversation_id is None or stop.is_set():
            return
        wanted, cache = self._labelled(template), self._cache
        try:
            message = self._kept.load(
                conversation_id, wanted, cache, self._vocab_size, on_progress, stop
            )
        except Cancelled:
            return
        if message is not None:
            self._label, self._message = wanted, message
            self._on_disk = cache.token_ids.copy()

    def belongs_to(self, conversation: Conversation, template: ChatTemplate) -> None:
        """The cache holds the prompt, or the answer, of the conversation's last message."""
        if conversation.kept_id != self._conversation_id:  # it was moved to memory, or back
            self._conversation_id, self._on_disk = conversation.kept_id, []
        self._message = conversation.line[-1].id if conversation.line else 0
        self._label = self._labelled(template)

    def keep(self, on_progress: Progress, stop: Flag) -> None:
        """Write the cache to the disk, unless it is there; stopped, or where that is not possible,
        there is no file, or the one of before.
        """
        if self._conversation_id is None or not self._message:
            return
        if not self.has_unkept:
            self._kept.remove_if_gone(self._conversation_id, self._message)
            return
        try:
            is_new = self._kept.save(
                self._conversation_id, self._message, self._label, self._cache, on_progress, stop
            )
        except Cancelled:
            return
        if is_new:
            self._on_disk = self._cache.token_ids.copy()

    def _labelled(self, template: ChatTemplate) -> dict[str, str]:
        source = hashlib.sha256(template.source.encode(errors="surrogatepass")).hexdigest()
        return {**self._model_label, "template": f"{template.name} {source}"}


def unwatched(done: int, total: int) -> None:
    """Progress that nobody looks at."""
