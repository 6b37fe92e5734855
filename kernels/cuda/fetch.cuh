// The next tiles of a (TILE rows) and b (COLUMNS columns), DEPTH deep, held in registers. The
// including file defines these and THREADS; P is a problem as in convolution.cuh.

#define FETCH_A (TILE * DEPTH / 4 / THREADS)     // vectors of a that a thread fetches
#define FETCH_B (COLUMNS * DEPTH / 4 / THREADS)  // vectors of b

// Fetch four numbers as one vector, or one by one if p.vector() is false.
#define FOUR(Vector, result, together, one, inside)                                  \
    Vector result = {};                                                              \
    if (p.vector()) {                                                                \
        const int j = 0;                                                             \
        if (inside) result = together;                                               \
    } else {                                                                         \
        float numbers[4] = {};                                                       \
        _Pragma("unroll") for (int j = 0; j < 4; j++) if (inside) numbers[j] = one;  \
        result = {numbers[0], numbers[1], numbers[2], numbers[3]};                   \
    }

template <class P> struct Fetch {
    typedef typename P::A A;
    A a[FETCH_A];
    float4 b[FETCH_B];

    // The position of the thread's i-th vector in a tile; `fast` is the contiguous axis.
    __device__ static void place(int i, int length, int& fast, int& slow) {
        int at = threadIdx.x + i * THREADS;
        fast = at % (length / 4) * 4;
        slow = at / (length / 4);
    }
    __device__ void load(const P& p, int row0, int column0, int start, int end) {
#pragma unroll
        for (int i = 0; i < FETCH_A; i++) {
            int row, d;
            if (P::a_along_depth) {
                place(i, DEPTH, d, row);
                row += row0, d += start;
                FOUR(A, four, p.a4(row, d), p.a(row, d + j), row < p.rows() && d + j < end);
                a[i] = four;
            } else {
                place(i, TILE, row, d);
                row += row0, d += start;
                FOUR(A, four, p.a4(row, d), p.a(row + j, d), row + j < p.rows() && d < end);
                a[i] = four;
            }
        }
#pragma unroll
        for (int i = 0; i < FETCH_B; i++) {
            int column, d;
            if (P::b_along_columns) {
                place(i, COLUMNS, column, d);
                column += column0, d += start;
                FOUR(float4, four, p.b4(d, column), p.b(d, column + j),
                     column + j < p.columns() && d < end);
                b[i] = four;
            } else {
                place(i, DEPTH, d, column);
                column += column0, d += start;
                FOUR(float4, four, p.b4(d, column), p.b(d + j, column),
                     column < p.columns() && d + j < end);
                b[i] = four;
            }
        }
    }
    // Pass each vector to to_a or to_b, which put it into shared memory at (fast, slow).
    template <class ToA, class ToB> __device__ void store(ToA to_a, ToB to_b) const {
        int fast, slow;
#pragma unroll
        for (int i = 0; i < FETCH_A; i++) {
            place(i, P::a_along_depth ? DEPTH : TILE, fast, slow);
            to_a(fast, slow, a[i]);
        }
#pragma unroll
        for (int i = 0; i < FETCH_B; i++) {
            place(i, P::b_along_columns ? COLUMNS : DEPTH, fast, slow);
            to_b(fast, slow, b[i]);
        }
    }
};
