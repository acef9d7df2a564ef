"""A template without frills, and short ways to a turn."""

from threading import Event as Flag

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import ChatTemplate
from llama_cpu.generation.events import Event, Prefill
from llama_cpu.history.rows import StoredConversation
from llama_cpu.history.store import History

PLAIN = ChatTemplate(
    "plain",
    "{% for message in messages %}{{ message.role[0] }}:{{ message.content }};{% endfor %}a:",
)


def turn(session: ChatSession, text: str) -> list[Event]:
    """Ask, and take the whole answer."""
    session.add_user(text)
    return list(session.answer(Flag()))


def id_of(conversation: Conversation) -> int:
    """The id in the history, in which the conversation must be."""
    assert conversation.stored_id is not None
    return conversation.stored_id


def latest_of(history: History) -> StoredConversation:
    """The most recently updated conversation of a history that is not empty."""
    latest = history.latest()
    assert latest is not None
    return latest


def prefill_of(events: list[Event]) -> Prefill:
    """How far reading the prompt came in the end."""
    return [event for event in events if isinstance(event, Prefill)][-1]
