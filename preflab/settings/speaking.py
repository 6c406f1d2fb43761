"""How much is said, as options of every command that works for a while and has a result."""

from __future__ import annotations

from dataclasses import dataclass

from preflab.errors import speaking
from preflab.settings.fields import option


@dataclass(frozen=True)
class SpeakingConfig:
    """What is said while a command works, and how its result is given."""

    quiet: bool = option(False, "say nothing but warnings and the result")
    json: bool = option(False, "give the result as JSON, alone on stdout; a mistake too, as {error, status}")

    def begin(self) -> None:
        """Speak so from here on."""
        if self.quiet:
            speaking.be_quiet()
        if self.json:
            speaking.answer_in_json()


SPEAKING: dict[str, type] = {"what is said": SpeakingConfig}
"""The config by the title that it has in a command's help."""
