// Backwards of LayerNorm, RMSNorm, AdaLN and weight_norm: one template.
#include "row_backward.cuh"
