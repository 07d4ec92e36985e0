// y += a * x, for any length: what a kernel of the suite looks like, at its smallest.
#include "axpy_arguments.cuh"
#include "qbench/device.cuh"

template <class T, int Width>
__global__ void __launch_bounds__(256) axpy(const __grid_constant__ AxpyArguments args) {
    using Vector = qb::Vec<T, Width>;
    const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
    const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const T* x = static_cast<const T*>(args.x);
    T* y = static_cast<T*>(args.y);
    const long long vectors = args.aligned ? args.count / Width : 0;
    qb::wait_for_previous_grid();
    for (long long i = first; i < vectors; i += stride) {
        Vector a = qb::load(reinterpret_cast<const Vector*>(x) + i);
        Vector b = qb::load(reinterpret_cast<const Vector*>(y) + i);
        for (int k = 0; k < Width; ++k)
            b.v[k] = qb::from_float<T>(args.a * qb::to_float(a.v[k]) + qb::to_float(b.v[k]));
        qb::store(reinterpret_cast<Vector*>(y) + i, b);
    }
    for (long long i = vectors * Width + first; i < args.count; i += stride)
        y[i] = qb::from_float<T>(args.a * qb::to_float(x[i]) + qb::to_float(y[i]));
}

// Blocks of a cluster add their numbers up in the first one's shared memory.
extern "C" __global__ void ranks(const __grid_constant__ AxpyArguments args) {
    unsigned int* mine = reinterpret_cast<unsigned int*>(qb::extern_shared());
    if (threadIdx.x == 0) *mine = 0;
    qb::cluster_sync();
    if (threadIdx.x == 0) atomicAdd(qb::in_cluster(mine, 0), qb::cluster_rank() + 1);
    qb::cluster_sync();
    if (threadIdx.x == 0) static_cast<float*>(args.y)[blockIdx.x] = static_cast<float>(*mine);
}
