// Sums over the blocks of a first stage, column by column.
#include "column_sum.cuh"
