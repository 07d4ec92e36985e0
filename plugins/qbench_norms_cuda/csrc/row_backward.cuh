// Gradients of a norm of rows, in one read of dy and x.
//
// A block walks rows with a fixed stride, rows ahead of the one at hand on their way into shared memory,
// and adds up the gradients of weight and bias in registers, each thread those of its own columns; what
// blocks have added up is summed by column_sum. dx depends on its row alone: which thread has which
// column, and so the tree of the row's two sums, follows from the length of the row.
//
//   h = ((x - x0) - offset) · rstd (layer), x · rstd (rms, l2);  g = dy · (multiplier + multiplier_offset)
//   layer  dx = rstd (g - mean(g) - h mean(g h))
//   rms    dx = rstd (g - h mean(g h))
//   l2     dx = rstd w (dy - h sum(dy h)), w the weight of the row, whose gradient is sum(dy h)
//   dtotal, what else flows into x, is added to dx;  dweight = sum(dy h), dbias = sum(dy) over rows
//
// (x - x0) - offset is taken as x minus the sum of both, which is known to twice the digits of a float.
//
// Rows longer than a block: a cluster holds one (blocks share its sums), or three launches do: sums of
// tiles (PHASE_SUMS), their total (row_sums), dx of tiles (PHASE_APPLY).
#pragma once

#include "async_copy.cuh"
#include "moments.cuh"
#include "row.cuh"
#include "words.cuh"

// Rows are in groups of `group_rows` that share the gradient of a multiplier: all rows do for a weight,
// those of one image where a condition scales it.
struct RowBackward {
    const void* dy;
    const void* x;
    const void* dtotal;
    const void* multiplier;  // 1 where null; l2: a number a row
    const float* offset;
    const float* rstd;
    void* dx;             // each output may be null
    void* gradients[2];   // of multiplier and addend: (groups, columns), or a row each; l2: (rows,)
    float* partial;       // (gradients, groups, parts, pitch), where a group has more than one part
    float* sums;          // PHASE_SUMS writes (rows, tiles, 2), PHASE_APPLY reads (rows, 2)
    long long columns;
    long long pitch;
    long long groups;
    long long group_rows;
    long long dy_stride;
    long long x_stride;
    long long dtotal_stride;
    long long steps[3];  // from a row of a block to its next, in elements of dy, x and dtotal
    long long dx_step;   // likewise of dx
    long long rest;      // group_rows is turns · parts · (rows that a block has at once) + rest
    long long multiplier_group_stride;
    long long multiplier_row_stride;
    int tiles;         // of a row, each of `tile_columns` but the last
    int tile_columns;
    int turns;         // of all blocks that share a group, beside the rest
    int parts;         // blocks that share a group
    int threads;       // of a row, in a block
    float multiplier_offset;
    float share;       // 1 / columns; l2: 1
};

enum Statistic { STATISTIC_LAYER, STATISTIC_RMS, STATISTIC_L2 };
enum Phase { PHASE_WHOLE, PHASE_SUMS, PHASE_APPLY };
// What becomes of the gradients of multiplier and addend: none, the first, or both are summed over the
// rows of a group, or written for each row.
enum Columns { COLUMNS_NONE, COLUMNS_FIRST, COLUMNS_BOTH, COLUMNS_EACH_ROW };

constexpr int MOST_THREADS = 512;

namespace qb {

// Rows on their way: STAGES rows of TENSORS tensors. A thread reads back only what it copied itself, so
// that no barrier is needed.
template <class T, int TENSORS, int ITEMS, int STAGES, int WIDTH>
struct Ring {
    Packed<T>* slots;  // of this thread; the next slot of it is a block further
    Place<T> place;

    __device__ __forceinline__ Packed<T>& at(int stage, int tensor, int item) const {
        return slots[((stage * TENSORS + tensor) * ITEMS + item) * static_cast<int>(blockDim.x)];
    }

