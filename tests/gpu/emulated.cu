// Kernels that ask one thing each of the emulator, rightly or wrongly.
#include "qbench/device.cuh"

struct Arguments {
    const void* in;
    void* out;
    long long count;
    int choice, value;
};

__device__ int rank_in_block() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

__global__ void indices(const __grid_constant__ Arguments args) {
    const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const int threads = blockDim.x * blockDim.y * blockDim.z;
    int* out = static_cast<int*>(args.out) + 6 * (block * threads + rank_in_block());
    out[0] = threadIdx.x, out[1] = threadIdx.y, out[2] = threadIdx.z;
    out[3] = blockIdx.x, out[4] = blockIdx.y, out[5] = blockIdx.z;
}

// choice: 0 the lane given, 1 up, 2 down, 3 exclusive or
template <class T>
__global__ void shuffle(const __grid_constant__ Arguments args) {
    const int lane = threadIdx.x, width = static_cast<int>(args.count);
    const T mine = static_cast<const T*>(args.in)[lane];
    T got = mine;
    if (args.choice == 0) got = __shfl_sync(0xffffffffu, mine, args.value, width);
    if (args.choice == 1) got = __shfl_up_sync(0xffffffffu, mine, args.value, width);
    if (args.choice == 2) got = __shfl_down_sync(0xffffffffu, mine, args.value, width);
    if (args.choice == 3) got = __shfl_xor_sync(0xffffffffu, mine, args.value, width);
    static_cast<T*>(args.out)[lane] = got;
}

// Both halves of a warp shuffle on their own, the upper one more often.
__global__ void half_warps(const __grid_constant__ Arguments args) {
    const bool upper = threadIdx.x >= 16;
    const unsigned mask = upper ? 0xffff0000u : 0x0000ffffu;
    float sum = static_cast<const float*>(args.in)[threadIdx.x];
    for (int offset = 8; offset; offset /= 2) sum += __shfl_xor_sync(mask, sum, offset);
    if (upper) sum += __shfl_sync(mask, sum, 16);
    __syncwarp();
    static_cast<float*>(args.out)[threadIdx.x] = sum;
}

__global__ void votes(const __grid_constant__ Arguments args) {
    const int mine = static_cast<const int*>(args.in)[threadIdx.x];
    int* out = static_cast<int*>(args.out) + 9 * threadIdx.x;
    out[0] = static_cast<int>(__ballot_sync(0xffffffffu, mine & 1));
    out[1] = __any_sync(0xffffffffu, mine == 5);
    out[2] = __all_sync(0xffffffffu, mine < 60);
    out[3] = __syncthreads_or(mine == 63);
    out[4] = __syncthreads_and(mine < 63);
    out[5] = __syncthreads_count(mine % 3 == 0);
#if QB_ARCH >= 800
    out[6] = __reduce_add_sync(0xffffffffu, mine - 40);
    out[7] = __reduce_min_sync(0xffffffffu, mine - 40);
    out[8] = __reduce_max_sync(0xffffffffu, mine - 40);
#endif
}

// Every thread gives its number to the one before it; choice: whether to wait between.
__global__ void neighbours(const __grid_constant__ Arguments args) {
    float* shared = reinterpret_cast<float*>(qb::extern_shared());
    shared[threadIdx.x] = threadIdx.x;
    if (args.choice) __syncthreads();
    float* out = static_cast<float*>(args.out) + blockIdx.x * blockDim.x;
    out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

// Reads shared memory that was never written.
__global__ void unwritten(const __grid_constant__ Arguments args) {
    QB_SHARED(float, scratch, 4);
    const unsigned char* shared = qb::extern_shared();
    float* out = static_cast<float*>(args.out);
    out[0] = *reinterpret_cast<const float*>(shared);
    out[1] = qb::to_float(*reinterpret_cast<const __half*>(shared + 4));
    out[2] = qb::to_float(*reinterpret_cast<const __nv_bfloat16*>(shared + 6));
    out[3] = scratch[0];
    __syncthreads();
    scratch[0] = 1, *reinterpret_cast<float*>(qb::extern_shared()) = 1;
}

// Threads from `value` on end at once; the others meet twice.
__global__ void early_exit(const __grid_constant__ Arguments args) {
    if (rank_in_block() >= args.value) return;
    float* shared = reinterpret_cast<float*>(qb::extern_shared());
    shared[threadIdx.x] = 1;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < args.value; ++i) sum += shared[i];
    const int voted = __syncthreads_count(1);
    static_cast<float*>(args.out)[threadIdx.x] = sum + voted;
}

