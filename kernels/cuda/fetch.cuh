// The next tiles of a (TILE rows) and b (COLUMNS columns), DEPTH deep, held in registers. The
// including file defines these and THREADS; P is a problem as in convolution.cuh.

#include "digits.cuh"

// What a side of the product asks the problem for; a "line" is a row of a or a column of b.
template <class P> struct SideA {
    typedef typename P::A Vector;
    typedef typename P::Row Line;
    typedef typename P::DepthA Depth;
    static constexpr bool along_depth = P::a_along_depth;
    static constexpr int length = TILE;
    __device__ static Line line(const P& p, int row) { return p.a_row(row); }
    __device__ static Depth depth(const P& p, int d) { return p.a_depth(d); }
    __device__ static Radix radix(const P& p) { return p.a_radix(); }
    __device__ static auto at(const P& p, const Line& row, const Depth& d) {
        return p.a_at(row, d);
    }
};

template <class P> struct SideB {
    typedef float4 Vector;
    typedef int Line;
    typedef typename P::DepthB Depth;
    static constexpr bool along_depth = !P::b_along_columns;
    static constexpr int length = COLUMNS;
    __device__ static Line line(const P& p, int column) { return column; }
    __device__ static Depth depth(const P& p, int d) { return p.b_depth(d); }
    __device__ static Radix radix(const P& p) { return p.b_radix(); }
    __device__ static auto at(const P& p, int column, const Depth& d) { return p.b_at(d, column); }
};

// A thread's vectors of four numbers of one tile. They have one depth and different lines, or the
// same lines and different depths, depending on the axis that is contiguous in memory. TOGETHER:
// the four numbers are fetched as one vector; else one by one.
template <class P, class Side, bool TOGETHER> struct Vectors {
    static constexpr bool DEEP = Side::along_depth;
    static constexpr int COUNT = Side::length * DEPTH / 4 / THREADS;
    static constexpr int EACH = TOGETHER ? 1 : 4;
    static constexpr int PASS = THREADS / ((DEEP ? DEPTH : Side::length) / 4);
    typename Side::Vector four[COUNT];
    typename Side::Line lines[DEEP ? COUNT : EACH];
    typename Side::Depth depths[DEEP ? EACH : 1], step;
    int depth;  // of the first number

    // Line and depth of the i-th vector in the tile.
    __device__ static int line_in_tile(int i) {
        if (DEEP) return threadIdx.x / (DEPTH / 4) + i * PASS;
        return threadIdx.x % (Side::length / 4) * 4;
    }
    __device__ static int depth_in_tile(int i) {
        if (DEEP) return threadIdx.x % (DEPTH / 4) * 4;
        return threadIdx.x / (Side::length / 4) + i * PASS;
    }
    __device__ Vectors(const P& p, int line0, int start)
        : depth(start + depth_in_tile(0)) {
#pragma unroll
        for (int i = 0; i < (DEEP ? COUNT : EACH); i++) {
            lines[i] = Side::line(p, line0 + line_in_tile(DEEP ? i : 0) + (DEEP ? 0 : i));
        }
#pragma unroll
        for (int i = 0; i < (DEEP ? EACH : 1); i++) depths[i] = Side::depth(p, depth + i);
        step = Side::depth(p, DEEP ? DEPTH : PASS);
    }
    // Return where the j-th number of the next vector, the i-th, is.
    __device__ auto at(const P& p, int i, int j, int end) const {
        auto entry = Side::at(p, lines[DEEP ? i : j], depths[DEEP ? j : 0]);
        entry.inside = entry.inside && depth + (DEEP ? j : 0) < end;
        return entry;
    }
    __device__ void go_on(const P& p) {
        depth += DEEP ? DEPTH : PASS;
#pragma unroll
        for (int i = 0; i < (DEEP ? EACH : 1); i++) depths[i].add(step, Side::radix(p));
    }
    // Fetch the numbers at the present depth, without those at `end` or beyond, and go on.
    __device__ void load(const P& p, int end) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if (TOGETHER) {
                auto entry = at(p, i, 0, end);
                four[i] = {};
                if (entry.inside) four[i] = *(const typename Side::Vector*)entry.from;
            } else {
                float numbers[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    auto entry = at(p, i, j % EACH, end);
                    numbers[j] = entry.inside ? float(*entry.from) : 0.0f;
                }
                four[i] = {numbers[0], numbers[1], numbers[2], numbers[3]};
            }
            if (!DEEP) go_on(p);  // all COUNT steps together are DEPTH
        }
        if (DEEP) go_on(p);
    }
    // Pass each vector to put(line, depth, vector), which puts it into shared memory.
    template <class Put> __device__ void store(Put put) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) put(line_in_tile(i), depth_in_tile(i), four[i]);
    }
};

template <class P, bool TOGETHER> struct Fetch {
    Vectors<P, SideA<P>, TOGETHER> a;
    Vectors<P, SideB<P>, TOGETHER> b;

    __device__ Fetch(const P& p, int row0, int column0, int start)
        : a(p, row0, start), b(p, column0, start) {}
    __device__ void load(const P& p, int end) { a.load(p, end), b.load(p, end); }
};
