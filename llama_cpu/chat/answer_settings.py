"""The settings in use: sampler, limits and template renderer for the next answer."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from llama_cpu.chat.context import ModelContext
from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.templates import (
    NAMED_TEMPLATES,
    ChatTemplate,
    TemplateRenderer,
    choose_template,
)
from llama_cpu.errors import UserError
from llama_cpu.generation.generate import Limits
from llama_cpu.generation.sampling import Sampler, Sampling
from llama_cpu.loading.load import LoadedModel
from llama_cpu.settings.generation_settings import Settings


class AnswerSettings:
    """The program's settings, overridden by those stored with the conversation that is shown.

    Whenever another conversation is opened, its settings take effect with the next call of
    ``follow_conversation``.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        conversation: Conversation,
        context: ModelContext,
        template: ChatTemplate,
        sampling: Sampling,
        max_gen_len: int,
    ) -> None:
        """``template``, ``sampling``, ``max_gen_len``: the program's defaults."""
        self._tokenizer = loaded.tokenizer
        self._model_name = loaded.plan.name
        self._end_ids = loaded.end_ids
        self._conversation = conversation
        self._context = context
        self._default_template = template
        self.sampler = Sampler(sampling)
        self.limits = Limits(max_gen_len, loaded.end_ids, template.stop_strings, end_loops=True)
        self.renderer = self._renderer_of(template)
        self._retired: list[TemplateRenderer] = []  # replaced, but an answer may still use them
        self._followed: Mapping[str, Any] | None = None  # the conversation's settings in use
        self._defaults = self._as_settings()

    def current(self) -> Settings:
        """The settings for the next answer."""
        self.follow_conversation()
        return self._as_settings()

    @property
    def defaults(self) -> Settings:
        """The settings of a new conversation."""
        return replace(self._defaults, system=self._conversation.default_system)

    def apply(self, settings: Settings) -> None:
        """Use these settings from the next answer on; they become the conversation's settings.

        Raises UserError if the template cannot be read; nothing has changed then.
        """
        self.follow_conversation()
        self._use(settings)
        defaults = replace(self._defaults, system=self._context.system_prompt()).as_dict()
        own = {name: each for name, each in settings.as_dict().items() if each != defaults[name]}
        system = {
            name: each for name, each in self._conversation.settings.items() if name == "system"
        }
        self._conversation.settings = self._followed = {**system, **own}
        self._conversation.system = settings.system

    def follow_conversation(self) -> None:
        """Use the settings of the conversation that is shown now.

        If they are damaged or name a template that no longer exists, the defaults are used.
        """
        if self._conversation.settings is self._followed:
            return
        self._followed = self._conversation.settings
        try:
            self._use(self._defaults.updated(self._conversation.settings))
        except UserError:
            self._use(self._defaults)

    def begin_answer(self) -> tuple[Sampler, Limits]:
        """Return the sampler and limits of one answer, which later changes do not affect."""
        self.follow_conversation()
        self._close_retired()
        return self.sampler, self.limits

    def close(self) -> None:
        """End the processes that render templates."""
        self._close_retired()
        self.renderer.close()

    def _as_settings(self) -> Settings:
        return Settings(
            self._context.system_prompt(),
            self.renderer.template.asked,
            max_gen_len=self.limits.max_gen_len,
            **asdict(self.sampler.sampling),
        )

    def _use(self, settings: Settings) -> None:
        if settings.template != self.renderer.template.asked:
            template = self._default_template
            if settings.template != template.asked:
                template = choose_template(settings.template, self._tokenizer, self._model_name)
            self._retired.append(self.renderer)
            self.renderer = self._renderer_of(template)
        stop_strings = self.renderer.template.stop_strings
        self.limits = Limits(settings.max_gen_len, self._end_ids, stop_strings, end_loops=True)
        sampling = Sampling(
            **{field.name: getattr(settings, field.name) for field in fields(Sampling)}
        )
        if sampling != self.sampler.sampling:  # otherwise the random sequence continues
            self.sampler = Sampler(sampling)

    def _renderer_of(self, template: ChatTemplate) -> TemplateRenderer:
        # A model's own template places the bos token itself. The named templates begin with it,
        # if the tokenizer wants one.
        named = template.name in NAMED_TEMPLATES
        bos_token = "" if named and not self._tokenizer.adds_bos else self._tokenizer.bos_token
        return TemplateRenderer(template, bos_token, self._tokenizer.eos_token)

    def _close_retired(self) -> None:
        while self._retired:
            self._retired.pop().close()