// One mistake a choice.
__global__ void mistake(const __grid_constant__ Arguments args) {
    unsigned char* shared = qb::extern_shared();
    const int me = threadIdx.x;
    int* out = static_cast<int*>(args.out);
    switch (args.choice) {
        case 0:  // the block's barrier for some, the cluster's for the others
            if (me < 32) __syncthreads();
            else qb::cluster_sync();
            break;
        case 1:  // two kinds of barrier
            if (me < 32) __syncthreads();
            else __syncthreads_or(1);
            break;
        case 2:  // half a warp has ended
            if (me < 16) return;
            out[me] = __shfl_xor_sync(0xffffffffu, me, 1);
            break;
        case 3:  // half a warp ends later
            if (me % 32 < 16) out[me] = __shfl_xor_sync(0xffffffffu, me, 1);
            break;
        case 4:  // only some of the lanes that are named
            if (me % 32 < 16) out[me] = __shfl_xor_sync(0xffffffffu, me, 1);
            else __syncthreads();
            break;
        case 5:  // a lane outside the mask
            if (me % 32 < 16) out[me] = __shfl_xor_sync(0x0000ffffu, me, 16);
            break;
        case 6:  // a mask without its caller
            out[me] = __shfl_sync(0x0000ffffu, me, 0);
            break;
        case 7:  // one byte too far
            if (me == 0) shared[args.value] = 1;
            break;
        case 8: {
            QB_SHARED(int, small, 4);
            if (me == 0) small[args.value] = 1;
            break;
        }
        case 9: assert(me < 7); break;
        case 10: if (me == 3) __trap(); break;
        case 11: out[me] = me / args.value; break;
        case 12: *reinterpret_cast<int*>(16ll) = 1; break;
        case 13: {
            using Four = qb::Vec<float, 4>;
            qb::store(reinterpret_cast<Four*>(static_cast<char*>(args.out) + 4), Four{});
            break;
        }
        case 14: while (*static_cast<volatile int*>(args.out) == 0) __nanosleep(10); break;
        case 15: qb::cluster_wait(); break;
        case 16: qb::cluster_arrive(), qb::cluster_arrive(); break;
        case 17: qb::in_cluster(out, 0); break;
        case 18: qb::in_cluster(shared, qb::cluster_size()); break;
        case 19: out[me] = __shfl_sync(0xffffffffu, me, 0, 7); break;
        case 20: {
            QB_SHARED(char, big, 40 * 1024);
            big[me] = 0;
            break;
        }
        case 21:  // one thread more often than the others
            __syncthreads();
            if (me == 0) __syncwarp();
            else if (me < 32) __syncthreads();
            break;
        case 22: if (me % 2) __syncwarp(); else out[me] = __ballot_sync(0xffffffffu, 1); break;
    }
}

__device__ __noinline__ int deep(volatile int* counter, int left) {
    volatile char local[512];
    local[0] = static_cast<char>(left);
    *counter = *counter + 1;
    return left == 0 ? 0 : deep(counter, left - 1) + local[0];
}

__global__ void recursion(const __grid_constant__ Arguments args) {
    static_cast<int*>(args.out)[1] = deep(static_cast<int*>(args.out), args.value);
}

// Every block reads what the next one of its cluster wrote. choice: 0 right; 1 without the last barrier;
// 2 without the first; 3 the first block ends at once; 4 writes to a block that has ended.
__global__ void cluster_ring(const __grid_constant__ Arguments args) {
    QB_SHARED(int, count, 1);
    int* shared = reinterpret_cast<int*>(qb::extern_shared());
    const int rank = qb::cluster_rank(), size = qb::cluster_size();
    if (args.choice == 3 && rank == 0) return;
    shared[threadIdx.x] = 1000 * blockIdx.x + threadIdx.x;
    if (threadIdx.x == 0) *count = blockIdx.x;
    int* peer = qb::in_cluster(shared, (rank + 1) % size);
    if (args.choice != 2) qb::cluster_sync();
    if (args.choice == 4) {
        if (rank == 1) return;
        for (int turn = 0; turn < 100; ++turn) __nanosleep(10);
        *peer = 1;
        return;
    }
    peer = qb::in_cluster(shared, (rank + 1) % size);
    const int* peers_count = qb::in_cluster(count, (rank + 1) % size);
    static_cast<int*>(args.out)[blockIdx.x * blockDim.x + threadIdx.x] = peer[threadIdx.x] + 1000000 * *peers_count;
    if (args.choice != 1) qb::cluster_arrive(), qb::cluster_wait();
}

// Sums of all threads of the grid; the last block to arrive writes what it was.
__global__ void atomics(const __grid_constant__ Arguments args) {
    auto* out = static_cast<unsigned*>(args.out);
    const unsigned me = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&out[0], me);
    atomicMax(reinterpret_cast<int*>(&out[1]), static_cast<int>(me));
    atomicMin(&out[2], me);
    atomicOr(&out[3], 1u << (me % 32));
    atomicAdd(reinterpret_cast<float*>(&out[4]), 0.5f);
    atomicCAS(&out[5], 0u, 7u);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0 && atomicInc(&out[6], gridDim.x - 1) == gridDim.x - 1) atomicExch(&out[7], blockIdx.x + 1);
}

