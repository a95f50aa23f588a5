"""
What can go wrong before a run, as a tree. What goes wrong with a request is not here: it is a record with an error.

LlmloadError
├── ConfigError        something the user wrote cannot be used: names the file, the key and the value
│   └── DataError      prompts that were asked for cannot be had: names the source and says what to do
├── EngineError        the engine under test cannot be reached or does not serve what was asked for
├── RunFolderError     a run folder is missing something that the question needs
└── NotComparableError runs that are to be compared did not measure the same thing
"""


class LlmloadError(Exception):
    """Something the user can mend; its text is one line that says what to do."""


class ConfigError(LlmloadError):
    """What the user wrote cannot be used; the text names the file, the key and the value."""


class DataError(ConfigError):
    """The prompts that were asked for cannot be had; the text names the source and what to do about it."""


class EngineError(LlmloadError):
    """The engine under test cannot be reached, or does not serve what was asked for."""


class RunFolderError(LlmloadError):
    """A run folder lacks what the question needs."""


class NotComparableError(LlmloadError):
    """Runs did not measure the same thing; the text has a line for everything that differs."""
