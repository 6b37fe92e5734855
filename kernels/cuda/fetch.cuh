// The next tiles of a (TILE rows) and b (COLUMNS columns), DEPTH deep, held in registers. The
// including file defines these and THREADS; P is a problem as in convolution.cuh.

#include "digits.cuh"
#include "vector.cuh"

#ifndef LANES
#define LANES THREADS  // that read one depth of a line across the depth, at most
#endif
#ifndef ONE_BY_ONE
#define ONE_BY_ONE 4  // neighbours of a thread; 1: neighbouring threads fetch neighbours
#endif

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

// A thread's vectors of one tile: AT_ONCE lines at one depth, and the same lines at other depths;
// if vectors are along the depth, all at one depth. TOGETHER: each is fetched as 16 bytes; else it
// has four numbers, fetched one by one. Across the depth it has ONE_BY_ONE numbers instead.
template <class P, class ItsSide, bool AS_VECTOR> struct Vectors {
    typedef ItsSide Side;
    typedef typename Side::Number Number;
    static constexpr bool DEEP = Side::along_depth, TOGETHER = AS_VECTOR;
    static constexpr int LENGTH = TOGETHER ? 16 / sizeof(Number) : DEEP ? 4 : ONE_BY_ONE;
    static constexpr int EACH = TOGETHER ? 1 : LENGTH;
    static constexpr int IN_LINE = (DEEP ? DEPTH : Side::length) / LENGTH;  // vectors
    static constexpr int COUNT = Side::length * DEPTH / LENGTH / THREADS;
    static constexpr int MOST = DEEP ? IN_LINE : TOGETHER ? LANES : Side::length / 4;
    static constexpr int ALONG = MOST < IN_LINE ? MOST : IN_LINE;  // threads
    static constexpr int PASS = THREADS / ALONG, AT_ONCE = DEEP ? COUNT : IN_LINE / ALONG;
    typedef Vector<Number, LENGTH> Held;
    Held held[COUNT];
    typename Side::Line lines[DEEP ? COUNT : AT_ONCE * EACH];
    typename Side::Depth depth, step;  // of the next vector

    // Line and depth of the i-th vector in the tile, and their differences from the first one's.
    __device__ static int line_in_pass(int i) {
        return DEEP ? i * PASS : i % AT_ONCE * ALONG * LENGTH;
    }
    __device__ static int depth_in_pass(int i) { return DEEP ? 0 : i / AT_ONCE * PASS; }
    __device__ static int line_in_tile(int i) {
        return (DEEP ? threadIdx.x / ALONG : threadIdx.x % ALONG * LENGTH) + line_in_pass(i);
    }
    __device__ static int depth_in_tile(int i) {
        return (DEEP ? threadIdx.x % ALONG * LENGTH : threadIdx.x / ALONG) + depth_in_pass(i);
    }
    __device__ Vectors(const P& p, int line0, int start) {
#pragma unroll
        for (int i = 0; i < (DEEP ? COUNT : AT_ONCE * EACH); i++) {
            int line = DEEP ? line_in_tile(i) : line_in_tile(i / EACH) + i % EACH;
            lines[i] = Side::line(p, line0 + line);
        }
        depth = Side::depth(p, start + depth_in_tile(0));
        step = Side::depth(p, DEEP ? DEPTH : PASS);
    }
    // Return where the j-th number of the next vector, the i-th, is; `left`: depths from the tile's
    // first to the end.
    __device__ auto at(const P& p, int i, int j, int left) const {
        typename Side::Depth its_depth = depth;
#pragma unroll
        for (int k = 0; k < (DEEP ? j : 0); k++) its_depth.add_one(Side::radix(p));
        auto entry = Side::at(p, lines[DEEP ? i : i % AT_ONCE * EACH + j], its_depth);
        entry.inside = entry.inside && depth_in_tile(i) + (DEEP ? j : 0) < left;
        return entry;
    }
    // Call take(i) for each vector, with at() at the present depth, and go on.
    template <class Take> __device__ void each(const P& p, Take take) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            take(i);
            if ((i + 1) % AT_ONCE == 0) depth.add(step, Side::radix(p));  // all steps: DEPTH
        }
    }
    // Fetch the numbers at the present depth and go on; left: as for at().
    __device__ void load(const P& p, int left) {
        each(p, [&](int i) {
            if (TOGETHER) {
                auto entry = at(p, i, 0, left);
                held[i] = {};
                if (entry.inside) held[i] = *(const Held*)entry.from;
            } else {
#pragma unroll
                for (int j = 0; j < LENGTH; j++) {
                    auto entry = at(p, i, j % EACH, left);
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
