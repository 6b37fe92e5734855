// The next tiles of a (TILE rows) and b (COLUMNS columns), DEPTH deep, held in registers. The
// including file defines these and THREADS; P is a problem as in convolution.cuh.

#include "digits.cuh"

// What a side of the product asks the problem for; a "line" is a row of a or a column of b.
template <class P> struct SideA {
    typedef typename P::A Number;
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
    typedef float Number;
    typedef int Line;
    typedef typename P::DepthB Depth;
    static constexpr bool along_depth = !P::b_along_columns;
    static constexpr int length = COLUMNS;
    __device__ static Line line(const P& p, int column) { return column; }
    __device__ static Depth depth(const P& p, int d) { return p.b_depth(d); }
    __device__ static Radix radix(const P& p) { return p.b_radix(); }
    __device__ static auto at(const P& p, int column, const Depth& d) { return p.b_at(d, column); }
};

template <class T, int numbers> struct __align__(numbers * sizeof(T)) Vector {
    static constexpr int length = numbers;
    T at[numbers];
};

// A thread's vectors of one tile. They have one depth and different lines, or the
// same lines and different depths, depending on the axis that is contiguous in memory. TOGETHER:
// each is fetched as 16 bytes; else it has four numbers, fetched one by one.
template <class P, class ItsSide, bool AS_VECTOR> struct Vectors {
    typedef ItsSide Side;
    typedef typename Side::Number Number;
    static constexpr bool DEEP = Side::along_depth, TOGETHER = AS_VECTOR;
    static constexpr int LENGTH = TOGETHER ? 16 / sizeof(Number) : 4;
    static constexpr int IN_LINE = (DEEP ? DEPTH : Side::length) / LENGTH;  // vectors
    static constexpr int COUNT = Side::length * DEPTH / LENGTH / THREADS;
    static constexpr int EACH = TOGETHER ? 1 : LENGTH, PASS = THREADS / IN_LINE;
    typedef Vector<Number, LENGTH> Held;
    Held held[COUNT];
    typename Side::Line lines[DEEP ? COUNT : EACH];
    typename Side::Depth depths[DEEP ? EACH : 1], step;
    int depth;  // of the first number

    // Line and depth of the i-th vector in the tile.
    __device__ static int line_in_tile(int i) {
        return DEEP ? threadIdx.x / IN_LINE + i * PASS : threadIdx.x % IN_LINE * LENGTH;
    }
    __device__ static int depth_in_tile(int i) {
        return DEEP ? threadIdx.x % IN_LINE * LENGTH : threadIdx.x / IN_LINE + i * PASS;
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
    // Return where the j-th number of the next vector, the i-th, is; none is at `end` or beyond.
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
    // Call take(i) for each vector, with at() at the present depth, and go on.
    template <class Take> __device__ void each(const P& p, Take take) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            take(i);
            if (!DEEP) go_on(p);  // all COUNT steps together are DEPTH
        }
        if (DEEP) go_on(p);
    }
    // Fetch the numbers at the present depth, without those at `end` or beyond, and go on.
    __device__ void load(const P& p, int end) {
        each(p, [&](int i) {
            if (TOGETHER) {
                auto entry = at(p, i, 0, end);
                held[i] = {};
                if (entry.inside) held[i] = *(const Held*)entry.from;
            } else {
#pragma unroll
                for (int j = 0; j < LENGTH; j++) {
                    auto entry = at(p, i, j % EACH, end);
                    held[i].at[j] = entry.inside ? *entry.from : Number{};
                }
            }
        });
    }
    // Pass each vector to put(line, depth, vector), which puts it into shared memory.
    template <class Put> __device__ void store(Put put) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) put(line_in_tile(i), depth_in_tile(i), held[i]);
    }
};

template <class P, bool TOGETHER> struct Fetch {
    Vectors<P, SideA<P>, TOGETHER> a;
    Vectors<P, SideB<P>, TOGETHER> b;

    __device__ Fetch(const P& p, int row0, int column0, int start)
        : a(p, row0, start), b(p, column0, start) {}
};
