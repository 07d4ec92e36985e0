// y = (x − mean) / sqrt(variance + eps) · weight + bias, a row at a time.
#include "row_forward.cuh"

struct LayerNorm {
    using Statistic = qb::Moments;
    static constexpr bool CENTRED = true, MEAN = true, WEIGHT_OF_ROW = false;
};
