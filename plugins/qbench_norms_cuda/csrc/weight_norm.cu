// w = g · v / ‖v‖, a row of v and a number of g at a time.
#include "row_forward.cuh"

struct WeightNorm {
    using Statistic = qb::Sums<1>;
    static constexpr bool CENTRED = false, MEAN = false, WEIGHT_OF_ROW = true;
};