    __device__ __forceinline__ Words<T> got(int stage, int tensor, int item) const {
        const auto loaded = load(reinterpret_cast<const Vec<unsigned, 4>*>(&at(stage, tensor, item)));
        return {loaded.v[0], loaded.v[1], loaded.v[2], loaded.v[3]};
    }

    // What lies beyond the row is 0, and stays so.
    __device__ __forceinline__ void clear() const {
#pragma unroll
        for (int item = 0; item < ITEMS; ++item)
            if (place.live(item) < LANES_OF<T>)
                for (int k = 0; k < STAGES * TENSORS; ++k) at(0, k, item) = Packed<T>{};
    }

    // `row`: from the first column of this thread on.
    __device__ __forceinline__ void fetch(const T* row, int stage, int tensor) const {
#pragma unroll
        for (int item = 0; item < ITEMS; ++item) {
            const T* from = row + item * place.step * LANES_OF<T>;
            T* to = at(stage, tensor, item).v;
#pragma unroll
            for (int k = 0; k < LANES_OF<T>; k += WIDTH)
                if (k < place.live(item))
                    copy_async(reinterpret_cast<Vec<T, WIDTH>*>(to + k), reinterpret_cast<const Vec<T, WIDTH>*>(from + k));
        }
    }
};

// What is known of a row before it is read.
template <int STATISTIC>
struct RowNumbers {
    float mean, rest, rstd, weight, g, gh;  // mean + rest: the mean, to twice the digits

    // x0 + offset, exactly: x - mean loses less than (x - x0) - offset, where x0 is far from the mean.
    __device__ __forceinline__ void set_mean(float x0, float offset) {
        mean = __fadd_rn(x0, offset);
        const float of_x0 = __fsub_rn(mean, offset);
        rest = __fadd_rn(__fsub_rn(x0, of_x0), __fsub_rn(offset, __fsub_rn(mean, of_x0)));
    }

    // x was a T: what the shorter form loses is nothing to numbers of 16 bits.
    template <class T>
    __device__ __forceinline__ float normalized(float x) const {
        if (STATISTIC != STATISTIC_LAYER) return x * rstd;
        return sizeof(T) == 2 ? fmaf(x - mean, rstd, -rest * rstd) : ((x - mean) - rest) * rstd;
    }
};

}  // namespace qb

template <class T, class M, int STATISTIC, int COLUMNS, int PHASE, int TENSORS, int ITEMS, int STAGES, int WIDTH>
struct RowBackwardBlock {
    static constexpr int LANES = qb::LANES_OF<T>;
    static constexpr int SUMMED = COLUMNS == COLUMNS_EACH_ROW || PHASE == PHASE_SUMS ? 0 : COLUMNS;
    using Numbers = qb::RowNumbers<STATISTIC>;
    using Pair = qb::Sums<2>;

    const RowBackward& a;
    qb::Ring<T, TENSORS, ITEMS, STAGES, WIDTH> ring;
    long long group, first_column;
    int tile, part, team, teams;
    int turns;  // rows of this thread
    // From this thread's first column on: the row to be fetched next, multipliers, and the row at hand.
    const T* next[TENSORS];
    const M* multiplier;
    long long to;
    float sums[SUMMED + 1][ITEMS][LANES];  // the last is not used, so that none has length 0
    // Short shares of 16-bit rows, whose conversions would take time twice, stay in registers: h between the
    // row's sums and dx, multipliers all the way.
    static constexpr bool KEPT = PHASE == PHASE_WHOLE && sizeof(T) == 2 && ITEMS * LANES <= 16;
    static constexpr int HELD = KEPT ? ITEMS : 1;
    float h_kept[HELD][LANES], m_kept[HELD][LANES];

