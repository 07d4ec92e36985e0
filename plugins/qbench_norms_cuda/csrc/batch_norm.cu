// BatchNorm: a set is a channel of all images; running statistics move towards those of the batch.
#include "columns.cuh"
#include "planes.cuh"
