"""Each model converted by each policy: accuracy, drift at every layer and compliance against FP32."""


def test_model(model_case, measure, gate):
    """Quantized values are exactly on the grid everywhere, and nothing finite became NaN or Inf."""
    gate(measure(model_case))