    __device__ __forceinline__ explicit RowBackwardBlock(const RowBackward& arguments) : a(arguments) {
        locate();
        teams = blockDim.x / a.threads;
        team = threadIdx.x / a.threads;
        const long long left = a.columns - first_column;
        const int width = left < a.tile_columns ? static_cast<int>(left) : a.tile_columns;
        ring.slots = reinterpret_cast<qb::Packed<T>*>(qb::extern_shared()) + threadIdx.x;
        ring.place = {static_cast<int>(threadIdx.x) - team * a.threads, a.threads, width};
#pragma unroll
        for (int k = 0; k < SUMMED; ++k)
#pragma unroll
            for (int item = 0; item < ITEMS; ++item)
#pragma unroll
                for (int e = 0; e < LANES; ++e) sums[k][item][e] = 0.0f;
    }

    // Which part of the work is the block's. Found again at the end: while rows are walked, registers are
    // for their sums.
    __device__ __forceinline__ void locate() {
        unsigned block = blockIdx.x;
#ifndef QB_HOST_EMU
        asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
#endif
        tile = block % a.tiles;
        part = block / a.tiles % a.parts;
        group = block / a.tiles / a.parts;
        first_column = static_cast<long long>(tile) * a.tile_columns;
    }

    // Rows of a team: part · teams + team, and from there on every step-th.
    __device__ __forceinline__ long long step() const { return static_cast<long long>(a.parts) * teams; }
    __device__ __forceinline__ long long first_row() const { return static_cast<long long>(part) * teams + team; }
    __device__ __forceinline__ int turns_of(long long first) const { return a.turns + (first < a.rest); }

    // Multipliers of a row of this thread, from its first column on.
    __device__ __forceinline__ const M* multiplier_of(int turn) const {
        return multiplier + (first_row() + turn * step()) * a.multiplier_row_stride;
    }

    __device__ __forceinline__ void begin() {
        turns = turns_of(first_row());
        const long long row = group * a.group_rows + first_row(), column = first_column + ring.place.column(0);
        next[0] = static_cast<const T*>(a.dy) + row * a.dy_stride + column;
        next[1] = static_cast<const T*>(a.x) + row * a.x_stride + column;
        multiplier = static_cast<const M*>(a.multiplier) + group * a.multiplier_group_stride + column;
        to = row * a.columns + column;
        if (TENSORS == 3) next[TENSORS - 1] = static_cast<const T*>(a.dtotal) + row * a.dtotal_stride + column;
    }

    // Starts the copies of the next row, that of turn `turn`; none beyond the last one.
    __device__ __forceinline__ void fetch(int turn, int stage) {
        if (turn < turns) {
#pragma unroll
            for (int tensor = 0; tensor < TENSORS; ++tensor) ring.fetch(next[tensor], stage, tensor);
            if (STATISTIC != STATISTIC_L2 && a.multiplier && a.multiplier_row_stride)
#pragma unroll
                for (int item = 0; item < ITEMS; ++item)
                    if (ring.place.live(item) > 0)
                        qb::prefetch_line(multiplier_of(turn) + item * ring.place.step * LANES);
        }
        qb::end_of_copies();
#pragma unroll
        for (int tensor = 0; tensor < TENSORS; ++tensor) next[tensor] += a.steps[tensor];
    }

    __device__ __forceinline__ Numbers numbers(int turn, long long row) const {
        Numbers n{};
        if (turn >= turns) return n;
        n.rstd = a.rstd[row];
        if (STATISTIC == STATISTIC_LAYER)
            n.set_mean(qb::to_float(static_cast<const T*>(a.x)[row * a.x_stride]), a.offset[row]);
        if (STATISTIC == STATISTIC_L2)
            n.weight = a.multiplier ? qb::to_float(static_cast<const M*>(a.multiplier)[row]) + a.multiplier_offset : 1.0f;
        if (PHASE == PHASE_APPLY) {
            n.g = a.sums[2 * row];
            n.gh = a.sums[2 * row + 1];
        }
        return n;
    }

    // Elements that an item has in the row, where it has any: all, unless rows are moved in pieces.
    __device__ __forceinline__ int live(int item) const { return WIDTH == LANES ? LANES : ring.place.live(item); }

