"""Each normalization kernel: error against float64, latency and bandwidth against torch's and a copy."""


def test_norm(norm_case, measure, gate):
    """Outputs are within the kernel's tolerance, and no bandwidth is beyond the memory's."""
    gate(measure(norm_case))
