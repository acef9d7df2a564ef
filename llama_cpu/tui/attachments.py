"""The files of the messages that are being written: one line each in the prompt."""

from llama_cpu.history.attachments import Attachment, collapsed, parts


class Attachments:
    """The files behind the lines in the prompt. A line that is deleted there takes its file along.

    It knows all files of this run, so that earlier prompts can be sent again.
    """

    def __init__(self) -> None:
        self._files: dict[str, Attachment] = {}  # by their lines in the prompt

    def add(self, file: Attachment) -> str:
        """Remember a file and return the line that stands for it."""
        label, number = file.label, 2
        while self._files.get(label, file) != file:  # another file of that name and size
            label = f"{file.label[:-1]}, {number}]"
            number += 1
        self._files[label] = file
        return label

    def is_line(self, line: str) -> bool:
        """Whether a line of the prompt stands for a file."""
        return line.strip() in self._files

    def expand(self, text: str) -> str:
        """Put the files in place of their lines."""
        lines = text.split("\n")
        return "\n".join(
            self._files[line.strip()].block if line.strip() in self._files else line
            for line in lines
        )

    def collapse(self, message: str) -> str:
        """Put lines in place of the files of a message, for the prompt."""
        if collapsed(message) == message:
            return message
        return "\n".join(
            part if isinstance(part, str) else self.add(part) for part in parts(message)
        )