    // Multipliers of an item: 0 beyond the row.
    __device__ __forceinline__ void read_multipliers(int turn, int item, float (&m)[LANES]) const {
        if (STATISTIC == STATISTIC_L2 || !a.multiplier) {
#pragma unroll
            for (int e = 0; e < LANES; ++e) m[e] = 1.0f;
            return;
        }
        constexpr int EACH = qb::at_most(LANES, ELEMENTS<M>);
        const M* from = multiplier + item * ring.place.step * LANES;
        if (a.multiplier_row_stride) from = multiplier_of(turn) + item * ring.place.step * LANES;
#pragma unroll
        for (int k = 0; k < LANES; k += EACH) {
            // Threads whose rows have all been done go on to the end with the others.
            const bool has_row = turn < turns && ring.place.live(item) > 0;
            const int there = qb::at_most(has_row ? live(item) - k : 0, EACH);
            const auto got = load_words<qb::at_most(WIDTH, EACH), false>(from + k, there);
#pragma unroll
            for (int e = 0; e < EACH; ++e) m[k + e] = got.at(e) + a.multiplier_offset;
        }
    }

    __device__ __forceinline__ void keep_multipliers(int turn) {
        if (!KEPT) return;
#pragma unroll
        for (int item = 0; item < HELD; ++item) read_multipliers(turn, item, m_kept[item]);
    }

    // h of an item of a row.
    __device__ __forceinline__ void normalize(const Numbers& n, int stage, int item, float (&h)[LANES]) const {
        const Words<T> x = ring.got(stage, 1, item);
#pragma unroll
        for (int e = 0; e < LANES; ++e) h[e] = n.template normalized<T>(x.at(e));
    }

    // This thread's share of sum(g) and sum(g h).
    __device__ __forceinline__ Pair row_sums(const Numbers& n, int turn, int stage) {
        Pair s{};
#pragma unroll
        for (int item = 0; item < ITEMS; ++item) {
            float own_h[LANES], own_m[LANES];
            const Words<T> dy = ring.got(stage, 0, item);
            auto& h = KEPT ? h_kept[item % HELD] : own_h;
            auto& m = KEPT ? m_kept[item % HELD] : own_m;
            normalize(n, stage, item, h);
            if (!KEPT) read_multipliers(turn, item, m);
            Pair of_item{};
#pragma unroll
            for (int e = 0; e < LANES; ++e) {
                if (WIDTH < LANES && e >= live(item)) continue;
                const float g = dy.at(e) * m[e];
                if (STATISTIC == STATISTIC_LAYER) of_item.v[0] += g;
                of_item.v[1] += g * h[e];
            }
            // Beyond the row h may be infinite, where the mean is: 0 · h need not be 0.
            if (ring.place.live(item) > 0) s = qb::merged(s, of_item);
        }
        return s;
    }

    // Over all threads of the row, in all of them. All threads of the block (and cluster) call it.
    // `odd`: of alternate calls, so that one barrier a call suffices.
    __device__ __forceinline__ Pair over_row(Pair s, bool odd) const {
        QB_SHARED(Pair, warps, 2 * qb::MOST_WARPS);
        QB_SHARED(Pair, blocks, 2 * qb::MOST_BLOCKS_OF_CLUSTER);
        if (a.threads < qb::WARP) {
            for (int step = 1; step < a.threads; step *= 2) s = merged(s, qb::shuffled(s, step));
            return s;
        }
        if (a.threads == qb::WARP) return qb::over_lanes<qb::WARP>(s);
        s = qb::over_block(s, warps + odd * qb::MOST_WARPS);
        if (PHASE == PHASE_WHOLE && a.tiles > 1) s = qb::over_cluster(s, blocks + odd * qb::MOST_BLOCKS_OF_CLUSTER);
        return s;
    }

