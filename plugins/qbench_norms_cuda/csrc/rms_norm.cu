// y = x / sqrt(mean of squares + eps) · weight + bias, a row at a time.
#include "row_forward.cuh"

struct RmsNorm {
    using Statistic = qb::Sums<1>;
    static constexpr bool CENTRED = false, MEAN = true, WEIGHT_OF_ROW = false;
};
