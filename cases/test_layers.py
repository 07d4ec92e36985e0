"""Each layer of each model in each format and mode, on the input that the model gives it."""


def test_layer(layer_case, measure, gate):
    """Quantized values are exactly on the grid, and the output is as near the float one as gated."""
    gate(measure(layer_case))
