"""Each format by itself: its values, its error on named distributions, the laws of its rounding."""


def test_format(format_case, measure, gate):
    """Rounded values are the format's own; rounding is idempotent and monotonic; codes round-trip."""
    gate(measure(format_case))
