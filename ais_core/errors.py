"""Defines the errors raised at the border of the library: what was expected, what came, what to do."""


class AISError(ValueError):
    """Any input that this library refuses."""


class SettingError(AISError):
    """A setting outside its meaning, or settings that contradict each other."""


class ShapeError(AISError):
    """Tensors whose shapes, lengths, lags, dtypes or devices do not describe one batch."""


class NonFiniteError(AISError):
    """A NaN or an infinity among log-probabilities, advantages, rewards or sums."""


class StateError(AISError):
    """A saved mixing state that this correction did not write."""
