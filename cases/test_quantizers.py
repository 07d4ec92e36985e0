"""The throughput of fake-quantize for each format in each mode, against a copy and against eager."""


def test_quantizer(quantizer_case, measure, gate):
    """Quantized values are exactly on the grid; speed is reported, not asserted."""
    gate(measure(quantizer_case))
