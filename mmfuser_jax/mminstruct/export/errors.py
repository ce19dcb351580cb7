"""What goes wrong with an export."""


class ExportError(ValueError):
    """Nothing can be written as it was asked for; the message says what to do."""