// `choice` rounds: each block adds 1 and then reads what all have added.
__global__ void rounds(const __grid_constant__ Arguments args) {
    auto* counters = static_cast<unsigned long long*>(args.out);
    for (int round = 1; round <= args.choice; ++round) {
        if (threadIdx.x == 0) atomicAdd(&counters[1], 1ull);
        qb::grid_sync(counters);
        if (threadIdx.x == 0 && counters[1] != 1ull * round * gridDim.x) atomicAdd(&counters[2], 1ull);
        qb::grid_sync(counters);
    }
}

// choice: 0 e4m3, 1 e5m2, 2 int8; one, two or four numbers at once must agree
__global__ void codes(const __grid_constant__ Arguments args) {
    const float* x = static_cast<const float*>(args.in);
    auto* out = static_cast<unsigned char*>(args.out);
    for (long long i = 4 * threadIdx.x; i + 3 < args.count; i += 4 * blockDim.x) {
        for (int j = 0; j < 4; ++j) {
            if (args.choice == 0) out[i + j] = qb::to_e4m3(x[i + j]);
            if (args.choice == 1) out[i + j] = qb::to_e5m2(x[i + j]);
            if (args.choice == 2) out[i + j] = static_cast<unsigned char>(qb::to_int8(x[i + j]));
        }
        if (args.choice == 2) continue;
        unsigned four = 0;
        for (int j = 3; j >= 0; --j) four = four << 8 | out[i + j];
        const bool e4m3 = args.choice == 0;
        const unsigned low = e4m3 ? qb::to_e4m3(x[i], x[i + 1]) : qb::to_e5m2(x[i], x[i + 1]);
        const unsigned all = e4m3 ? qb::to_e4m3(x[i], x[i + 1], x[i + 2], x[i + 3])
                                  : qb::to_e5m2(x[i], x[i + 1], x[i + 2], x[i + 3]);
        assert(all == four && low == (four & 0xffffu));
    }
}

template <class T>
__global__ void round_to(const __grid_constant__ Arguments args) {
    for (long long i = threadIdx.x; i < args.count; i += blockDim.x)
        static_cast<T*>(args.out)[i] = qb::from_float<T>(static_cast<const float*>(args.in)[i]);
}

template <class T>
__global__ void widen(const __grid_constant__ Arguments args) {
    for (long long i = threadIdx.x; i < args.count; i += blockDim.x)
        static_cast<float*>(args.out)[i] = qb::to_float(static_cast<const T*>(args.in)[i]);
}

// choice: 0 reciprocal root, 1 quotient by `value`, 2 product and sum without contraction
__global__ void arithmetic(const __grid_constant__ Arguments args) {
    const float* x = static_cast<const float*>(args.in);
    float* out = static_cast<float*>(args.out);
    for (long long i = threadIdx.x; i < args.count; i += blockDim.x) {
        if (args.choice == 0) out[i] = qb::inv_sqrt(x[i]);
        if (args.choice == 1) out[i] = qb::divide(x[i], static_cast<float>(args.value));
        if (args.choice == 2) out[i] = __fadd_rn(__fmul_rn(x[i], x[i]), -x[i]);
    }
}

// Copies vectors of N from an offset of `count` elements.
template <class T, int N>
__global__ void copy(const __grid_constant__ Arguments args) {
    using Vector = qb::Vec<T, N>;
    const long long at = args.count / N + threadIdx.x;
    const Vector* from = static_cast<const Vector*>(args.in);
    Vector* to = static_cast<Vector*>(args.out);
    if (args.choice) qb::store_once(to + at, qb::load_once(from + at));
    else qb::store(to + at, qb::load(from + at));
}

__global__ void architecture(const __grid_constant__ Arguments args) { *static_cast<int*>(args.out) = QB_ARCH; }

// Something long, for two launches at once.
__global__ void count_up(const __grid_constant__ Arguments args) {
    int* shared = reinterpret_cast<int*>(qb::extern_shared());
    for (int i = 0; i < args.value; ++i) {
        if (threadIdx.x == i % blockDim.x) shared[0] = i;
        __syncthreads();
        assert(shared[0] == i);
        __syncthreads();
    }
    if (threadIdx.x == 0) atomicAdd(static_cast<int*>(args.out), args.value);
}

// Copies of two batches, of which `choice` are waited for.
__global__ void copies(const __grid_constant__ Arguments args) {
#ifdef QB_HOST_EMU
    float* shared = reinterpret_cast<float*>(qb::extern_shared()) + 2 * threadIdx.x;
    const float* in = static_cast<const float*>(args.in) + 2 * threadIdx.x;
    for (int batch = 0; batch < 2; ++batch) {
        qb_host::runtime->copy_async(shared + batch, in + batch, sizeof(float));
        qb_host::runtime->commit_copies();
    }
    qb_host::runtime->wait_for_copies(2 - args.choice);
    for (int batch = 0; batch < 2; ++batch) static_cast<float*>(args.out)[2 * threadIdx.x + batch] = shared[batch];
#endif
}
