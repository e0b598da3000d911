"""The errors raised at the border of the library: what was expected, what came, what to do."""


class AISError(ValueError):
    """Anything this library refuses."""


class SettingError(AISError):
    """A setting outside its meaning, or settings that contradict each other."""


class ShapeError(AISError):
    """Tensors whose shapes, lengths or dtypes do not describe one batch."""


class NonFiniteError(AISError):
    """A NaN or an infinity where a log-probability was expected."""


class StateError(AISError):
    """A saved mixing state that this correction did not write."""
