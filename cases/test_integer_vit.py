"""Each model run in integers: accuracy, proof that no float operation runs, error by step, speed."""


def test_integer_vit(integer_case, measure, gate):
    """Blocks compute in integers alone, and the model is as near FP32 as gated."""
    gate(measure(integer_case))
