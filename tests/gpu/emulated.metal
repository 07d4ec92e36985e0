// Kernels that ask one thing each of the emulated Apple GPU.
#include <metal_stdlib>
using namespace metal;

constant constexpr uint kSimdgroup = 32;

// Sum of squares of each row, times `factor`; T: the type, a macro.
kernel void row_norm(
    device const T* x [[buffer(0)]],
    device T* y [[buffer(1)]],
    constant float& factor [[buffer(2)]],
    constant uint& columns [[buffer(3)]],
    uint row [[threadgroup_position_in_grid]],
    uint me [[thread_position_in_threadgroup]],
    uint threads [[threads_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    threadgroup float partial[kSimdgroup];
    threadgroup float scale[1];
    x += row * columns;
    y += row * columns;
    float sum = 0;
    for (uint i = me; i < columns; i += threads) {
        const float value = float(x[i]);
        sum += value * value;
    }
    sum = simd_sum(sum);
    if (lane == 0) partial[simdgroup] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simdgroup == 0) {
        const uint count = (threads + kSimdgroup - 1) / kSimdgroup;
        const float total = simd_sum(lane < count ? partial[lane] : 0.0f);
        if (lane == 0) *scale = metal::precise::rsqrt(total / float(columns)) * factor;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    threadgroup const float* where = scale;
    for (uint i = me; i < columns; i += threads) y[i] = T(float(x[i]) * where[0]);
}

kernel void positions(
    device uint* out [[buffer(0)]],
    uint3 at [[thread_position_in_grid]],
    uint3 of [[threads_per_grid]],
    uint3 inside [[thread_position_in_threadgroup]],
    uint3 size [[threads_per_threadgroup]],
    uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]],
    uint me [[thread_index_in_threadgroup]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]],
    ushort width [[threads_per_simdgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]]) {
    device uint* mine = out + 8 * (at.x + of.x * (at.y + of.y * at.z));
    mine[0] = inside.x + size.x * (inside.y + size.y * inside.z) == me;
    mine[1] = group.x * size.x + inside.x == at.x && group.y * size.y + inside.y == at.y;
    mine[2] = groups.x * size.x == of.x && groups.z * size.z == of.z && group.z * size.z + inside.z == at.z;
    mine[3] = me;
    mine[4] = lane;
    mine[5] = simdgroup;
    mine[6] = width;
    mine[7] = simdgroups;
}

// All reductions and shuffles, of one simdgroup.
kernel void lanes(
    device const float* x [[buffer(0)]],
    device float* out [[buffer(1)]],
    uint me [[thread_position_in_grid]]) {
    const float mine = x[me];
    device float* row = out + 9 * me;
    row[0] = simd_sum(mine);
    row[1] = simd_max(mine);
    row[2] = simd_min(mine);
    row[3] = simd_shuffle_xor(mine, 1);
    row[4] = simd_shuffle_down(mine, 1);
    row[5] = simd_shuffle_up(mine, 1);
    row[6] = simd_broadcast(mine, 2);
    row[7] = simd_any(mine == 3.0f);
    row[8] = simd_all(mine < 3.0f);
}

kernel void convert(
    device const float* x [[buffer(0)]],
    device T* narrow [[buffer(1)]],
    device float* wide [[buffer(2)]],
    uint me [[thread_position_in_grid]]) {
    narrow[me] = static_cast<T>(x[me]);
    wide[me] = narrow[me];
}

kernel void vectors(
    device const float4* x [[buffer(0)]],
    device half4* y [[buffer(1)]],
    device float* dots [[buffer(2)]],
    uint me [[thread_position_in_grid]]) {
    float4 v = x[me] * 2.0f + float4(1, 0, 0, 1);
    v -= 0.5f;
    v[1] = clamp(v.y, -1.0f, 1.0f);
    y[me] = half4(v);
    dots[me] = dot(v, float4(x[me].x, 1, 1, as_type<float>(0x40000000u)));
}

// One mistake a choice.
kernel void mistake(
    device float* out [[buffer(0)]],
    constant int& choice [[buffer(1)]],
    uint me [[thread_position_in_threadgroup]]) {
    threadgroup float small[8];
    if (choice == 0 && me < 32) threadgroup_barrier(mem_flags::mem_threadgroup);
    if (choice == 0 && me >= 32) out[me] = simd_sum(1.0f), simdgroup_barrier(mem_flags::mem_none);
    if (choice == 1 && me % 32 < 16) out[me] = simd_sum(1.0f);
    if (choice == 2) small[8] = 1;
    if (choice == 3) out[me] = small[me % 8];
    if (choice == 4) {
        if (me < 32) out[me] = simd_sum(1.0f);
        if (me == 0) simdgroup_barrier(mem_flags::mem_none);
        else threadgroup_barrier(mem_flags::mem_threadgroup);
    }
}

kernel void count_all(
    device atomic_uint* counter [[buffer(0)]],
    uint me [[thread_position_in_grid]]) {
    atomic_fetch_add_explicit(counter, me, memory_order_relaxed);
}
