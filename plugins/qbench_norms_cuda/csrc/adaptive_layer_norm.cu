// y = LayerNorm(x) · (1 + scale) + shift, with a row of scale and shift for each batch or token.
//
// Scale and shift are the weight and bias of a LayerNorm whose rows differ; 1 is its weight offset.
#include "row_forward.cuh"

struct AdaptiveLayerNorm {
    using Statistic = qb::Moments;
    static constexpr bool CENTRED = true, MEAN = true, WEIGHT_OF_ROW = false;
};
