// Kernels with and without the barriers that they need.
#include "qbench/device.cuh"

struct Arguments {
    float* out;
    int choice;
};

// The sum of the block, in all threads.
__device__ float block_sum(float x, float* partial) {
    for (int lane = 16; lane > 0; lane /= 2) x += qb::shfl_xor(x, lane);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0.0f;
    for (int warp = 0; warp < blockDim.x / 32; ++warp) x += partial[warp];
    return x;
}

// Two sums. choice: 0 each with its scratch; 1 the same one after a barrier; 2 the same one at once.
__global__ void two_sums(const __grid_constant__ Arguments args) {
    QB_SHARED(float, first, 4);
    QB_SHARED(float, second, 4);
    const float one = block_sum(1.0f, first);
    if (args.choice == 1) __syncthreads();
    args.out[threadIdx.x] = one + block_sum(threadIdx.x, args.choice ? first : second);
}

// Values of the thread before. choice: 0 right; 1 without the barrier; 2 without it within a warp;
// 3 with a shuffle in its place; 4 with a barrier of half of the warp; 5 within a warp, right.
__global__ void before(const __grid_constant__ Arguments args) {
    float* shared = reinterpret_cast<float*>(qb::extern_shared());
    const int me = threadIdx.x, lane = me % 32;
    shared[me] = me;
    if (args.choice == 0) __syncthreads();
    if (args.choice == 3) qb::shfl(0.0f, 0);
    if (args.choice == 4) __syncwarp(lane < 16 ? 0x0000ffffu : 0xffff0000u);
    if (args.choice == 5) __syncwarp();
    const bool alone = args.choice >= 2;
    args.out[me] = me == 0 || (alone && lane == 0) ? -1.0f : shared[me - 1];
}

// A buffer that is read while the other one is written. choice: 0 two buffers; 1 one.
__global__ void rounds(const __grid_constant__ Arguments args) {
    float* shared = reinterpret_cast<float*>(qb::extern_shared());
    float sum = 0.0f;
    for (int round = 0; round < 5; ++round) {
        float* buffer = shared + (args.choice ? 0 : round % 2 * blockDim.x);
        buffer[threadIdx.x] = round;
        __syncthreads();
        sum += buffer[(threadIdx.x + 1) % blockDim.x];
    }
    args.out[threadIdx.x] = sum;
}

// Warps work with what lanes of their own wrote, and read it only before they shuffle and write again.
__global__ void warps(const __grid_constant__ Arguments args) {
    float* shared = reinterpret_cast<float*>(qb::extern_shared());
    const int me = threadIdx.x;
    float x = me;
    for (int round = 0; round < 3; ++round) {
        shared[me] = x;
        __syncwarp();
        x = qb::shfl(shared[me ^ 1], me % 32 ^ 2);
    }
    args.out[me] = x;
}

// Bytes and halves of one word belong to different threads. choice: 0 right; 1 a byte of the neighbour.
__global__ void narrow(const __grid_constant__ Arguments args) {
    unsigned char* bytes = qb::extern_shared();
    __half* halves = reinterpret_cast<__half*>(bytes + 64);
    bytes[threadIdx.x] = threadIdx.x;
    halves[threadIdx.x] = __float2half(threadIdx.x);
    if (args.choice) bytes[threadIdx.x ^ 1] = 0;
    args.out[threadIdx.x] = bytes[threadIdx.x] + __half2float(halves[threadIdx.x]);
}

// choice: 0 right; 1 read without a barrier; 2 some threads add without atomics.
__global__ void counted(const __grid_constant__ Arguments args) {
    QB_SHARED(int, count, 1);
    if (threadIdx.x == 0) *count = 0;
    __syncthreads();
    if (args.choice == 2 && threadIdx.x == 7) *count += 1;
    else atomicAdd(count, 1);
    if (args.choice != 1) __syncthreads();
    args.out[threadIdx.x] = *count;
}

// Each block writes into the next one of its cluster. choice: 0 right; 1 only the block's own barrier
// before it is read; 2 a second value over one that may not have been read; 3 read between an arrival and
// the wait for the others; 4 written before the next block is known to have started.
__global__ void ring(const __grid_constant__ Arguments args) {
    float* shared = reinterpret_cast<float*>(qb::extern_shared());
    const int me = threadIdx.x;
    if (args.choice != 4) qb::cluster_sync();
    float* next = qb::in_cluster(shared, (qb::cluster_rank() + 1) % qb::cluster_size());
    next[me] = blockIdx.x;
    if (args.choice == 1) __syncthreads();
    else if (args.choice == 3) qb::cluster_arrive();
    else qb::cluster_sync();
    const float got = shared[me ^ 32];
    if (args.choice == 3) qb::cluster_wait();
    if (args.choice == 0) qb::cluster_sync();
    if (args.choice == 0 || args.choice == 2) qb::in_cluster(shared, (qb::cluster_rank() + 1) % qb::cluster_size())[me] = 0.0f;
    qb::cluster_sync();
    args.out[blockIdx.x * blockDim.x + me] = got;
}

// What a thread copies and others read. choice: 0 right; 1 the barrier is before the wait;
// 2 the next copy starts while others still read.
__global__ void copied(const __grid_constant__ Arguments args) {
    float* shared = reinterpret_cast<float*>(qb::extern_shared());
    const int me = threadIdx.x;
#ifdef QB_HOST_EMU
    for (int round = 0; round < 2; ++round) {
        qb_host::runtime->copy_async(shared + me, args.out + me, sizeof(float));
        qb_host::runtime->commit_copies();
        if (args.choice == 1) __syncthreads();
        qb_host::runtime->wait_for_copies(0);
        if (args.choice != 1) __syncthreads();
        args.out[64 + me] = shared[me ^ 33];
        if (args.choice != 2) __syncthreads();
    }
#endif
}

// A struct that is moved whole.
struct Three {
    float v[5];
};
__global__ void structs(const __grid_constant__ Arguments args) {
    QB_SHARED(Three, table, 64);
    Three mine;
    for (int i = 0; i < 5; ++i) mine.v[i] = threadIdx.x;
    table[threadIdx.x] = mine;
    if (args.choice == 0) __syncthreads();
    const Three other = table[threadIdx.x ^ 32];
    args.out[threadIdx.x] = other.v[args.choice];
}

// A value in global memory that one thread writes for the others of its block.
// choice: 0 right; 1 without a barrier; 2 by each thread for itself; 3 the sum of the block by atomics.
__global__ void global(const __grid_constant__ Arguments args) {
    float* mine = args.out + blockIdx.x * 64;
    if (args.choice == 3) {
        atomicAdd(mine, 1.0f);
        return;
    }
    if (threadIdx.x == 3 || args.choice == 2) mine[args.choice == 2 ? threadIdx.x : 0] = 1.0f;
    if (args.choice == 0) __syncthreads();
    const float got = args.choice == 2 ? mine[threadIdx.x] : mine[0];
    if (got == 5.0f) mine[threadIdx.x] = got;
}

// Every block writes the same place: who comes last is left open, which blocks alone may do.
__global__ void last_block(const __grid_constant__ Arguments args) {
    if (threadIdx.x == 0) args.out[0] = args.out[1] + blockIdx.x;
}
