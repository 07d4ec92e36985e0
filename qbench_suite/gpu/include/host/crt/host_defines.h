// Stands in for the header of this name that the CUDA compiler brings and the pip packages leave
// out: enough for the number types of cuda_fp16.h, cuda_bf16.h and cuda_fp8.h under a host compiler.
#pragma once

#define __HOST_DEFINES_H__
// The number types need the vector types, not the runtime's functions.
#define __CUDA_RUNTIME_API_H__

#define __forceinline__ __inline__ __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __align__(n)
#define __device_builtin__
#define __cudart_builtin__
#define __specialization_static
#define __host__
#define __device__
#define __global__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
