"""Decides when the KV cache of a loaded model is saved to disk and loaded again."""

from threading import Event as Flag

from llama_cpu import __version__
from llama_cpu.errors import Cancelled
from llama_cpu.kv_store.file_format import Progress
from llama_cpu.kv_store.store import KVStore
from llama_cpu.model.kv_cache import KVCache

FORMAT = "llama_cpu KV cache 1"


class CacheKeeper:
    """Tracks which conversation the tokens in a KV cache belong to, and saves and loads them.

    Each loaded model has one keeper. All methods must be called in the model's thread, except
    ``has_unsaved``.

    A loaded file is only a starting point: like anything in the cache, an answer reuses the part
    that matches its prompt (``KVCache.reuse``).
    """

    def __init__(
        self,
        store: KVStore,
        cache: KVCache,
        *,
        vocab_size: int,
        model: str,
        weights: str,
        precision: str,
    ) -> None:
        """``model``: the model's name. ``weights``: the fingerprint of its weights."""
        self._store = store
        self._cache = cache
        self._vocab_size = vocab_size
        self._model_label = {
            "format": FORMAT,
            "program": __version__,  # another version may compute different keys and values
            "model": model,
            "weights": weights,
            "precision": precision,
            "kv_cache": cache.type_name,
        }
        self._label = self._model_label  # of the cached tokens: with the template they came from
        self._conversation_id: int | None = None  # owner of the cached tokens; None: not stored
        self._message_id: int | None = None  # the message that the last cached tokens belong to
        self._saved_ids: list[int] = []  # token ids in the conversation's file
        self._has_cleaned_up = False

    @property
    def has_unsaved(self) -> bool:
        """Whether ``save`` would write a file."""
        if self._conversation_id is None or self._message_id is None:
            return False
        length = self._store.storable_length(self._cache)
        return self._cache.token_ids[:length] != self._saved_ids[:length]

    def switch_to(
        self, conversation_id: int | None, template: str, on_progress: Progress, stop: Flag
    ) -> None:
        """Save the cache of the previous conversation and load the saved one of this conversation.

        Does nothing if this conversation is already the current one.

        ``conversation_id``: its id in the history; None if it is not stored there.
        ``template``: identifies the chat template; a file made with another one is not loaded.
        """
        if not self._has_cleaned_up:
            self._has_cleaned_up = True
            self._store.clean_up()
        if conversation_id == self._conversation_id:
            return
        self.save(on_progress, stop)
        self._conversation_id, self._message_id, self._saved_ids = conversation_id, None, []
        if conversation_id is None or stop.is_set():
            return
        label, cache = self._label_with(template), self._cache
        try:
            message_id = self._store.load(
                conversation_id, label, cache, self._vocab_size, on_progress, stop
            )
        except Cancelled:
            return
        if message_id is not None:
            self._label, self._message_id = label, message_id
            self._saved_ids = cache.token_ids.copy()

    def assign(self, conversation_id: int | None, message_id: int | None, template: str) -> None:
        """Record that the cache now holds a prompt of this conversation, up to this message."""
        if conversation_id != self._conversation_id:  # it was moved to memory, or back to disk
            self._conversation_id, self._saved_ids = conversation_id, []
        self._message_id = message_id
        self._label = self._label_with(template)

    def save(self, on_progress: Progress, stop: Flag) -> None:
        """Write the cache to disk, unless it is saved already.

        If this is stopped or fails, the previous file of the conversation remains, if any.
        """
        if self._conversation_id is None or self._message_id is None:
            return
        if not self.has_unsaved:
            self._store.remove_if_deleted(self._conversation_id, self._message_id)
            return
        try:
            is_new = self._store.save(
                self._conversation_id, self._message_id, self._label, self._cache, on_progress, stop
            )
        except Cancelled:
            return
        if is_new:
            self._saved_ids = self._cache.token_ids.copy()

    def _label_with(self, template: str) -> dict[str, str]:
        return {**self._model_label, "template": template}


def ignore_progress(done: int, total: int) -> None:
    """A progress callback that does nothing."""
