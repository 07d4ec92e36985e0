// GroupNorm, and InstanceNorm with groups of one channel: a set is a group of channels of one image.
#include "columns.cuh"
#include "planes.cuh"
#include "resident.cuh"