    // dx of a row, and what it adds to the gradients of multiplier and addend.
    __device__ __forceinline__ void apply(const Numbers& n, int turn, int stage) {
        const float mean_g = n.g * a.share, mean_gh = n.gh * a.share;
        const float scale = STATISTIC == STATISTIC_L2 ? n.rstd * n.weight : n.rstd;
#pragma unroll
        for (int item = 0; item < ITEMS; ++item) {
            float own_h[LANES], own_m[LANES];
            const Words<T> dy = ring.got(stage, 0, item);
            auto& h = KEPT ? h_kept[item % HELD] : own_h;
            auto& m = KEPT ? m_kept[item % HELD] : own_m;
            if (!KEPT) {
                normalize(n, stage, item, h);
                read_multipliers(turn, item, m);
            }
            const Words<T> dtotal = ring.got(stage, TENSORS - 1, item);  // where there are three
            qb::Packed<T> dx;
            qb::Vec<M, LANES> each[2];
#pragma unroll
            for (int e = 0; e < LANES; ++e) {
                const float d = dy.at(e);
                float through = d * m[e];
                if (STATISTIC == STATISTIC_LAYER) through -= mean_g;
                through = (through - h[e] * mean_gh) * scale;
                if (TENSORS == 3) through += dtotal.at(e);
                dx.v[e] = qb::from_float<T>(through);
                if (SUMMED > 0) sums[0][item][e] += d * h[e];
                if (SUMMED > 1) sums[1][item][e] += d;
                if (COLUMNS == COLUMNS_EACH_ROW) {
                    each[0].v[e] = qb::from_float<M>(d * h[e]);
                    each[1].v[e] = qb::from_float<M>(d);
                }
            }
            if (ring.place.live(item) <= 0) continue;
            const long long at = to + item * ring.place.step * LANES;
            if (a.dx) qb::store_part<WIDTH>(static_cast<T*>(a.dx) + at, dx, live(item));
            if (COLUMNS == COLUMNS_EACH_ROW)
#pragma unroll
                for (int k = 0; k < 2; ++k)
                    if (a.gradients[k]) qb::store_part<WIDTH>(static_cast<M*>(a.gradients[k]) + at, each[k], live(item));
        }
    }

    __device__ __forceinline__ void walk() {
        ring.clear();
        begin();
#pragma unroll
        for (int stage = 0; stage < STAGES - 1; ++stage) fetch(stage, stage);
        long long row = group * a.group_rows + first_row();
        if (turns) keep_multipliers(0);
        Numbers coming = numbers(0, row);
        int stage = 0;
        // As often for all teams, the first of which has the most rows: barriers are for all.
        const int all = turns_of(static_cast<long long>(part) * teams);
        for (int turn = 0; turn < all; ++turn) {
            Numbers n = coming;
            coming = numbers(turn + 1, row + step());
            fetch(turn + STAGES - 1, stage == 0 ? STAGES - 1 : stage - 1);
            if (a.multiplier_row_stride && turn && turn < turns) keep_multipliers(turn);
            qb::wait_for_copies<STAGES - 1>();
            if (PHASE != PHASE_APPLY) {
                const Pair s = over_row(row_sums(n, turn, stage), turn % 2);
                n.g = s.v[0];
                n.gh = s.v[1];
            }
            if (turn < turns) {
                if (PHASE == PHASE_SUMS) {
                    if (threadIdx.x < 2) a.sums[2 * (row * a.tiles + tile) + threadIdx.x] = threadIdx.x ? n.gh : n.g;
                } else {
                    apply(n, turn, stage);
                    if (STATISTIC == STATISTIC_L2 && tile == 0 && ring.place.first == 0 && a.gradients[0])
                        static_cast<M*>(a.gradients[0])[row] = qb::from_float<M>(n.gh);
                }
            }
            stage = stage == STAGES - 1 ? 0 : stage + 1;
            row += step();
            to += a.dx_step;
        }
    }

    // Four columns of gradient k, summed over the rows of this block.
    __device__ __forceinline__ void give(int k, int column, const qb::Vec<float, 4>& sum) const {
        const long long at = first_column + column;
        if (a.parts > 1) {
            float* to = a.partial + ((k * a.groups + group) * a.parts + part) * a.pitch + at;
            qb::store(reinterpret_cast<qb::Vec<float, 4>*>(to), sum);
            return;
        }
        M* to = static_cast<M*>(a.gradients[k]) + group * a.columns + at;
#pragma unroll
        for (int e = 0; e < 4; ++e)
            if (column + e < ring.place.n) to[e] = qb::from_float<M>(sum.v[e]);
    }

