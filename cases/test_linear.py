"""Each linear layer that computes in low precision: speed, memory and error against FP32 and BF16."""


def test_linear(linear_case, measure, gate):
    """Outputs are finite and as near FP32 as gated; speed is reported, not asserted."""
    gate(measure(linear_case))
