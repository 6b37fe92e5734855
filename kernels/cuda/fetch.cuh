// What a block needs next of a and of b, TILE x DEPTH numbers each, on its way through registers.
// The file that includes this one defines TILE, DEPTH, THREADS; P is as in convolution.cuh.

#define EACH (TILE * DEPTH / THREADS)  // numbers of a and of b that a thread fetches

template <class P> struct Fetch {
    float a[EACH], b[EACH];

    // a: neighbouring threads have neighbouring depths, which lie together in x; b: columns.
    __device__ void load(const P& p, int row0, int column0, int start) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int at = threadIdx.x + i * THREADS;
            int row = row0 + at / DEPTH, d = start + at % DEPTH;
            a[i] = row < p.rows() && d < p.depth() ? p.a(row, d) : 0.0f;
            int column = column0 + at % TILE;
            d = start + at / TILE;
            b[i] = column < p.columns() && d < p.depth() ? p.b(d, column) : 0.0f;
        }
    }
};