    __device__ __forceinline__ qb::Vec<float, 4> four(int k, int item, int e) const {
        return {sums[k][item][e], sums[k][item][e + 1], sums[k][item][e + 2], sums[k][item][e + 3]};
    }

    __device__ __forceinline__ void give_all() {
        locate();
        constexpr int FOURS = LANES / 4;
#pragma unroll
        for (int k = 0; k < SUMMED; ++k) {
            if (!a.gradients[k]) continue;
            if (teams == 1) {
#pragma unroll
                for (int item = 0; item < ITEMS; ++item)
#pragma unroll
                    for (int e = 0; e < LANES; e += 4)
                        if (ring.place.live(item) > e) give(k, ring.place.column(item) + e, four(k, item, e));
                continue;
            }
            // Teams have the same columns: add them up where their rows were.
            auto* shared = reinterpret_cast<qb::Vec<float, 4>*>(qb::extern_shared());
            __syncthreads();
#pragma unroll
            for (int item = 0; item < ITEMS; ++item)
#pragma unroll
                for (int e = 0; e < LANES; e += 4)
                    shared[(item * FOURS + e / 4) * blockDim.x + threadIdx.x] = four(k, item, e);
            __syncthreads();
            for (int i = threadIdx.x; i < ITEMS * FOURS * a.threads; i += blockDim.x) {
                const int lane = i % a.threads, which = i / a.threads;
                const int column = (which / FOURS * a.threads + lane) * LANES + which % FOURS * 4;
                if (column >= ring.place.n) continue;
                qb::Vec<float, 4> sum = shared[which * blockDim.x + lane];
                for (int other = 1; other < teams; ++other)
#pragma unroll
                    for (int e = 0; e < 4; ++e) sum.v[e] += shared[which * blockDim.x + other * a.threads + lane].v[e];
                give(k, column, sum);
            }
        }
    }
};

// Blocks: tiles · parts · groups, tiles fastest, a cluster of `tiles` where PHASE_WHOLE has several.
// Threads: `threads` of one row where those are more than a warp, else whole warps of several rows.
// Shared memory: STAGES · TENSORS · ITEMS · threads of the block · 16 bytes.
template <class T, class M, int STATISTIC, int COLUMNS, int PHASE, int TENSORS, int ITEMS, int STAGES, int WIDTH>
__global__ void __launch_bounds__(MOST_THREADS, 1) row_backward(const __grid_constant__ RowBackward a) {
    qb::wait_for_previous_grid();
    if (PHASE == PHASE_WHOLE && a.tiles > 1) qb::cluster_sync();  // all blocks of it are there
    RowBackwardBlock<T, M, STATISTIC, COLUMNS, PHASE, TENSORS, ITEMS, STAGES, WIDTH> block(a);
    block.walk();
    qb::release_next_grid();
    block.give_all();
}

// (rows, tiles, 2) to (rows, 2); a block a row.
struct RowSums {
    const float* partial;
    float* sums;
    long long tiles;
};

__global__ void __launch_bounds__(256) row_sums(const __grid_constant__ RowSums a) {
    using Pair = qb::Sums<2>;
    QB_SHARED(Pair, warps, qb::MOST_WARPS);
    qb::wait_for_previous_grid();
    Pair s{};
    for (long long tile = threadIdx.x; tile < a.tiles; tile += blockDim.x) {
        const auto got = qb::load_once(reinterpret_cast<const qb::Vec<float, 2>*>(a.partial) + blockIdx.x * a.tiles + tile);
        s = qb::merged(s, Pair{got.v[0], got.v[1]});
    }
    s = qb::over_block(s, warps);
    if (threadIdx.x < 2) a.sums[2ll * blockIdx.x + threadIdx.x] = s.v[threadIdx.x];
}
